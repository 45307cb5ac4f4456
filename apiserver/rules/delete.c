/* What a delete request does to an object: remove it, or mark it and wait for finalizers and for a pod's
 * grace period. Upstream: apiserver/pkg/registry/rest/delete.go (BeforeDelete),
 * registry/generic/registry/store.go (finalizers by propagation policy), and the strategies'
 * CheckGracefulDelete. */
#include "apiserver/rules/kinds.h"

#define ORPHAN "orphan"
#define CRD_CLEANUP "customresourcecleanup.apiextensions.k8s.io"
#define FOREGROUND "foregroundDeletion"

static bool is_core(const struct rules_ctx *c, const char *kind) {
    return str_empty(c->group) && str_eq(c->kind, kind);
}

static bool has_finalizer(const struct json *meta, const char *name) {
    const struct json *f;
    JSON_FOREACH(f, json_get(meta, "finalizers"))
        if (str_eq(json_as_str(f), name)) return true;
    return false;
}

static void drop_finalizer(struct json *meta, const char *name) {
    struct json *list = json_get(meta, "finalizers");
    for (size_t i = 0; i < json_len(list);) {
        if (str_eq(json_as_str(json_item(list, i)), name))
            json_del_at(list, i);
        else
            i++;
    }
    if (list && !json_len(list)) json_del(meta, "finalizers");
}

/* The finalizers through which the garbage collector learns what to do with dependents. */
static void set_gc_finalizers(struct rules_ctx *c, struct json *meta, const struct rules_delete_options *o) {
    const char *policy = o->propagation_policy;
    bool orphan, foreground;
    if (str_eq(c->kind, "Event")) return;      /* owns nothing */
    if (!policy && o->orphan_dependents < 0) { /* nothing said: what the object already has stays */
        if (!o->orphan_by_default || has_finalizer(meta, FOREGROUND)) return;
        policy = "Orphan";
    }
    orphan = str_eq(policy, "Orphan") || (!policy && o->orphan_dependents == 1);
    foreground = str_eq(policy, "Foreground");
    if (!orphan) drop_finalizer(meta, ORPHAN);
    if (!foreground) drop_finalizer(meta, FOREGROUND);
    const char *add = orphan ? ORPHAN : foreground ? FOREGROUND : NULL;
    if (add && !has_finalizer(meta, add))
        json_append(c->a, json_ensure_array(c->a, meta, "finalizers"), json_str(c->a, add));
}

/* Seconds a pod gets to end: what the request says, else what the pod says; none when nothing runs. */
static int64_t pod_grace(const struct json *pod, int64_t asked) {
    const struct json *spec = json_get(pod, "spec");
    const char *phase = jstr(json_get(pod, "status"), "phase");
    if (asked < 0) asked = json_get_int(spec, "terminationGracePeriodSeconds", 30);
    if (!*jstr(spec, "nodeName") || str_in(phase, ONE_OF("Failed", "Succeeded"))) return 0;
    return asked;
}

static void mark_deleted(struct rules_ctx *c, struct json *meta, int64_t grace) {
    char text[KTIME_MAX];
    struct ktime when = ktime_add_ns(c->now, grace * NS_PER_SEC);
    json_set_str(c->a, meta, "deletionTimestamp", ktime_format(when, text));
    json_set_int(c->a, meta, "deletionGracePeriodSeconds", grace);
    int64_t generation = json_get_int(meta, "generation", 0);
    if (generation > 0) json_set_int(c->a, meta, "generation", generation + 1);
}

/* A namespace goes in two steps: Terminating until its content is gone and spec.finalizers is empty. */
static enum rules_delete delete_namespace(struct rules_ctx *c, struct json *obj, const struct rules_delete_options *o) {
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    size_t before = json_len(json_get(meta, "finalizers"));
    struct rules_delete_options all = *o;
    if (o->orphan_dependents == 0) all.propagation_policy = "Foreground"; /* a namespace takes the old option so */
    set_gc_finalizers(c, meta, &all);
    bool held = json_len(json_at(obj, "spec", "finalizers", NULL)) || json_len(json_get(meta, "finalizers"));
    if (jget(meta, "deletionTimestamp"))
        return !held                                              ? RULES_DELETE_NOW
               : json_len(json_get(meta, "finalizers")) != before ? RULES_DELETE_STORE
                                                                  : RULES_DELETE_NOTHING;
    if (!held) return RULES_DELETE_NOW;
    char text[KTIME_MAX];
    json_set_str(c->a, meta, "deletionTimestamp", ktime_format(c->now, text));
    json_set_str(c->a, json_ensure_object(c->a, obj, "status"), "phase", "Terminating");
    return RULES_DELETE_STORE;
}

static enum rules_delete delete_pod(struct rules_ctx *c, struct json *obj, const struct rules_delete_options *o) {
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    int64_t grace = pod_grace(obj, o->grace_period_seconds);
    bool held = json_len(json_get(meta, "finalizers"));
    if (jget(meta, "deletionTimestamp")) {
        int64_t left = json_get_int(meta, "deletionGracePeriodSeconds", 0);
        if (grace == 0 && !held) {
            json_set_int(c->a, meta, "deletionGracePeriodSeconds", 0);
            return RULES_DELETE_NOW;
        }
        if (o->grace_period_seconds < 0 || grace >= left) return RULES_DELETE_NOTHING;
        struct ktime was;
        char text[KTIME_MAX];
        if (ktime_parse(jstr(meta, "deletionTimestamp"), &was) == 0)
            json_set_str(c->a, meta, "deletionTimestamp",
                         ktime_format(ktime_add_ns(was, (grace - left) * NS_PER_SEC), text));
        json_set_int(c->a, meta, "deletionGracePeriodSeconds", grace);
        return RULES_DELETE_STORE;
    }
    mark_deleted(c, meta, grace);
    return grace == 0 && !held ? RULES_DELETE_NOW : RULES_DELETE_STORE;
}

/* A definition of custom resources stays until its instances are gone (apiserver/crd/cleanup.c). */
static enum rules_delete delete_crd(struct rules_ctx *c, struct json *obj) {
    struct json *meta = json_ensure_object(c->a, obj, "metadata"), *cond = json_object(c->a);
    char text[KTIME_MAX];
    ktime_format(c->now, text);
    if (!has_finalizer(meta, CRD_CLEANUP))
        json_append(c->a, json_ensure_array(c->a, meta, "finalizers"), json_str(c->a, CRD_CLEANUP));
    json_set_str(c->a, meta, "deletionTimestamp", text);
    json_set_str(c->a, cond, "type", "Terminating");
    json_set_str(c->a, cond, "status", "True");
    json_set_str(c->a, cond, "lastTransitionTime", text);
    json_set_str(c->a, cond, "reason", "InstanceDeletionPending");
    json_set_str(c->a, cond, "message",
                 "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon");
    json_append(c->a, json_ensure_array(c->a, json_ensure_object(c->a, obj, "status"), "conditions"), cond);
    return RULES_DELETE_STORE;
}

enum rules_delete rules_prepare_delete(struct rules_ctx *c, struct json *obj, const struct rules_delete_options *o) {
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    bool marked = jget(meta, "deletionTimestamp") != NULL;
    if (is_core(c, "Namespace")) return delete_namespace(c, obj, o);
    if (!marked && str_eq(c->group, "apiextensions.k8s.io") && str_eq(c->kind, "CustomResourceDefinition"))
        return delete_crd(c, obj);
    int64_t left = json_get_int(meta, "deletionGracePeriodSeconds", 0);
    bool sooner = o->grace_period_seconds >= 0 && o->grace_period_seconds < left;
    bool pending = marked && left > 0 && !sooner;
    struct json *before = json_clone(c->a, json_get(meta, "finalizers"));
    if (!pending) set_gc_finalizers(c, meta, o); /* a deletion that waits is not changed so */
    struct json *now = json_get(meta, "finalizers");
    enum rules_delete what = RULES_DELETE_STORE;
    if (is_core(c, "Pod")) {
        what = delete_pod(c, obj, o);
    } else if (!json_len(now)) {
        what = RULES_DELETE_NOW;
    } else if (!marked) {
        mark_deleted(c, meta, 0);
    }
    bool same = json_len(now) == json_len(before) && (!before || json_equal(now, before));
    if (marked && what == RULES_DELETE_STORE && same && !is_core(c, "Pod")) what = RULES_DELETE_NOTHING;
    if (what == RULES_DELETE_NOTHING && !same) what = RULES_DELETE_STORE;
    if (marked && what == RULES_DELETE_NOW && before) json_set(c->a, meta, "finalizers", before); /* as it was stored */
    return what;
}

bool rules_update_deletes(struct rules_ctx *c, const struct json *obj) {
    const struct json *meta = json_get(obj, "metadata");
    if (!jget(meta, "deletionTimestamp") || json_len(json_get(meta, "finalizers"))) return false;
    if (is_core(c, "Namespace")) return json_len(json_at(obj, "spec", "finalizers", NULL)) == 0;
    return json_get_int(meta, "deletionGracePeriodSeconds", 0) == 0;
}
