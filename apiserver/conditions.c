/* Conditions that the API server itself keeps in objects' status: whether a FlowSchema's priority level exists
 * (Dangling), that a local APIService is available. Upstream: the flow control's and the aggregator's controllers. */
#include "apiserver/conditions.h"

#include "apiserver/admit.h"
#include "apiserver/aggregator/aggregator.h"
#include "apiserver/flow/flow.h"
#include "apiserver/lookup.h"
#include "apiserver/write.h"

#define FLOW_GROUP "flowcontrol.apiserver.k8s.io"

struct json *condition_make(struct arena *a, const char *type, bool status, const char *reason, const char *message) {
    char now[KTIME_MAX];
    struct json *c = json_object(a);
    json_set_str(a, c, "type", type);
    json_set_str(a, c, "status", status ? "True" : "False");
    json_set_str(a, c, "lastTransitionTime", ktime_format(ktime_now(), now));
    json_set_str(a, c, "reason", reason);
    json_set_str(a, c, "message", message);
    return c;
}

bool condition_put(struct arena *a, struct json *obj, struct json *c) {
    struct json *conds = json_ensure_array(a, json_ensure_object(a, obj, "status"), "conditions");
    for (uint32_t i = 0; i < conds->n; i++) {
        struct json *o = conds->items[i];
        if (!str_eq(json_get_str(o, "type"), json_get_str(c, "type"))) continue;
        if (str_eq(json_get_str(o, "status"), json_get_str(c, "status")) &&
            str_eq(json_get_str(o, "reason"), json_get_str(c, "reason")))
            return false;
        conds->items[i] = c;
        return true;
    }
    json_append(a, conds, c);
    return true;
}

int status_write(struct apiserver *s, struct arena *a, const struct object *o, struct json *obj, struct err *e) {
    struct write w;
    struct object *out = NULL;
    bool deleted;
    write_init(&w, s, a, NULL, o->res, "status", NULL, object_name(o), RULES_UPDATE);
    w.lazy = true; /* it follows from other objects: found again after a crash */
    int rc = write_update(&w, obj, o, true, &out, &deleted, e);
    object_unref(out);
    return rc > 0 ? 0 : rc; /* a newer object will come by */
}

/* The Dangling condition is applied, as upstream's config consumer does, so that it shows as one field's owner. */
static void flow_schema_write(struct apiserver *s, struct arena *a, const struct object *o, const struct json *v,
                              struct json *c) {
    struct write w;
    struct object *out = NULL;
    bool deleted, changed;
    struct json *config = json_object(a), *merged = NULL;
    json_set_str(a, json_set(a, config, "metadata", json_object(a)), "name", object_name(o));
    json_append(a, json_ensure_array(a, json_ensure_object(a, config, "status"), "conditions"), c);
    write_init(&w, s, a, NULL, o->res, "status", NULL, object_name(o), RULES_UPDATE);
    w.c.field_manager = "api-priority-and-fairness-config-consumer-v1";
    w.lazy = true;
    if (!ssa_apply(&w.c, v, config, true, &merged, &changed, NULL))
        write_update(&w, merged, o, false, &out, &deleted, NULL);
    object_unref(out);
}

static struct json *flow_schema(struct apiserver *s, struct arena *a, const struct json *o) {
    const char *level = str_or_empty(json_as_str(json_at(o, "spec", "priorityLevelConfiguration", "name", NULL)));
    bool there = lookup_get(s, a, FLOW_GROUP, "prioritylevelconfigurations", NULL, level) != NULL;
    return condition_make(
        a, "Dangling", !there, there ? "Found" : "NotFound",
        arena_printf(a, "This FlowSchema references the PriorityLevelConfiguration object named \"%s\" %s", level,
                     there ? "and it exists" : "but there is no such object"));
}

static void on_flow_schema(struct apiserver *s, struct arena *a, struct object *o, struct json *v) {
    flow_feed(admission_flow(s), false, object_name(o), v);
    struct json *c = v ? flow_schema(s, a, v) : NULL;
    if (c && condition_put(a, json_clone(a, v), c)) flow_schema_write(s, a, o, v, c);
}

/* FlowSchemas that name the level may dangle now, or no longer. */
static void on_priority_level(struct apiserver *s, struct arena *a, struct object *o, struct json *v) {
    _cleanup_wc_list_ struct wc_list l = {0};
    flow_feed(admission_flow(s), true, object_name(o), v);
    watchcache_list(s->cache, resource_find(s->resources, FLOW_GROUP, "v1", "flowschemas"), NULL, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) {
        struct json *schema = object_tree(a, l.items[i]);
        const char *level = json_as_str(json_at(schema, "spec", "priorityLevelConfiguration", "name", NULL));
        struct json *c = str_eq(level, object_name(o)) ? flow_schema(s, a, schema) : NULL;
        if (c && condition_put(a, json_clone(a, schema), c)) flow_schema_write(s, a, l.items[i], schema, c);
    }
}

/* Those with a service are the aggregator's, which keeps their condition. */
static void on_api_service(struct apiserver *s, struct arena *a, struct object *o, struct json *v) {
    aggregator_service(s->aggregator, object_name(o), v);
    if (!v || json_is(json_at(v, "spec", "service", NULL), JSON_OBJECT)) return;
    struct json *c = condition_make(a, "Available", true, "Local", "Local APIServices are always available");
    if (condition_put(a, v, c)) status_write(s, a, o, v, NULL);
}

static void on_object(void *arg, struct object *o, bool gone) {
    struct apiserver *s = arg;
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v = gone ? NULL : object_tree(a, o);
    if (v && json_at(v, "metadata", "deletionTimestamp", NULL)) v = NULL;
    if (str_eq(o->res->group, FLOW_GROUP)) housekeeping_wake(s);
    if (str_eq(o->res->plural, "flowschemas"))
        on_flow_schema(s, a, o, v);
    else if (str_eq(o->res->plural, "apiservices"))
        on_api_service(s, a, o, v);
    else
        on_priority_level(s, a, o, v);
}

struct follower *conditions_start(struct apiserver *s) {
    const struct resource *res[] = {resource_find(s->resources, FLOW_GROUP, "v1", "flowschemas"),
                                    resource_find(s->resources, FLOW_GROUP, "v1", "prioritylevelconfigurations"),
                                    resource_find(s->resources, "apiregistration.k8s.io", "v1", "apiservices")};
    return follower_new(s->cache, res, ARRAY_LEN(res), on_object, NULL, s);
}
