/* The back ends' groups and versions among our own, in the classic lists and in the aggregated document.
 * Groups stand in the order of their APIServices' priorities, as do the versions of a group. A back end that
 * is not available keeps its place; the aggregated document then calls what it shows "Stale". */
#include "apiserver/aggregator/internal.h"
#include "apiserver/lookup.h"

/* ---- places ---- */

static int64_t priority(struct request *q, const char *group, const char *version, const char *field, int64_t dflt) {
    const char *name = arena_printf(q->a, "%s.%s", version, group);
    const struct json *o = lookup_get(q->s, q->a, "apiregistration.k8s.io", "apiservices", NULL, name);
    return json_get_int(json_get(o, "spec"), field, dflt);
}

static const char *group_name(const struct json *item, bool aggregated) {
    return str_or_empty(json_get_str(aggregated ? json_get(item, "metadata") : item, "name"));
}

static struct json *find_group(const struct json *groups, const char *name, bool aggregated) {
    struct json *x;
    JSON_FOREACH(x, groups) {
        if (str_eq(group_name(x, aggregated), name)) return x;
    }
    return NULL;
}

/* In front of the first group of lower priority, or of the same and a later name. */
static size_t group_place(struct request *q, const struct json *groups, const struct agg_back *b, bool aggregated) {
    size_t i = 0;
    for (; i < json_len(groups); i++) {
        const struct json *x = json_item(groups, i);
        const char *name = group_name(x, aggregated);
        const char *version = json_get_str(json_item(json_get(x, "versions"), 0), "version");
        int64_t p = priority(q, name, str_or_empty(version), "groupPriorityMinimum", INT64_MAX);
        if (p < b->group_priority || (p == b->group_priority && strcmp(name, b->group) > 0)) break;
    }
    return i;
}

static size_t version_place(struct request *q, const struct json *versions, const struct agg_back *b) {
    size_t i = 0;
    for (; i < json_len(versions); i++) {
        const char *v = str_or_empty(json_get_str(json_item(versions, i), "version"));
        if (priority(q, b->group, v, "versionPriority", INT64_MAX) < b->version_priority) break;
    }
    return i;
}

/* ---- one version ---- */

static struct json *response_kind(struct arena *a, const struct json *r) {
    struct json *k = json_object(a);
    json_set_str(a, k, "group", str_or_empty(json_get_str(r, "group")));
    json_set_str(a, k, "version", str_or_empty(json_get_str(r, "version")));
    json_set_str(a, k, "kind", str_or_empty(json_get_str(r, "kind")));
    return k;
}

static void copy_member(struct arena *a, struct json *to, const struct json *from, const char *key) {
    struct json *v = json_get(from, key);
    if (json_len(v)) json_set(a, to, key, json_clone(a, v));
}

/* An APIResource as the aggregated document has it. */
static struct json *resource_entry(struct arena *a, const struct json *r, const char *sub) {
    struct json *d = json_object(a);
    json_set_str(a, d, sub ? "subresource" : "resource", sub ? sub : str_or_empty(json_get_str(r, "name")));
    json_set(a, d, "responseKind", response_kind(a, r));
    if (!sub) {
        json_set_str(a, d, "scope", json_get_bool(r, "namespaced", false) ? "Namespaced" : "Cluster");
        json_set_str(a, d, "singularResource", str_or_empty(json_get_str(r, "singularName")));
    }
    json_set(a, d, "verbs", json_clone(a, json_get(r, "verbs")));
    if (!sub) copy_member(a, d, r, "shortNames");
    if (!sub) copy_member(a, d, r, "categories");
    return d;
}

static struct json *resource_entries(struct arena *a, const struct json *list) {
    struct json *out = json_array(a), *r, *x;
    JSON_FOREACH(r, list) {
        const char *name = str_or_empty(json_get_str(r, "name"));
        if (*name && !strchr(name, '/')) json_append(a, out, resource_entry(a, r, NULL));
    }
    JSON_FOREACH(r, list) {
        const char *name = str_or_empty(json_get_str(r, "name")), *slash = strchr(name, '/');
        if (!slash) continue;
        JSON_FOREACH(x, out) {
            const char *parent = json_get_str(x, "resource");
            if (strncmp(parent, name, (size_t)(slash - name)) || parent[slash - name]) continue;
            json_append(a, json_ensure_array(a, x, "subresources"), resource_entry(a, r, slash + 1));
        }
    }
    return out;
}

static struct json *version_entry(struct request *q, struct agg_back *b, bool aggregated) {
    struct arena *a = q->a;
    struct json *v = json_object(a), *list = NULL;
    if (!aggregated) {
        json_set(a, v, "groupVersion", json_strf(a, "%s/%s", b->group, b->version));
        json_set_str(a, v, "version", b->version);
        return v;
    }
    pthread_mutex_lock(&b->lock);
    struct rbytes *text = b->resources ? rbytes_ref(b->resources) : NULL;
    bool fresh = b->available;
    pthread_mutex_unlock(&b->lock);
    if (text && json_parse(a, text->data, text->len, &list, NULL, NULL)) list = NULL;
    rbytes_unref(text);
    struct json *r;
    JSON_FOREACH(r, json_get(list, "resources")) { /* group and version are the document's where a resource says none */
        if (!json_get(r, "group")) json_set_str(a, r, "group", b->group);
        if (!json_get(r, "version")) json_set_str(a, r, "version", b->version);
    }
    json_set_str(a, v, "version", b->version);
    json_set(a, v, "resources", resource_entries(a, json_get(list, "resources")));
    json_set_str(a, v, "freshness", fresh ? "Current" : "Stale");
    return v;
}

/* The back end's version in place of ours, or beside it. */
static void add_version(struct request *q, struct json *group, struct agg_back *b, bool aggregated) {
    struct json *versions = json_ensure_array(q->a, group, "versions"), *entry = version_entry(q, b, aggregated);
    for (size_t i = 0; i < json_len(versions); i++)
        if (str_eq(json_get_str(json_item(versions, i), "version"), b->version)) {
            versions->items[i] = entry;
            return;
        }
    size_t at = version_place(q, versions, b);
    json_insert(q->a, versions, at, entry);
    if (at == 0 && !aggregated) json_set(q->a, group, "preferredVersion", json_clone(q->a, entry));
}

static struct json *new_group(struct arena *a, const char *name, bool aggregated) {
    struct json *g = json_object(a), *meta = aggregated ? json_object(a) : g;
    json_set_str(a, meta, "name", name);
    if (aggregated) json_set(a, g, "metadata", meta);
    json_set(a, g, "versions", json_array(a));
    return g;
}

void aggregator_groups(struct request *q, struct json *groups, bool aggregated) {
    size_t n;
    struct agg_back **list = agg_all(q->s->aggregator, q->a, &n);
    for (size_t i = 0; i < n; i++) {
        struct json *g = find_group(groups, list[i]->group, aggregated);
        if (!g) {
            g = new_group(q->a, list[i]->group, aggregated);
            json_insert(q->a, groups, group_place(q, groups, list[i], aggregated), g);
        }
        add_version(q, g, list[i], aggregated);
    }
    agg_release(list, n);
}

struct json *aggregator_group(struct request *q, const char *group, struct json *doc) {
    size_t n;
    struct agg_back **list = agg_all(q->s->aggregator, q->a, &n);
    for (size_t i = 0; i < n; i++) {
        if (!str_eq(list[i]->group, group)) continue;
        if (!doc) {
            doc = json_object(q->a);
            json_set_str(q->a, doc, "kind", "APIGroup");
            json_set_str(q->a, doc, "apiVersion", "v1");
            json_set_str(q->a, doc, "name", group);
        }
        add_version(q, doc, list[i], false);
    }
    agg_release(list, n);
    return doc;
}
