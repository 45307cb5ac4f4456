/* Resources become prefixes of keys. The first entry that names a resource counts: "secrets", "deployments.apps", "*.apps",
 * "*." (the core group), "*.*". What is not built in is a custom resource, whose keys begin with its group. */
#include "apiserver/encryption.h"

#include <openssl/evp.h>
#include <pthread.h>

#include "pkg/store/envelope.h"
#include "pkg/store/seal.h"
#include "pkg/yaml/yaml.h"

enum { CONFIG_MAX = 1 << 20, ENTRIES_MAX = 256, PREFIXES_MAX = 4096 };

/* What one reading of the file gave. */
struct reading {
    struct arena *arena;
    struct seals *seals[ENTRIES_MAX];
    size_t n_seals, n, cap;
    struct sealed_prefix *prefixes;
    unsigned char hash[EVP_MAX_MD_SIZE];
};

struct encryption {
    char *path;
    bool reload;
    const struct resource_table *resources;
    struct store *store;
    pthread_rwlock_t lock; /* of now, for the checks */
    struct reading *now;
};

static int add(struct reading *x, const char *prefix, bool custom, const struct seals *k, struct err *e) {
    if (x->n == PREFIXES_MAX) return err_set(e, -EINVAL, "more than %d resources", PREFIXES_MAX);
    ARENA_GROW(x->arena, x->prefixes, x->n, x->cap);
    x->prefixes[x->n++] = (struct sealed_prefix){arena_strdup(x->arena, prefix), custom, k};
    return 0;
}

/* One name of "resources". */
static int add_resource(struct reading *x, const struct resource_table *t, const char *name, const struct seals *k,
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

static int read_entries(struct reading *x, const struct resource_table *t, const struct json *doc, struct err *e) {
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

static void reading_free(struct reading *r) {
    if (!r) return;
    for (size_t i = 0; i < r->n_seals; i++) seals_free(r->seals[i]);
    arena_free(r->arena);
    free(r);
}

/* The i-th key management plugin of all entries. */
static struct envelope *plugin(const struct reading *r, size_t i) {
    for (size_t k = 0; k < r->n_seals; k++)
        for (size_t j = 0; seals_kms(r->seals[k], j); j++)
            if (i-- == 0) return seals_kms(r->seals[k], j);
    return NULL;
}

/* Values name their plugin, so that there can be but one of a name. */
static int check_names(const struct reading *r, struct err *e) {
    struct envelope *x, *y;
    for (size_t i = 0; (x = plugin(r, i)); i++)
        for (size_t j = 0; j < i && (y = plugin(r, j)); j++)
            if (str_eq(envelope_name(x), envelope_name(y)))
                return err_set(e, -EINVAL, "kms.name: Invalid value: \"%s\": provider name is not unique",
                               envelope_name(x));
    return 0;
}

/* `was`: a reading of the same text is not made again (*out NULL). */
static int read_file(struct encryption *x, const struct reading *was, struct reading **out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *text = NULL;
    unsigned char hash[EVP_MAX_MD_SIZE] = {0};
    struct json *doc = NULL;
    size_t len;
    *out = NULL;
    int rc = file_read(x->path, CONFIG_MAX, &text, &len);
    if (rc) return err_errno(e, rc, "%s", x->path);
    EVP_Digest(text, len, hash, NULL, EVP_sha256(), NULL);
    struct reading *r = was && memcmp(was->hash, hash, sizeof(hash)) == 0 ? NULL : xcalloc(1, sizeof(*r));
    if (r) {
        r->arena = arena_new_sized(512);
        memcpy(r->hash, hash, sizeof(hash));
        rc = yaml_parse_one(a, text, len, &doc, NULL, e);
        if (!rc) rc = read_entries(r, x->resources, doc, e);
        if (!rc) rc = check_names(r, e);
    }
    explicit_bzero(text, len);
    if (rc) {
        reading_free(r);
        return err_wrap(e, "%s", x->path), rc;
    }
    *out = r;
    return 0;
}

int encryption_open(const char *path, bool reload, const struct resource_table *resources, struct store **store,
                    struct encryption **out, struct err *e) {
    struct encryption *x = xcalloc(1, sizeof(*x));
    x->path = xstrdup(path);
    x->reload = reload;
    x->resources = resources;
    pthread_rwlock_init(&x->lock, NULL);
    int rc = read_file(x, NULL, &x->now, e);
    if (rc) {
        encryption_free(x);
        return rc;
    }
    *store = x->store = store_sealed_new(*store, x->now->prefixes, x->now->n);
    *out = x;
    return 0;
}

int encryption_reload(struct encryption *x, struct err *e) {
    struct reading *r = NULL, *was = x->now;
    struct envelope *p;
    int rc = x->reload ? read_file(x, was, &r, e) : 0;
    if (rc || !r) return rc;
    for (size_t i = 0; !rc && (p = plugin(r, i)); i++) rc = envelope_check(p, e);
    if (rc) {
        reading_free(r);
        return rc;
    }
    store_sealed_replace(x->store, r->prefixes, r->n);
    pthread_rwlock_wrlock(&x->lock);
    x->now = r;
    pthread_rwlock_unlock(&x->lock);
    reading_free(was);
    return 1;
}

void encryption_free(struct encryption *x) {
    if (!x) return;
    reading_free(x->now);
    pthread_rwlock_destroy(&x->lock);
    free(x->path);
    free(x);
}

/* ---- health ---- */

bool encryption_has_check(struct encryption *x) {
    if (!x || x->reload) return x;
    return plugin(x->now, 0) != NULL; /* without reloads it stays as it is */
}

int encryption_check(struct encryption *x, struct err *e) {
    struct envelope *p;
    int rc = 0;
    pthread_rwlock_rdlock(&x->lock);
    for (size_t i = 0; !rc && (p = plugin(x->now, i)); i++) rc = envelope_check(p, e);
    pthread_rwlock_unlock(&x->lock);
    return rc;
}
