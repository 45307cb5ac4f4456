/* metadata.managedFields: who owns which fields. An Update (create, PUT, patch) owns what it adds or changes,
 * and takes that away from all others; what it removes nobody owns any more. Apply is in ssa.c.
 *
 * Upstream: apimachinery/pkg/util/managedfields (fieldmanager.go and the managers it stacks) over
 * structured-merge-diff's Updater.Update. */
#include "apiserver/rules/kinds.h"
#include "apiserver/rules/managers.h"

enum { UPDATE_MANAGERS_MAX = 10 };

const char *group_version(struct arena *a, const struct rules_ctx *c) {
    const char *group = c->request_version ? c->request_group : c->group;
    const char *version = c->request_version ? c->request_version : c->version;
    return str_empty(group) ? version : arena_printf(a, "%s/%s", group, version);
}

/* Whether all keys of a field set are path elements. */
static bool set_valid(const struct json *v) {
    JSON_FOREACH_MEMBER(m, v) {
        bool elem = m->key[0] && strchr("fvki", m->key[0]) && m->key[1] == ':';
        if ((!elem && !str_eq(m->key, ".")) || !json_is(m->value, JSON_OBJECT) || !set_valid(m->value)) return false;
    }
    return true;
}

/* Whether the list can be read at all: a client's that cannot is as if it had sent none. */
static bool list_valid(const struct json *list) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        if (!str_in(jstr(it, "operation"), ONE_OF("Apply", "Update")) || !set_valid(json_get(it, "fieldsV1")))
            return false;
    }
    return true;
}

void managers_read(struct arena *a, const struct json *list, struct managers *out) {
    const struct json *it;
    *out = (struct managers){0};
    JSON_FOREACH(it, list) {
        if (!*jstr(it, "operation")) continue;
        ARENA_GROW(a, out->items, out->n, out->cap);
        out->items[out->n++] = (struct manager){jstr(it, "manager"),    jstr(it, "operation"),
                                                jstr(it, "apiVersion"), jstr(it, "subresource"),
                                                jstr(it, "time"),       fset_from_json(a, json_get(it, "fieldsV1"))};
    }
}

static int by_age(const void *x, const void *y) {
    const struct manager *p = x, *q = y;
    int r = strcmp(p->operation, q->operation);
    if (!r) r = strcmp(p->time, q->time);
    if (!r) r = strcmp(p->name, q->name);
    if (!r) r = strcmp(p->api_version, q->api_version);
    return r ? r : strcmp(p->subresource, q->subresource);
}

/* No more than so many Update entries: the oldest become one. */
static void cap_updates(struct arena *a, struct managers *m) {
    size_t updates = 0;
    for (size_t i = 0; i < m->n; i++)
        updates += str_eq(m->items[i].operation, "Update") && !fset_empty(m->items[i].set);
    if (updates <= UPDATE_MANAGERS_MAX) return;
    struct manager *into = NULL;
    for (size_t i = 0; i < m->n && updates > UPDATE_MANAGERS_MAX; i++) {
        struct manager *k = &m->items[i];
        if (!str_eq(k->operation, "Update") || fset_empty(k->set)) continue;
        if (!into) {
            into = k;
            k->name = "ancient-changes";
        } else if (str_eq(into->api_version, k->api_version)) {
            into->set = fset_union(a, into->set, k->set);
            into->time = k->time;
            k->set = fset_new(a);
            updates--;
        }
    }
}

void managers_write(struct arena *a, struct managers *m, struct json *obj) {
    struct json *meta = json_ensure_object(a, obj, "metadata"), *list = json_array(a);
    if (m->n) qsort(m->items, m->n, sizeof *m->items, by_age);
    cap_updates(a, m);
    for (size_t i = 0; i < m->n; i++) {
        const struct manager *k = &m->items[i];
        if (fset_empty(k->set)) continue;
        struct json *o = json_object(a);
        json_set_str(a, o, "manager", k->name);
        json_set_str(a, o, "operation", k->operation);
        json_set_str(a, o, "apiVersion", k->api_version);
        if (!str_empty(k->time)) json_set_str(a, o, "time", k->time);
        json_set_str(a, o, "fieldsType", "FieldsV1");
        json_set(a, o, "fieldsV1", fset_to_json(a, k->set));
        if (!str_empty(k->subresource)) json_set_str(a, o, "subresource", k->subresource);
        json_append(a, list, o);
    }
    if (json_len(list))
        json_set(a, meta, "managedFields", list);
    else
        json_del(meta, "managedFields");
}

struct manager *managers_find(struct managers *m, const char *name, const char *operation, const char *api_version,
                              const char *subresource) {
    for (size_t i = 0; i < m->n; i++) {
        struct manager *k = &m->items[i];
        if (str_eq(k->name, name) && str_eq(k->operation, operation) && str_eq(k->api_version, api_version) &&
            str_eq(k->subresource, subresource))
            return k;
    }
    return NULL;
}

struct manager *managers_add(struct arena *a, struct managers *m, const char *name, const char *operation,
                             const char *api_version, const char *subresource) {
    ARENA_GROW(a, m->items, m->n, m->cap);
    m->items[m->n] = (struct manager){name, operation, api_version, subresource, "", fset_new(a)};
    return &m->items[m->n++];
}

void manager_touch(struct rules_ctx *c, struct manager *k) {
    char now[KTIME_MAX];
    if (str_eq(k->subresource, "scale")) return; /* as upstream's scale handler, which loses the time */
    k->time = arena_strdup(c->a, ktime_format(c->now, now));
}

/* A set with the given dotted paths (and all below them) as members, for removing them from another. */
static struct fset *without(struct arena *a, const struct fset *s, const char *const *path) {
    struct fset *out = fset_new(a);
    out->member = s->member;
    for (uint32_t i = 0; i < s->n; i++) {
        const char *elem = s->items[i].elem;
        struct fset *sub = s->items[i].sub;
        if (path[0] && str_eq(elem, path[0])) {
            if (!path[1]) continue;
            sub = without(a, sub, path + 1);
        }
        if (fset_empty(sub)) continue;
        struct fset *dst = fset_child(a, out, elem);
        *dst = *sub;
    }
    return out;
}

static struct fset *strip(struct arena *a, struct fset *s, const char *const *path) {
    const struct fset *at = s;
    for (const char *const *p = path; at && *p; p++) at = fset_get(at, *p);
    return at ? without(a, s, path) : s;
}

static struct fset *strip_member(struct fset *s) {
    struct fset *meta = fset_get(s, "f:metadata");
    if (meta) meta->member = false;
    return s;
}

/* What the registry sets back to the old object's values, whoever sends it: nobody owns it. Upstream: GetResetFields of
 * the strategies. "": a write of the object itself. */
struct reset {
    const char *kind, *subresource;
    const char *paths[3][3];
};
static const struct reset resets[] = {
    {"CertificateSigningRequest", "", {{"f:spec"}, {"f:status"}}},
    {"CertificateSigningRequest", "status", {{"f:spec"}, {"f:status", "f:conditions"}}},
    {"CertificateSigningRequest", "approval", {{"f:spec"}, {"f:status", "f:certificate"}}},
    {"Namespace", "finalize", {{"f:status"}}},
    {"Deployment", "status", {{"f:spec"}, {"f:metadata", "f:labels"}}},
    {"Pod", "status", {{"f:spec"}, {"f:metadata", "f:deletionTimestamp"}, {"f:metadata", "f:ownerReferences"}}},
    {"APIService", "status", {{"f:spec"}, {"f:metadata"}}},
    {"ServiceCIDR", "status", {{"f:spec"}, {"f:metadata"}}},
    {"ValidatingAdmissionPolicy", "status", {{"f:spec"}, {"f:metadata"}}},
    {"FlowSchema", "status", {{"f:spec"}, {"f:metadata"}}},
    {"PriorityLevelConfiguration", "status", {{"f:spec"}, {"f:metadata"}}},
    {"ResourceClaim", "status", {{"f:spec"}, {"f:metadata"}}},
    {"VolumeAttachment", "status", {{"f:spec"}, {"f:metadata"}}},
    {NULL, "status", {{"f:spec"}}},
};
static const struct reset custom_status = {NULL, "status", {{"f:spec"}, {"f:metadata"}}};
static const struct reset own_status = {NULL, "", {{"f:status"}}};

/* What alone may be changed through a subresource. '*' stands for any element. */
static const struct kept {
    const char *subresource, *path[5];
} kept[] = {
    {"ephemeralcontainers", {"f:spec", "f:ephemeralContainers"}},
    {"resize", {"f:spec", "f:containers", "*", "f:resources"}},
    {"resize", {"f:spec", "f:containers", "*", "f:resizePolicy"}},
    {"resize", {"f:spec", "f:initContainers", "*", "f:resources"}},
    {"resize", {"f:spec", "f:initContainers", "*", "f:resizePolicy"}},
};

static struct fset *below(struct arena *a, struct fset *s, const char *const *path) {
    if (!*path) return s;
    struct fset *out = fset_new(a);
    for (uint32_t i = 0; i < s->n; i++) {
        if (!str_eq(*path, "*") && !str_eq(*path, s->items[i].elem)) continue;
        struct fset *sub = below(a, s->items[i].sub, path + 1);
        if (!fset_empty(sub)) *fset_child(a, out, s->items[i].elem) = *sub;
    }
    return out;
}

static const struct reset *find_reset(const struct rules_ctx *c) {
    const char *sub = str_or_empty(c->subresource);
    if (!c->type && str_eq(sub, "status")) return &custom_status;
    for (size_t i = 0; i < ARRAY_LEN(resets); i++)
        if (str_eq(resets[i].subresource, sub) && (!resets[i].kind || str_eq(resets[i].kind, c->kind)))
            return &resets[i];
    const struct kind_rules *k = kind_find(c->group, c->kind);
    bool apart = k ? (k->flags & K_STATUS) && !(k->flags & K_KEEP_STATUS_ON_CREATE) : c->crd_status_subresource;
    return !*sub && apart ? &own_status : NULL;
}

static struct fset *strip_reset(struct rules_ctx *c, struct fset *s) {
    const struct reset *r = find_reset(c);
    struct fset *only = NULL;
    for (size_t i = 0; r && i < ARRAY_LEN(r->paths) && r->paths[i][0]; i++) s = strip(c->a, s, r->paths[i]);
    for (size_t i = 0; c->subresource && i < ARRAY_LEN(kept); i++)
        if (str_eq(kept[i].subresource, c->subresource)) only = fset_union(c->a, only, below(c->a, s, kept[i].path));
    return only ? only : s;
}

struct fset *managers_strip(struct rules_ctx *c, struct fset *s) {
    static const char *const system[][3] = {
        {"f:apiVersion"},
        {"f:kind"},
        {"f:metadata", "f:name"},
        {"f:metadata", "f:namespace"},
        {"f:metadata", "f:creationTimestamp"},
        {"f:metadata", "f:selfLink"},
        {"f:metadata", "f:uid"},
        {"f:metadata", "f:clusterName"},
        {"f:metadata", "f:generation"},
        {"f:metadata", "f:managedFields"},
        {"f:metadata", "f:resourceVersion"},
    };
    for (size_t i = 0; i < ARRAY_LEN(system); i++) s = strip(c->a, s, system[i]);
    s = strip_reset(c, s);
    return strip_member(s);
}

/* The object before a create, as Go's zero value of the kind: members without omitempty are there. */
static struct json *zero_object(struct arena *a, const struct api_type *type) {
    struct json *zero = NULL;
    if (type && api_tree_normalise(a, type, json_object(a), &zero, NULL, NULL) == 0) return zero;
    return json_object(a);
}

struct fset_diff managers_diff(struct rules_ctx *c, struct change *ch, const char *api_version) {
    if (str_eq(ch->api_version, api_version)) return ch->diff;
    const struct json *old = ch->old, *now = ch->now;
    const struct api_type *type = c->type;
    struct schema root = schema_root(c);
    struct json *seen = c->view ? c->view(c->a, c->view_arg, api_version, now, &type) : NULL;
    if (seen) {
        now = seen;
        if (old) old = c->view(c->a, c->view_arg, api_version, old, &type);
        root = schema_of_type(type);
    }
    struct fset_diff d = fset_compare(c->a, root, old ? old : zero_object(c->a, type), now);
    d.added = managers_strip(c, d.added);
    d.modified = managers_strip(c, d.modified);
    d.removed = managers_strip(c, d.removed);
    ch->api_version = api_version;
    ch->diff = d;
    return d;
}

static bool version_known(struct rules_ctx *c, const char *api_version) {
    const char *slash = strchr(api_version, '/');
    const char *group = slash ? arena_strndup(c->a, api_version, (size_t)(slash - api_version)) : "";
    return !c->type || api_type_find(group, slash ? slash + 1 : api_version, c->kind);
}

void managers_take(struct rules_ctx *c, struct managers *m, const struct manager *self, struct change *ch) {
    for (size_t i = 0; i < m->n; i++) {
        if (&m->items[i] == self) continue;
        if (!version_known(c, m->items[i].api_version)) { /* its fields mean nothing any more */
            m->items[i].set = fset_new(c->a);
            continue;
        }
        struct fset_diff d = managers_diff(c, ch, m->items[i].api_version);
        struct fset *changed = fset_union(c->a, fset_union(c->a, d.added, d.modified), d.removed);
        m->items[i].set = fset_difference(c->a, m->items[i].set, changed);
    }
}

static bool is_reset(const struct json *list) { return json_len(list) == 1 && jempty(json_item(list, 0)); }

void managed_fields_update(struct rules_ctx *c, struct json *obj, const struct json *old) {
    struct arena *a = c->a;
    struct json *meta = json_ensure_object(a, obj, "metadata");
    const struct json *sent = json_get(meta, "managedFields"), *had = json_at(old, "metadata", "managedFields", NULL);
    struct managers m;
    const char *sub = str_or_empty(c->subresource), *gv = group_version(a, c);
    managers_read(a, list_valid(sent) ? sent : NULL, &m);
    if ((!m.n && !is_reset(sent)) || *sub) managers_read(a, had, &m);
    if (!old) m.n = 0;
    if (old && !m.n) { /* never tracked, or given up: stays so */
        json_del(meta, "managedFields");
        return;
    }
    struct change ch = {old, obj, NULL, {0}};
    managers_take(c, &m, NULL, &ch);
    struct fset_diff d = managers_diff(c, &ch, gv);
    struct fset *own = fset_union(a, d.added, d.modified);
    if (!fset_empty(own)) {
        struct manager *self = managers_find(&m, str_or_empty(c->field_manager), "Update", gv, sub);
        if (!self) self = managers_add(a, &m, str_or_empty(c->field_manager), "Update", gv, sub);
        self->set = fset_union(a, self->set, own);
        manager_touch(c, self);
    }
    managers_write(a, &m, obj);
}
