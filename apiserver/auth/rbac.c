/* The RBAC snapshot: roles by name, bindings by the subjects they name, so that a decision looks only at bindings of
 * the user and his groups. Each entry has an arena of its own and goes with it when the object changes.
 * Upstream: plugin/pkg/auth/authorizer/rbac, pkg/registry/rbac/validation, and the clusterroleaggregation controller. */
#include "apiserver/auth/internal.h"

enum { SUBJECT_MAX = 1024 };

struct binding_list {
    struct binding_entry **items;
    size_t n, cap;
};

/* "first<by>second" in buf; "", which matches nothing, when that is too long. Every decision makes some of these. */
static const char *pair_key(char buf[SUBJECT_MAX], const char *first, char by, const char *second) {
    size_t n = strlen(first), m = strlen(second);
    if (n + m + 2 > SUBJECT_MAX) return "";
    char *o = mempcpy(buf, first, n);
    *o++ = by;
    memcpy(o, second, m + 1);
    return buf;
}

static const char *entry_key(char buf[SUBJECT_MAX], const char *ns, const char *name) {
    return pair_key(buf, str_or_empty(ns), '/', name);
}

/* ---- roles ---- */

static void role_free(void *p) {
    if (p) arena_free(((struct role_entry *)p)->arena);
}

void rbac_role_put(struct rbac_snapshot *s, const char *ns, const char *name, const struct json *obj) {
    char key[SUBJECT_MAX];
    entry_key(key, ns, name);
    if (!obj) {
        role_free(map_del(&s->roles, key));
        return;
    }
    struct arena *a = arena_new();
    struct role_entry *r = arena_zalloc(a, sizeof(*r));
    r->arena = a;
    r->name = arena_strdup(a, name);
    rules_read(a, json_get(obj, "rules"), &r->rules);
    if (str_empty(ns)) {
        const struct json *labels = json_at(obj, "metadata", "labels", NULL), *agg = json_get(obj, "aggregationRule");
        r->labels = json_len(labels) ? json_clone(a, labels) : NULL;
        r->aggregation = agg ? json_clone(a, agg) : NULL;
    }
    role_free(map_put(&s->roles, key, r));
}

const struct role_entry *rbac_role_get(const struct rbac_snapshot *s, const char *ns, const char *name) {
    char key[SUBJECT_MAX];
    return map_get(&s->roles, entry_key(key, ns, name));
}

/* ---- bindings ---- */

static const char *list_key(char buf[SUBJECT_MAX], const char *ns, const char *subject) {
    return pair_key(buf, str_or_empty(ns), '\n', subject);
}

static void binding_link(struct rbac_snapshot *s, struct binding_entry *b) {
    char key[SUBJECT_MAX];
    for (size_t i = 0; i < b->n_subjects; i++) {
        list_key(key, b->ns, b->subjects[i]);
        struct binding_list *l = map_get(&s->by_subject, key);
        if (!l) {
            l = xcalloc(1, sizeof(*l));
            map_put(&s->by_subject, key, l);
        }
        VEC_GROW(l->items, l->n, l->cap);
        l->items[l->n++] = b;
    }
}

static void list_free(void *p) {
    struct binding_list *l = p;
    free(l->items);
    free(l);
}

static void binding_unlink(struct rbac_snapshot *s, struct binding_entry *b) {
    char key[SUBJECT_MAX];
    for (size_t i = 0; i < b->n_subjects; i++) {
        list_key(key, b->ns, b->subjects[i]);
        struct binding_list *l = map_get(&s->by_subject, key);
        size_t k = 0;
        while (l && k < l->n && l->items[k] != b) k++;
        if (!l || k == l->n) continue;
        memmove(&l->items[k], &l->items[k + 1], (l->n - k - 1) * sizeof(*l->items));
        if (--l->n == 0) list_free(map_del(&s->by_subject, key));
    }
}

/* A subject as the index knows it; NULL for what can never match. Service accounts are users by their user name; in a
 * RoleBinding their namespace defaults to the binding's. */
static const char *subject_read(struct arena *a, const struct json *o, const char *binding_ns, const char **text) {
    const char *kind = json_get_str(o, "kind"), *name = str_or_empty(json_get_str(o, "name"));
    const char *ns = json_get_str(o, "namespace");
    if (str_eq(kind, "User") || str_eq(kind, "Group")) {
        *text = arena_printf(a, "%s \"%s\"", kind, name);
        return arena_printf(a, "%c:%s", *kind == 'U' ? 'u' : 'g', name);
    }
    if (str_empty(ns)) ns = binding_ns;
    if (!str_eq(kind, "ServiceAccount") || str_empty(ns)) return NULL;
    *text = arena_printf(a, "ServiceAccount \"%s/%s\"", name, ns);
    return arena_printf(a, "u:system:serviceaccount:%s:%s", ns, name);
}

/* Why a request is allowed: made once, and not for every decision. */
static const char *reason_text(const struct binding_entry *b, const char *subject) {
    bool local = *b->ns;
    return arena_printf(b->arena, "RBAC: allowed by %sRoleBinding \"%s%s%s\" of %s \"%s\" to %s",
                        local ? "" : "Cluster", b->name, local ? "/" : "", b->ns,
                        b->role_is_cluster ? "ClusterRole" : "Role", b->role_name, subject);
}

static struct binding_entry *binding_read(const char *ns, const char *name, const struct json *obj) {
    struct arena *a = arena_new();
    struct binding_entry *b = arena_zalloc(a, sizeof(*b));
    const struct json *ref = json_get(obj, "roleRef"), *subjects = json_get(obj, "subjects"), *it;
    *b = (struct binding_entry){.arena = a, .ns = arena_strdup(a, str_or_empty(ns)), .name = arena_strdup(a, name)};
    b->role_is_cluster = str_eq(json_get_str(ref, "kind"), "ClusterRole");
    b->role_name = arena_strdup(a, str_or_empty(json_get_str(ref, "name")));
    size_t n = json_len(subjects);
    b->subjects = arena_alloc(a, (n + 1) * sizeof(char *));
    b->reasons = arena_alloc(a, (n + 1) * sizeof(char *));
    JSON_FOREACH(it, subjects) {
        const char *text = NULL, *s = subject_read(a, it, b->ns, &text);
        bool seen = false;
        for (size_t i = 0; s && i < b->n_subjects; i++) seen |= str_eq(b->subjects[i], s);
        if (!s || seen || strlen(s) + strlen(b->ns) + 2 > SUBJECT_MAX) continue;
        b->reasons[b->n_subjects] = reason_text(b, text);
        b->subjects[b->n_subjects++] = s;
    }
    return b;
}

void rbac_binding_put(struct rbac_snapshot *s, const char *ns, const char *name, const struct json *obj) {
    char key[SUBJECT_MAX];
    entry_key(key, ns, name);
    struct binding_entry *b = obj ? binding_read(ns, name, obj) : NULL;
    struct binding_entry *old = b ? map_put(&s->bindings, key, b) : map_del(&s->bindings, key);
    if (old) {
        binding_unlink(s, old);
        arena_free(old->arena);
    }
    if (b) binding_link(s, b);
}

static void binding_free(void *p) { arena_free(((struct binding_entry *)p)->arena); }

void rbac_done(struct rbac_snapshot *s) {
    map_done_with(&s->by_subject, list_free);
    map_done_with(&s->bindings, binding_free);
    map_done_with(&s->roles, role_free);
}

/* ---- decisions ---- */

static bool visit_list(const struct rbac_snapshot *s, const char *ns, const char *subject, rbac_visit_fn *visit,
                       void *arg) {
    char key[SUBJECT_MAX];
    const struct binding_list *l = map_get(&s->by_subject, list_key(key, ns, subject));
    for (size_t i = 0; l && i < l->n; i++) {
        const struct binding_entry *b = l->items[i];
        if (!visit(arg, b, subject, rbac_role_get(s, b->role_is_cluster ? "" : b->ns, b->role_name))) return false;
    }
    return true;
}

void rbac_visit(const struct rbac_snapshot *s, const struct user_info *u, const char *ns, rbac_visit_fn *visit,
                void *arg) {
    for (int local = 0; local < 2; local++) {
        if (local && str_empty(ns)) return;
        const char *where = local ? ns : "";
        char subject[SUBJECT_MAX];
        if (!visit_list(s, where, pair_key(subject, "u", ':', u->name), visit, arg)) return;
        for (size_t i = 0; i < u->n_groups; i++)
            if (!visit_list(s, where, pair_key(subject, "g", ':', u->groups[i]), visit, arg)) return;
    }
}

struct decision {
    struct arena *a;
    const struct authz_attrs *q;
    const char *reason, *missing;
    size_t n_missing;
    bool allowed;
};

static bool decision_visit(void *arg, const struct binding_entry *b, const char *subject,
                           const struct role_entry *role) {
    struct decision *d = arg;
    if (!role) {
        const char *text = arena_printf(d->a, "%srole.rbac.authorization.k8s.io \"%s\" not found",
                                        b->role_is_cluster ? "cluster" : "", b->role_name);
        d->missing = d->n_missing++ ? arena_printf(d->a, "%s, %s", d->missing, text) : text;
        return true;
    }
    for (size_t i = 0; i < role->rules.n; i++) {
        if (!rule_allows(&role->rules.items[i], d->q)) continue;
        size_t k = 0;
        while (k + 1 < b->n_subjects && !str_eq(b->subjects[k], subject)) k++;
        d->reason = b->reasons[k];
        d->allowed = true;
        return false;
    }
    return true;
}

enum authz_decision rbac_decide(const struct rbac_snapshot *s, struct arena *a, const struct authz_attrs *q,
                                const char **reason) {
    struct decision d = {.a = a, .q = q};
    rbac_visit(s, q->user, q->resource_request ? q->ns : "", decision_visit, &d);
    *reason = d.allowed ? d.reason : NULL;
    if (!d.allowed && d.missing) *reason = arena_printf(a, d.n_missing > 1 ? "RBAC: [%s]" : "RBAC: %s", d.missing);
    return d.allowed ? AUTHZ_ALLOW : AUTHZ_NO_OPINION;
}

struct gather {
    struct arena *a;
    rule_vec *out;
    size_t cap;
};

static bool gather_visit(void *arg, const struct binding_entry *b, const char *subject, const struct role_entry *role) {
    struct gather *g = arg;
    for (size_t i = 0; role && i < role->rules.n; i++) rule_vec_add(g->a, g->out, &g->cap, &role->rules.items[i]);
    return true;
}

void rbac_rules(const struct rbac_snapshot *s, struct arena *a, const struct user_info *u, const char *ns,
                rule_vec *out) {
    struct gather g = {.a = a, .out = out};
    *out = (rule_vec){0};
    rbac_visit(s, u, ns, gather_visit, &g);
}

/* ---- aggregation ---- */

static bool expression_matches(const struct json *x, const struct json *labels) {
    const char *op = json_get_str(x, "operator"), *have = json_get_str(labels, str_or_empty(json_get_str(x, "key")));
    const struct json *it;
    bool in = false;
    if (have)
        JSON_FOREACH(it, json_get(x, "values")) in |= str_eq(json_as_str(it), have);
    if (str_eq(op, "In")) return in;
    if (str_eq(op, "NotIn")) return !in;
    if (str_eq(op, "Exists")) return have != NULL;
    return str_eq(op, "DoesNotExist") && !have;
}

static bool selector_matches(const struct json *selector, const struct json *labels) {
    JSON_FOREACH_MEMBER(m, json_get(selector, "matchLabels"))
        if (!str_eq(json_get_str(labels, m->key), json_as_str(m->value))) return false;
    const struct json *x;
    JSON_FOREACH(x, json_get(selector, "matchExpressions"))
        if (!expression_matches(x, labels)) return false;
    return true;
}

static int by_name(const void *x, const void *y) {
    return strcmp((*(const struct role_entry *const *)x)->name, (*(const struct role_entry *const *)y)->name);
}

/* All ClusterRoles, by name. */
static const struct role_entry **cluster_roles(const struct rbac_snapshot *s, struct arena *a, size_t *n) {
    const struct role_entry **all = arena_alloc(a, (s->roles.n + 1) * sizeof(*all));
    const char *key;
    void *value;
    *n = 0;
    for (size_t it = 0; map_next(&s->roles, &it, &key, &value);)
        if (*key == '/') all[(*n)++] = value;
    if (*n) qsort(all, *n, sizeof(*all), by_name);
    return all;
}

struct json *rbac_aggregate(const struct rbac_snapshot *s, struct arena *a, const struct json *role) {
    const struct json *agg = json_get(role, "aggregationRule"), *selector;
    if (!json_is(agg, JSON_OBJECT)) return NULL;
    const char *own = json_get_str(json_get(role, "metadata"), "name");
    size_t n, cap = 0;
    const struct role_entry **all = cluster_roles(s, a, &n);
    rule_vec rules = {0};
    JSON_FOREACH(selector, json_get(agg, "clusterRoleSelectors")) {
        for (size_t i = 0; i < n; i++) {
            if (str_eq(all[i]->name, own) || !selector_matches(selector, all[i]->labels)) continue;
            for (size_t r = 0; r < all[i]->rules.n; r++) {
                bool seen = false;
                for (size_t k = 0; k < rules.n; k++) seen |= rule_equal(&rules.items[k], &all[i]->rules.items[r]);
                if (!seen) rule_vec_add(a, &rules, &cap, &all[i]->rules.items[r]);
            }
        }
    }
    struct json *out = json_array(a);
    for (size_t i = 0; i < rules.n; i++) json_append(a, out, rule_write(a, &rules.items[i]));
    return out;
}
