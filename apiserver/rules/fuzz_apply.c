/* libFuzzer: server-side apply by two managers. The input is three JSON texts, parted by newlines, behind a byte that chooses
 * the kind and one that says whether to force. The first is applied by "a", the second by "b", the third by "a" again. What
 * was applied once is applied again without a change. */
#include "apiserver/rules/strategy.h"

static const struct {
    const char *group, *version, *kind, *plural;
} kinds[] = {{"", "v1", "ConfigMap", "configmaps"},
             {"", "v1", "Service", "services"},
             {"apps", "v1", "Deployment", "deployments"},
             {"", "v1", "Pod", "pods"},
             {"rbac.authorization.k8s.io", "v1", "Role", "roles"}};

static struct json *content(struct arena *a, const struct json *obj) {
    struct json *o = json_clone(a, obj);
    json_del(json_get(o, "metadata"), "managedFields"); /* fields that nobody owns get an owner at the next apply */
    return o;
}

/* The object after `config` was applied to `live` (may be NULL); NULL when that is refused. */
static struct json *apply(struct rules_ctx *c, const char *manager, struct json *live, struct json *config,
                          bool force) {
    struct json *once = NULL, *twice = NULL;
    _cleanup_err_ struct err e = {0};
    bool changed;
    c->field_manager = manager;
    if (!json_is(config, JSON_OBJECT) || ssa_apply(c, live, config, force, &once, &changed, &e)) return NULL;
    if (ssa_apply(c, once, config, false, &twice, &changed, &e)) abort();
    if (!json_equal(content(c->a, once), content(c->a, twice))) abort();
    struct json *norm = NULL; /* as it is stored, and read again */
    return api_tree_normalise(c->a, c->type, twice, &norm, NULL, NULL) ? NULL : norm;
}

/* A configuration as the API server hands it over: its types fit, members may be unknown. NULL when it is refused. */
static struct json *config_parse(const struct rules_ctx *c, const char *text) {
    struct json *config, *checked;
    struct api_problems unknown = {0};
    if (json_parse(c->a, text, strlen(text), &config, NULL, NULL)) return NULL;
    return api_tree_normalise(c->a, c->type, json_clone(c->a, config), &checked, &unknown, NULL) ? NULL : config;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    if (n < 3 || memchr(p, 0, n)) return 0;
    struct arena *a = arena_new();
    size_t k = p[0] % ARRAY_LEN(kinds);
    struct rules *r = NULL;
    struct rules_config conf = {.service_cidr = "10.0.0.0/28"};
    char *text = arena_strndup(a, (const char *)p + 2, n - 2), *line;
    struct json *configs[3] = {NULL}, *live = NULL;
    if (rules_new(&conf, &r, NULL)) abort();
    struct rules_ctx c = {.rules = r,
                          .a = a,
                          .group = kinds[k].group,
                          .version = kinds[k].version,
                          .kind = kinds[k].kind,
                          .resource = kinds[k].plural,
                          .namespaced = true,
                          .ns = "n",
                          .type = api_type_find(kinds[k].group, kinds[k].version, kinds[k].kind)};
    for (size_t i = 0; i < 3 && (line = strsep(&text, "\n")); i++) configs[i] = config_parse(&c, line);
    for (size_t i = 0; i < 3 && configs[i]; i++) {
        struct json *next = apply(&c, i == 1 ? "b" : "a", live, configs[i], p[1] >> i & 1);
        if (next) live = next;
    }
    rules_free(r);
    arena_free(a);
    return 0;
}
