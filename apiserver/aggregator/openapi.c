/* The back ends' OpenAPI documents among our own.
 *
 * Of a back end's v2 document only the paths under its own /apis/GROUP/VERSION and the definitions they reach
 * are kept (as text), so what is held stays small whatever the back end serves. When documents are merged, a
 * definition of a name that is taken, with another content, gets a name of its own and its references follow.
 * Documents of v3 are not kept: the index names them, and they are fetched when somebody wants them. */
#include "apiserver/aggregator/internal.h"
#include "pkg/base/map.h"

#define REF_PREFIX "#/definitions/"

enum { NAME_TRIES = 100, DOC_DEPTH_MAX = 200 };

/* ---- what belongs to a version ---- */

struct reach {
    struct arena *a;
    const struct json *all;
    struct json *kept;
};

static const char *ref_name(const struct json *ref) {
    const char *s = json_as_str(ref);
    return s && str_has_prefix(s, REF_PREFIX) ? s + strlen(REF_PREFIX) : NULL;
}

static void reach(struct reach *r, const struct json *v, int depth) {
    struct json *x;
    if (depth > DOC_DEPTH_MAX) return;
    if (json_is(v, JSON_ARRAY)) {
        JSON_FOREACH(x, v) reach(r, x, depth + 1);
        return;
    }
    JSON_FOREACH_MEMBER(m, v) {
        const char *name = str_eq(m->key, "$ref") ? ref_name(m->value) : NULL;
        struct json *d = name ? json_get(r->all, name) : NULL;
        if (d && !json_get(r->kept, name)) {
            json_set(r->a, r->kept, name, d);
            reach(r, d, depth + 1);
        }
        reach(r, m->value, depth + 1);
    }
}

struct json *agg_v2_part(struct arena *a, const struct json *doc, const char *group, const char *version) {
    const char *base = arena_printf(a, "/apis/%s/%s", group, version);
    size_t n = strlen(base);
    struct json *out = json_object(a), *paths = json_object(a);
    struct reach r = {.a = a, .all = json_get(doc, "definitions"), .kept = json_object(a)};
    JSON_FOREACH_MEMBER(m, json_get(doc, "paths")) {
        if (strncmp(m->key, base, n) || (m->key[n] && m->key[n] != '/')) continue;
        json_set(a, paths, m->key, m->value);
        reach(&r, m->value, 0);
    }
    JSON_FOREACH_MEMBER(d, r.all) { /* kinds of the version that no path names */
        struct json *k;
        JSON_FOREACH(k, json_get(d->value, "x-kubernetes-group-version-kind")) {
            if (!str_eq(json_get_str(k, "group"), group) || !str_eq(json_get_str(k, "version"), version)) continue;
            if (json_get(r.kept, d->key)) continue;
            json_set(a, r.kept, d->key, d->value);
            reach(&r, d->value, 0);
        }
    }
    json_set(a, out, "paths", paths);
    json_set(a, out, "definitions", r.kept);
    return out;
}

/* ---- merging ---- */

static void rename_refs(struct arena *a, struct json *v, const struct map *names, int depth) {
    struct json *x;
    if (depth > DOC_DEPTH_MAX) return;
    if (json_is(v, JSON_ARRAY)) {
        JSON_FOREACH(x, v) rename_refs(a, x, names, depth + 1);
        return;
    }
    JSON_FOREACH_MEMBER(m, v) {
        const char *name = str_eq(m->key, "$ref") ? ref_name(m->value) : NULL;
        const char *now = name ? map_get(names, name) : NULL;
        if (now)
            m->value = json_strf(a, REF_PREFIX "%s", now);
        else
            rename_refs(a, m->value, names, depth + 1);
    }
}

/* A name that is free, or stands for the same thing. */
static const char *free_name(struct arena *a, const struct json *defs, const char *name, const struct json *def) {
    const char *try = name;
    for (int i = 2; i < NAME_TRIES; i++) {
        const struct json *there = json_get(defs, try);
        if (!there || json_equal(there, def)) break;
        try = arena_printf(a, "%s_v%d", name, i);
    }
    return try;
}

static void merge(struct arena *a, struct json *doc, struct json *part) {
    _cleanup_map_ struct map names = MAP_INIT;
    struct json *defs = json_ensure_object(a, doc, "definitions"), *paths = json_ensure_object(a, doc, "paths");
    JSON_FOREACH_MEMBER(m, json_get(part, "definitions")) {
        const char *name = free_name(a, defs, m->key, m->value);
        if (!str_eq(name, m->key)) map_put(&names, m->key, (void *)(uintptr_t)name);
    }
    if (names.n) rename_refs(a, part, &names, 0);
    JSON_FOREACH_MEMBER(m, json_get(part, "definitions")) {
        const char *now = map_get(&names, m->key);
        json_set(a, defs, now ? now : m->key, m->value);
    }
    JSON_FOREACH_MEMBER(m, json_get(part, "paths")) json_set(a, paths, m->key, m->value);
}

static struct json *local_part(struct arena *a, const struct agg_local *l) {
    struct json *out = json_object(a), *v = NULL;
    if (json_parse(a, l->definitions, strlen(l->definitions), &v, NULL, NULL) == 0) json_set(a, out, "definitions", v);
    if (json_parse(a, l->paths, strlen(l->paths), &v, NULL, NULL) == 0) json_set(a, out, "paths", v);
    return out;
}

void aggregator_openapi_v2(struct aggregator *g, struct arena *a, struct json *doc) {
    size_t n;
    struct agg_back **list = agg_all(g, a, &n);
    for (size_t i = 0; i < n; i++) {
        struct json *part = list[i]->local ? local_part(a, list[i]->local) : NULL;
        pthread_mutex_lock(&list[i]->lock);
        struct rbytes *text = list[i]->v2 ? rbytes_ref(list[i]->v2) : NULL;
        pthread_mutex_unlock(&list[i]->lock);
        if (text) json_parse(a, text->data, text->len, &part, NULL, NULL);
        rbytes_unref(text);
        if (part) merge(a, doc, part);
    }
    agg_release(list, n);
}

/* ---- v3 ---- */

void aggregator_openapi_index(struct aggregator *g, struct arena *a, struct json *paths) {
    size_t n;
    struct agg_back **list = agg_all(g, a, &n);
    for (size_t i = 0; i < n; i++) {
        struct agg_back *b = list[i];
        const char *path = arena_printf(a, "apis/%s/%s", b->group, b->version);
        struct json *x = json_object(a);
        pthread_mutex_lock(&b->lock);
        bool has = b->v3_hash[0] != 0;
        json_set(a, x, "serverRelativeURL", json_strf(a, "/openapi/v3/%s?hash=%s", path, b->v3_hash));
        pthread_mutex_unlock(&b->lock);
        if (has) json_set(a, paths, path, x);
    }
    agg_release(list, n);
}

/* References of v2 and v3 differ in where definitions stand. */
static void refs_to_v3(struct arena *a, struct json *v) {
    struct json *x;
    if (json_is(v, JSON_ARRAY)) {
        JSON_FOREACH(x, v) refs_to_v3(a, x);
        return;
    }
    JSON_FOREACH_MEMBER(m, v) {
        const char *name = str_eq(m->key, "$ref") ? ref_name(m->value) : NULL;
        if (name)
            m->value = json_strf(a, "#/components/schemas/%s", name);
        else
            refs_to_v3(a, m->value);
    }
}

/* {"schema": S} of v2's answers is {"content": {"application/json": {"schema": S}}} in v3. */
static void answers_to_v3(struct arena *a, struct json *paths) {
    struct json *path, *op, *answer;
    JSON_FOREACH(path, paths)
        JSON_FOREACH(op, path) {
            json_del(op, "produces");
            JSON_FOREACH(answer, json_get(op, "responses")) {
                struct json *media = json_object(a), *content = json_object(a);
                json_set(a, media, "schema", json_get(answer, "schema"));
                json_set(a, content, "application/json", media);
                json_del(answer, "schema");
                json_set(a, answer, "content", content);
            }
        }
}

static void local_v3(struct request *q, const struct agg_local *l) {
    struct arena *a = q->a;
    struct json *doc = json_object(a), *info = json_object(a), *part = local_part(a, l), *components = json_object(a);
    refs_to_v3(a, part);
    answers_to_v3(a, json_get(part, "paths"));
    json_set_str(a, doc, "openapi", "3.0.0");
    json_set_str(a, info, "title", "Kubernetes");
    json_set_str(a, info, "version", CORACLE_VERSION);
    json_set(a, doc, "info", info);
    json_set(a, doc, "paths", json_get(part, "paths"));
    json_set(a, components, "schemas", json_get(part, "definitions"));
    json_set(a, doc, "components", components);
    char *text = json_text(a, doc);
    respond_json_text(q, 200, "application/json", text, strlen(text));
}

static void remote_v3(struct request *q, struct agg_back *b) {
    _cleanup_err_ struct err e = {0};
    _cleanup_agg_dial_ struct agg_dial *d = NULL;
    _cleanup_http_resp_ struct http_resp r = {.body.limit = AGG_DOC_MAX};
    struct http_header h[] = {{"Accept", "application/json"},
                              {"X-Remote-User", "system:kube-aggregator"},
                              {"X-Remote-Group", "system:masters"}};
    const char *path = arena_printf(q->a, "/openapi/v3/apis/%s/%s", b->group, b->version);
    int rc = agg_dial(q->s->aggregator, b, q->a, &d, &e);
    if (!rc) rc = http_client_do(d->client, "GET", path, h, ARRAY_LEN(h), NULL, 0, &r, AGG_CHECK_MS, &e);
    if (rc || r.status != 200)
        respond_text(q, 503, "service unavailable\n");
    else
        respond_json_text(q, 200, "application/json", str_or_empty(r.body.data), r.body.len);
}

bool aggregator_openapi_v3(struct request *q, const char *path) {
    if (!str_has_prefix(path, "apis/")) return false;
    const char *group = path + 5, *slash = strchr(group, '/');
    if (!slash || !slash[1] || strchr(slash + 1, '/')) return false;
    struct agg_back *b = agg_find(q->s->aggregator, arena_strndup(q->a, group, (size_t)(slash - group)), slash + 1);
    if (!b) return false;
    if (b->local)
        local_v3(q, b->local);
    else
        remote_v3(q, b);
    agg_back_unref(b);
    return true;
}
