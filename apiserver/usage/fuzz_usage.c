/* libFuzzer: a kubelet's answer. What was read is found again. */
#include "apiserver/usage/usage.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    struct usage_sample *s = NULL;
    if (usage_parse((const char *)p, n, &s, NULL)) return 0;
    for (size_t i = 0; i < s->n; i++) {
        size_t many;
        const struct usage_point *x = &s->points[i];
        if (usage_find(s, x->ns, x->pod, x->container) != x) abort();
        if (!usage_pod(s, x->ns, x->pod, &many)) abort();
    }
    usage_sample_free(s);
    return 0;
}
