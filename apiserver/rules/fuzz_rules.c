/* libFuzzer: the input is two JSON texts parted by a newline: an object and a patch (or an applied
 * configuration). The first byte chooses how it is patched, the second the kind. Then the result is
 * normalised, defaulted and validated, as a request's would be. Nothing may crash, and an apply that succeeds
 * must succeed again. */
#include "apiserver/rules/strategy.h"

static const struct {
    const char *group, *version, *kind, *plural;
} kinds[] = {{"", "v1", "Pod", "pods"},
             {"", "v1", "Service", "services"},
             {"apps", "v1", "Deployment", "deployments"},
             {"apps", "v1", "StatefulSet", "statefulsets"},
             {"batch", "v1", "CronJob", "cronjobs"},
             {"networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"},
             {"apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"},
             {"storage.k8s.io", "v1", "CSIDriver", "csidrivers"}};

static void as_request(struct rules_ctx *c, struct json *obj) {
    struct json *out;
    struct err e = {0};
    if (api_tree_normalise(c->a, c->type, obj, &out, NULL, NULL)) return;
    rules_default(c, out);
    managed_fields_update(c, out, NULL);
    if (rules_prepare_create(c, out, &e) == 0) rules_validate_create(c, out, &e);
    rules_release(c);
    err_done(&e);
}

static void applied(struct rules_ctx *c, const struct json *live, const struct json *config) {
    struct json *once, *twice;
    bool changed;
    if (!json_is(live, JSON_OBJECT) || !json_is(config, JSON_OBJECT)) return;
    if (ssa_apply(c, live, config, true, &once, &changed, NULL)) return;
    if (ssa_apply(c, once, config, false, &twice, &changed, NULL)) abort();
    as_request(c, twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static const char *const types[] = {"application/json-patch+json", "application/merge-patch+json",
                                        "application/strategic-merge-patch+json"};
    const uint8_t *cut = n > 2 ? memchr(p + 2, '\n', n - 2) : NULL;
    if (!cut) return 0;
    struct arena *a = arena_new();
    struct rules *r = NULL;
    struct rules_config conf = {.service_cidr = "10.0.0.0/28"};
    size_t k = p[1] % ARRAY_LEN(kinds), len = (size_t)(p + n - cut - 1);
    struct json *doc, *config, *out;
    if (rules_new(&conf, &r, NULL) == 0 &&
        json_parse(a, (const char *)p + 2, (size_t)(cut - p - 2), &doc, NULL, NULL) == 0) {
        struct rules_ctx c = {.rules = r,
                              .a = a,
                              .group = kinds[k].group,
                              .version = kinds[k].version,
                              .kind = kinds[k].kind,
                              .resource = kinds[k].plural,
                              .namespaced = true,
                              .ns = "n",
                              .field_manager = "f",
                              .type = api_type_find(kinds[k].group, kinds[k].version, kinds[k].kind)};
        if (p[0] % 4 < 3) {
            struct api_problems strict = {0};
            if (patch_apply(&c, types[p[0] % 4], doc, (const char *)cut + 1, len, &out, &strict, NULL) == 0)
                as_request(&c, out);
        } else if (json_parse(a, (const char *)cut + 1, len, &config, NULL, NULL) == 0) {
            applied(&c, doc, config);
        }
    }
    rules_free(r);
    arena_free(a);
    return 0;
}
