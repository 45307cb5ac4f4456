/* See swap.h. */
#include "kubelet/swap.h"

#include <unistd.h>

enum { MEMINFO_MAX = 64 * 1024 };

/* "SwapTotal:       2097148 kB" */
static int64_t amount_of(const char *text, const char *name) {
    const char *p = strstr(text, name);
    return p ? strtoll(p + strlen(name), NULL, 10) * 1024 : 0;
}

struct swap swap_of_machine(const char *mount, const char *meminfo, const char *behavior) {
    struct swap s = {.limited = str_eq(behavior, "LimitedSwap")};
    _cleanup_free_ char *text = NULL, *v2 = xasprintf("%s/cgroup.controllers", mount),
                        *file = xasprintf("%s/kubepods/memory.swap.max", mount);
    if (file_read(meminfo, MEMINFO_MAX, &text, NULL) < 0) return s;
    s.memory = amount_of(text, "MemTotal:");
    s.amount = amount_of(text, "SwapTotal:");
    s.available = s.amount > 0 && access(v2, F_OK) == 0 && access(file, F_OK) == 0;
    return s;
}

bool swap_allowed(const struct swap *s, const struct core_pod *p, const struct core_container *c) {
    struct quantity request = container_resource(c, "memory", false, NULL),
                    limit = container_resource(c, "memory", true, NULL);
    if (!s->available || !s->limited || pod_is_critical(p) || !str_eq(pod_qos_class(p), "Burstable")) return false;
    return request.nano > 0 && quantity_cmp(request, limit) != 0;
}

int64_t swap_limit(const struct swap *s, const struct core_pod *p, const struct core_container *c) {
    if (!s->available) return -1;
    if (!swap_allowed(s, p, c) || s->memory <= 0) return 0;
    double part = (double)quantity_value(container_resource(c, "memory", false, NULL)) / (double)s->memory;
    return (int64_t)(part * (double)s->amount);
}
