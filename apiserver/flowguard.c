/* Keeps the FlowSchemas and priority levels of Kubernetes itself as they must be: what is missing is made again; the
 * mandatory ones (exempt, catch-all) get their spec back, the suggested ones when their annotation
 * apf.kubernetes.io/autoupdate-spec says so, or when nobody has said anything and nobody has changed them; the annotation
 * shows what applies. Objects of that annotation that Kubernetes no longer has are removed. The level "exempt" may have
 * shares of the operator's choice. Upstream: pkg/registry/flowcontrol (ensurer, rest). It looks once a minute; here a change
 * wakes the housekeeping thread, and the minute is for what failed. */
#include "apiserver/auth/bootstrap.h"
#include "apiserver/lookup.h"
#include "apiserver/write.h"
#include "pkg/base/log.h"

#define FLOW_GROUP "flowcontrol.apiserver.k8s.io"
#define NOTE "apf.kubernetes.io/autoupdate-spec"
#define MANAGER "api-priority-and-fairness-config-producer-v1"

static const char *name_of(const struct json *o) { return str_or_empty(json_get_str(json_get(o, "metadata"), "name")); }

static bool mandatory(const char *name) { return str_eq(name, "exempt") || str_eq(name, "catch-all"); }

/* 1 true, 0 false, -1 not said. The texts are those that Go takes for booleans. */
static int note_of(const struct json *o) {
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"}, *const no[] = {"0",     "f",     "F",
                                                                                             "false", "FALSE", "False"};
    const char *v = json_as_str(json_at(o, "metadata", "annotations", NOTE, NULL));
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (str_eq(v, yes[i])) return 1;
        if (str_eq(v, no[i])) return 0;
    }
    return -1;
}

static void begin(struct write *w, struct apiserver *s, struct arena *a, const struct resource *r, const char *name,
                  enum rules_op op) {
    write_init(w, s, a, NULL, r, NULL, NULL, op == RULES_CREATE ? NULL : name, op);
    w->c.field_manager = MANAGER;
    w->lazy = true; /* a crash before it is durable: done again */
}

static int make(struct apiserver *s, struct arena *a, const struct resource *r, const struct json *want,
                struct err *e) {
    struct write w;
    struct object *out = NULL;
    struct json *norm = NULL;
    int rc = api_tree_normalise(a, r->type, json_clone(a, want), &norm, NULL, e);
    if (rc) return rc;
    begin(&w, s, a, r, name_of(want), RULES_CREATE);
    rc = write_create(&w, norm, true, &out, e);
    object_unref(out);
    return rc;
}

/* Whether the spec is the wanted one; defaults that nobody wrote down are not looked at. */
static bool spec_holds(const struct json *have, const struct json *want) {
    if (!json_is(want, JSON_OBJECT)) return json_equal(have, want);
    JSON_FOREACH_MEMBER(m, want)
        if (!spec_holds(json_get(have, m->key), m->value)) return false;
    return true;
}

/* Parts that exclude each other must not stand there beside what is wanted. */
static bool spec_clean(const struct json *have, const struct json *want) {
    static const char *const members[] = {"exempt", "limited", "distinguisherMethod"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        if (json_get(have, members[i]) && !json_get(want, members[i])) return false;
    return true;
}

static bool spec_differs(const struct json *have, const struct json *want, const char *name) {
    const struct json *h = json_get(have, "spec"), *w = json_get(want, "spec");
    bool level = str_eq(json_get_str(want, "kind"), "PriorityLevelConfiguration");
    if (level && str_eq(name, "exempt") && json_get(h, "exempt")) return false;
    return !spec_holds(h, w) || !spec_clean(h, w);
}

/* 1: rewritten. */
static int mend(struct apiserver *s, struct arena *a, const struct resource *r, const struct object *o,
                const struct json *want, struct err *e) {
    struct json *have = object_tree(a, o), *norm = NULL;
    const char *name = name_of(want);
    int note = note_of(have);
    bool unchanged = json_get_int(json_get(have, "metadata"), "generation", 0) == 1;
    bool keep = mandatory(name) || note == 1 || (note < 0 && unchanged);
    bool spec = keep && spec_differs(have, want, name);
    if (!spec && note == keep) return 0;
    if (spec) json_set(a, have, "spec", json_clone(a, json_get(want, "spec")));
    json_set_str(a, json_ensure_object(a, json_get(have, "metadata"), "annotations"), NOTE, keep ? "true" : "false");
    int rc = api_tree_normalise(a, r->type, have, &norm, NULL, e);
    if (rc) return rc;
    struct write w;
    struct object *out = NULL;
    bool deleted;
    begin(&w, s, a, r, name, RULES_UPDATE);
    rc = write_update(&w, norm, o, true, &out, &deleted, e);
    object_unref(out);
    return rc < 0 ? rc : 1; /* also when somebody was faster: that wakes this thread once more */
}

static int ensure(struct apiserver *s, struct arena *a, const struct resource *r, const struct json *want,
                  struct err *e) {
    _cleanup_object_ struct object *o = watchcache_get(s->cache, r, NULL, name_of(want));
    if (o) return mend(s, a, r, o, want, e);
    int rc = make(s, a, r, want, e);
    return rc == -EEXIST ? 0 : rc;
}

/* Bootstrap objects of an older version. */
static void remove_unwanted(struct apiserver *s, const struct resource *r, const struct json *wanted) {
    _cleanup_wc_list_ struct wc_list l = {0};
    watchcache_list(s->cache, r, NULL, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        const struct json *v = object_tree(a, l.items[i]), *it;
        bool known = false;
        JSON_FOREACH(it, wanted)
            known |= str_eq(json_get_str(it, "kind"), r->kind) && str_eq(name_of(it), object_name(l.items[i]));
        if (known || note_of(v) != 1 || json_at(v, "metadata", "deletionTimestamp", NULL)) continue;
        struct write w;
        struct object *out = NULL;
        struct delete_request d = {.uid = NULL};
        bool gone;
        begin(&w, s, a, r, object_name(l.items[i]), RULES_DELETE);
        if (write_delete(&w, &d, l.items[i], &out, &gone, NULL) == 0)
            log_info("removed what Kubernetes no longer has", "kind", r->kind, "name", object_name(l.items[i]), NULL);
        object_unref(out);
    }
}

bool flowguard_ensure(struct apiserver *s) {
    static const char *const plurals[] = {"prioritylevelconfigurations", "flowschemas"};
    _cleanup_arena_ struct arena *a = arena_new();
    const struct json *all = bootstrap_objects(a, &(struct bootstrap_config){0}), *it;
    bool good = true;
    for (size_t i = 0; i < ARRAY_LEN(plurals); i++) {
        const struct resource *r = resource_find(s->resources, FLOW_GROUP, "v1", plurals[i]);
        JSON_FOREACH(it, all) {
            _cleanup_arena_ struct arena *one = arena_new();
            _cleanup_err_ struct err e = {0};
            if (!str_eq(json_get_str(it, "kind"), r->kind)) continue;
            int rc = ensure(s, one, r, it, &e);
            if (rc < 0) log_warn("flow control object", "kind", r->kind, "name", name_of(it), "error", e.msg, NULL);
            if (rc > 0) log_info("flow control object made what it was", "kind", r->kind, "name", name_of(it), NULL);
            good &= rc >= 0;
        }
        remove_unwanted(s, r, all);
    }
    return good;
}
