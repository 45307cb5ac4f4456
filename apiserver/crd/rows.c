/* From a CustomResourceDefinition to a row of the resource table. */
#include <openssl/sha.h>

#include "apiserver/crd/columns.h"
#include "apiserver/crd/registry.h"
#include "pkg/base/bytes.h"

#define S_OF(v, key) arena_strdup(a, str_or_empty(json_get_str(v, key)))

static const char *const *strings_of(struct arena *a, const struct json *list) {
    if (!json_len(list)) return NULL;
    const char **out = arena_zalloc(a, (json_len(list) + 1) * sizeof(*out));
    size_t n = 0;
    const struct json *it;
    JSON_FOREACH(it, list)
        if (json_as_str(it)) out[n++] = arena_strdup(a, json_as_str(it));
    return out;
}

/* First 8 bytes of SHA-256 of "group/version/kind", in base64. */
static const char *hash_of(struct arena *a, const char *group, const char *version, const char *kind) {
    const char *text = arena_printf(a, "%s/%s/%s", group, version, kind);
    unsigned char sum[SHA256_DIGEST_LENGTH];
    char *out = arena_zalloc(a, 16);
    SHA256((const unsigned char *)text, strlen(text), sum);
    base64_encode(sum, 8, out);
    return out;
}

static bool has(const char *const *list, size_t n, const char *s) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(list[i], s)) return true;
    return false;
}

/* ".spec.color" is the field "spec.color". */
static void add_fields(struct arena *a, const char **list, size_t *n, size_t max, const struct json *version) {
    const struct json *f;
    JSON_FOREACH(f, json_get(version, "selectableFields")) {
        const char *path = str_or_empty(json_get_str(f, "jsonPath"));
        if (*path == '.') path++;
        if (*path && *n < max && !has(list, *n, path)) list[(*n)++] = arena_strdup(a, path);
    }
}

enum { FIELDS_MAX = 16 };

/* The stored row knows the fields of all versions. */
static const char *const *fields_of(struct arena *a, const struct json *crd, const struct json *version, bool stored) {
    const char **list = arena_zalloc(a, (FIELDS_MAX + 1) * sizeof(*list));
    size_t n = 0;
    const struct json *v;
    add_fields(a, list, &n, FIELDS_MAX, version);
    if (stored)
        JSON_FOREACH(v, json_at(crd, "spec", "versions", NULL)) add_fields(a, list, &n, FIELDS_MAX, v);
    return n ? list : NULL;
}

/* All names that stored objects may be in. */
static const char *const *versions_of(struct arena *a, const struct json *versions) {
    const char **out = arena_zalloc(a, (json_len(versions) + 1) * sizeof(*out));
    size_t n = 0;
    const struct json *v;
    JSON_FOREACH(v, versions) out[n++] = S_OF(v, "name");
    return out;
}

static const struct scale_paths *scale_of(struct arena *a, const struct json *scale) {
    if (!json_is(scale, JSON_OBJECT)) return NULL;
    struct scale_paths *p = arena_zalloc(a, sizeof(*p));
    p->spec = S_OF(scale, "specReplicasPath");
    p->status = S_OF(scale, "statusReplicasPath");
    const char *sel = json_get_str(scale, "labelSelectorPath");
    p->selector = str_empty(sel) ? NULL : arena_strdup(a, sel);
    return p;
}

static void subs_of(struct arena *a, struct resource *r, const struct json *subs) {
    struct resource_sub *list = arena_zalloc(a, 2 * sizeof(*list));
    size_t n = 0;
    if (json_is(json_get(subs, "status"), JSON_OBJECT))
        list[n++] = (struct resource_sub){"status", NULL, NULL, r->kind, VERBS_RUW};
    r->scale = scale_of(a, json_get(subs, "scale"));
    if (r->scale) list[n++] = (struct resource_sub){"scale", "autoscaling", "v1", "Scale", VERBS_RUW};
    r->subs = list;
    r->n_subs = n;
}

static const char *warning_of(struct arena *a, const struct resource *r, const struct json *version) {
    const char *text = json_get_str(version, "deprecationWarning");
    if (!json_get_bool(version, "deprecated", false)) return NULL;
    if (text) return arena_strdup(a, text);
    return arena_printf(a, "%s/%s %s is deprecated", r->group, r->version, r->kind);
}

struct resource *crd_row(struct arena *a, const struct json *crd, const struct json *version,
                         const struct resource *storage) {
    const struct json *spec = json_get(crd, "spec"), *names = json_at(crd, "status", "acceptedNames", NULL), *v;
    struct resource *r = arena_zalloc(a, sizeof(*r));
    const char *stored = "";
    JSON_FOREACH(v, json_get(spec, "versions"))
        if (json_get_bool(v, "storage", false)) stored = str_or_empty(json_get_str(v, "name"));
    r->group = S_OF(spec, "group");
    r->version = S_OF(version, "name");
    r->kind = S_OF(names, "kind");
    r->list_kind = S_OF(names, "listKind");
    r->plural = S_OF(names, "plural");
    r->singular = S_OF(names, "singular");
    r->short_names = strings_of(a, json_get(names, "shortNames"));
    r->categories = strings_of(a, json_get(names, "categories"));
    r->namespaced = !str_eq(json_get_str(spec, "scope"), "Cluster");
    r->stored = RES_STORED;
    r->verbs = VERBS_ALL;
    subs_of(a, r, json_get(version, "subresources"));
    r->fields = fields_of(a, crd, version, !storage);
    r->key_prefix = arena_printf(a, "/registry/%s/%s/", r->group, r->plural);
    r->storage_hash = hash_of(a, r->group, stored, r->kind);
    r->deprecated = warning_of(a, r, version);
    r->custom = true;
    r->versions = versions_of(a, json_get(spec, "versions"));
    r->converts = crd_wants_webhook(crd);
    r->storage = storage;
    r->printer = crd_columns(a, json_get(version, "additionalPrinterColumns"));
    return r;
}

/* ---- order of versions ---- */

struct parsed {
    bool kube;
    int stage; /* 2 GA, 1 beta, 0 alpha */
    int64_t major, minor;
};

/* v1, v2beta3 */
static struct parsed parse_version(const char *s) {
    struct parsed p = {.stage = 2};
    char *end;
    if (s[0] != 'v' || s[1] < '1' || s[1] > '9') return p;
    p.major = strtoll(s + 1, &end, 10);
    if (*end) {
        p.stage = str_has_prefix(end, "beta") ? 1 : 0;
        if (!p.stage && !str_has_prefix(end, "alpha")) return p;
        end += p.stage ? 4 : 5;
        if (*end < '1' || *end > '9') return p;
        p.minor = strtoll(end, &end, 10);
    }
    p.kube = !*end;
    return p;
}

int crd_version_cmp(const char *x, const char *y) {
    struct parsed p = parse_version(x), q = parse_version(y);
    if (p.kube != q.kube) return p.kube ? -1 : 1;
    if (!p.kube) return strcmp(x, y);
    if (p.stage != q.stage) return q.stage - p.stage;
    if (p.major != q.major) return p.major > q.major ? -1 : 1;
    return p.minor == q.minor ? 0 : p.minor > q.minor ? -1 : 1;
}
