#include "apiserver/convert.h"

/* Members of the two forms of an Event, side by side: core/v1 and events.k8s.io/v1. */
static const struct rename {
    const char *core, *events;
} event_names[] = {
    {"involvedObject", "regarding"},
    {"message", "note"},
    {"source", "deprecatedSource"},
    {"firstTimestamp", "deprecatedFirstTimestamp"},
    {"lastTimestamp", "deprecatedLastTimestamp"},
    {"count", "deprecatedCount"},
    {"reportingComponent", "reportingController"},
};

static void rename_members(struct json *v, bool to_events) {
    JSON_FOREACH_MEMBER(m, v) {
        for (size_t i = 0; i < ARRAY_LEN(event_names); i++) {
            const struct rename *r = &event_names[i];
            if (!str_eq(m->key, to_events ? r->core : r->events)) continue;
            m->key = to_events ? r->events : r->core;
            break;
        }
    }
}

struct json *convert_view(struct arena *a, const struct resource *from, const struct resource *to, struct json *v) {
    if (from == to) return v;
    if (to->custom) { /* strategy None: versions differ in their names only */
        json_set_str(a, v, "apiVersion", resource_api_version(a, to));
        return v;
    }
    if (str_eq(from->plural, "events") && str_eq(to->plural, "events")) {
        rename_members(v, *to->group != 0);
    } else if (str_eq(from->plural, "horizontalpodautoscalers")) {
        if (str_eq(to->version, "v1"))
            convert_hpa_to_v1(a, v);
        else
            convert_hpa_to_v2(a, v);
    } else {
        return NULL;
    }
    json_set_str(a, v, "apiVersion", resource_api_version(a, to));
    struct json *out = v;
    return api_tree_normalise(a, to->type, v, &out, NULL, NULL) == 0 ? out : NULL;
}
