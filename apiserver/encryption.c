/* Resources become prefixes of keys. The first entry that names a resource counts: "secrets", "deployments.apps", "*.apps",
 * "*." (the core group), "*.*". What is not built in is a custom resource, whose keys begin with its group. */
#include "apiserver/encryption.h"

#include "pkg/store/seal.h"
#include "pkg/yaml/yaml.h"

enum { CONFIG_MAX = 1 << 20, ENTRIES_MAX = 256, PREFIXES_MAX = 4096 };

struct encryption {
    struct arena *arena;
    struct seals *seals[ENTRIES_MAX];
    size_t n_seals, n, cap;
    struct sealed_prefix *prefixes;
};

static int add(struct encryption *x, const char *prefix, bool custom, const struct seals *k, struct err *e) {
    if (x->n == PREFIXES_MAX) return err_set(e, -EINVAL, "more than %d resources", PREFIXES_MAX);
    ARENA_GROW(x->arena, x->prefixes, x->n, x->cap);
    x->prefixes[x->n++] = (struct sealed_prefix){arena_strdup(x->arena, prefix), custom, k};
    return 0;
}

/* One name of "resources". */
static int add_resource(struct encryption *x, const struct resource_table *t, const char *name, const struct seals *k,
                        struct err *e) {
    const char *dot = strchr(name, '.'), *group = dot ? dot + 1 : "";
    size_t len = dot ? (size_t)(dot - name) : strlen(name);
    bool all = len == 1 && *name == '*', any_group = str_eq(group, "*"), found = false;
    if (!len || (!all && strchr(name, '*')) || (all && !dot) || (any_group && !all))
        return err_set(e, -EINVAL, "resources: Invalid value: \"%s\"", name);
    for (size_t i = 0; i < resource_table_len(t); i++) {
        const struct resource *r = resource_table_at(t, i);
        bool same = strlen(r->plural) == len && strncmp(r->plural, name, len) == 0;
        if (r->stored != RES_STORED || r->storage || !(all || same) || !(any_group || str_eq(r->group, group)))
            continue;
        int rc = add(x, r->key_prefix, false, k, e);
        if (rc) return rc;
        found = true;
    }
    if (any_group) return add(x, "/registry/", true, k, e);
    if (found && !all) return 0;
    if (!*group && !found) return err_set(e, -EINVAL, "resources: Invalid value: \"%s\": no such resource", name);
    if (!*group || (all && found)) return 0;
    return add(x, arena_printf(x->arena, all ? "/registry/%s/" : "/registry/%s/%.*s/", group, (int)len, name), false, k,
               e);
}

static int read_entries(struct encryption *x, const struct resource_table *t, const struct json *doc, struct err *e) {
    const struct json *it, *name;
    if (!str_eq(json_get_str(doc, "kind"), "EncryptionConfiguration"))
        return err_set(e, -EINVAL, "no EncryptionConfiguration");
    if (!json_len(json_get(doc, "resources"))) return err_set(e, -EINVAL, "resources: Required value");
    JSON_FOREACH(it, json_get(doc, "resources")) {
        if (x->n_seals == ENTRIES_MAX) return err_set(e, -EINVAL, "more than %d entries", ENTRIES_MAX);
        int rc = seals_new(json_get(it, "providers"), &x->seals[x->n_seals], e);
        if (!rc) x->n_seals++;
        if (!rc && !json_len(json_get(it, "resources"))) rc = err_set(e, -EINVAL, "resources: Required value");
        JSON_FOREACH(name, json_get(it, "resources"))
            if (!rc) rc = add_resource(x, t, str_or_empty(json_as_str(name)), x->seals[x->n_seals - 1], e);
        if (rc) return err_wrap(e, "resources[%zu]", it_i), rc;
    }
    return 0;
}

int encryption_open(const char *path, const struct resource_table *resources, struct store **store,
                    struct encryption **out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *text = NULL;
    struct json *doc = NULL;
    size_t len;
    int rc = file_read(path, CONFIG_MAX, &text, &len);
    if (rc) return err_errno(e, rc, "%s", path);
    struct encryption *x = xcalloc(1, sizeof(*x));
    x->arena = arena_new_sized(512);
    rc = yaml_parse_one(a, text, len, &doc, NULL, e);
    if (!rc) rc = read_entries(x, resources, doc, e);
    explicit_bzero(text, len);
    if (rc) {
        encryption_free(x);
        return err_wrap(e, "%s", path), rc;
    }
    *store = store_sealed_new(*store, x->prefixes, x->n);
    *out = x;
    return 0;
}

void encryption_free(struct encryption *x) {
    if (!x) return;
    for (size_t i = 0; i < x->n_seals; i++) seals_free(x->seals[i]);
    arena_free(x->arena);
    free(x);
}
