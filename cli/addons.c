/* The manifests are in cli/addons/ and come into the program as text (pkg/base/embed.py). */
#include "cli/addons.h"

#include "pkg/yaml/yaml.h"

extern const char addon_nodes[], addon_dns[], addon_local_path[];

static const struct {
    const char *manifest;
    bool storage; /* only with --local-storage */
} addons[] = {{addon_nodes, false}, {addon_dns, false}, {addon_local_path, true}};

static const struct client_resource *const kinds[] = {&client_clusterroles, &client_clusterrolebindings,
                                                      &client_services, &client_storageclasses};

static int call(struct client *c, const char *method, const char *path, const char *body, struct err *e) {
    struct client_request rq = {.method = method, .path = path, .body = body, .body_len = body ? strlen(body) : 0};
    struct client_response rs = {0};
    int r = client_do(c, &rq, &rs, e);
    client_response_done(&rs);
    return r;
}

/* A Service that is there already is refused for its address, which is taken (by itself), before its name. */
static bool exists(struct client *c, struct arena *a, const char *path, const char *name) {
    return call(c, "GET", arena_printf(a, "%s/%s", path, name), NULL, NULL) == 0;
}

static int ensure(struct client *c, struct arena *a, const struct json *obj, struct err *e) {
    const char *kind = json_get_str(obj, "kind"), *path = NULL;
    const struct json *meta = json_get(obj, "metadata");
    for (size_t i = 0; i < ARRAY_LEN(kinds) && !path; i++)
        if (str_eq(kinds[i]->kind, kind)) path = client_path(a, kinds[i], json_get_str(meta, "namespace"), NULL, NULL);
    if (!path) return err_set(e, -EINVAL, "cannot set up the cluster: a manifest of kind %s", str_or_empty(kind));
    _cleanup_err_ struct err why = {0};
    int r = call(c, "POST", path, json_text(a, obj), &why);
    if (r < 0 && !client_err_exists(&why) && !exists(c, a, path, json_get_str(meta, "name")))
        return err_set(e, r, "cannot set up the cluster: %s", why.msg);
    return 0;
}

int addons_ensure(const struct layout *l, struct client *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(addons); i++) {
        if (addons[i].storage && !str_eq(l->local_storage, "true")) continue;
        const char *text = addons[i].manifest, *at = strstr(text, "@DNS@");
        if (at) text = arena_printf(a, "%.*s%s%s", (int)(at - text), text, l->cluster_dns, at + strlen("@DNS@"));
        struct yaml_docs docs = {0};
        int r = yaml_parse(a, text, strlen(text), &docs, NULL, e);
        for (size_t k = 0; r == 0 && k < docs.n; k++) r = ensure(c, a, docs.items[k], e);
        if (r < 0) return r;
    }
    return 0;
}
