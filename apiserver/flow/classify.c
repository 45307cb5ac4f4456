/* Which FlowSchema a request belongs to: the first in order of precedence (then name) that has a rule with a
 * matching subject and a matching resource or path. Behind the last stands catch-all. */
#include "apiserver/flow/internal.h"
#include "pkg/base/map.h"

/* ---- reading ---- */

static const char **strings(struct arena *a, const struct json *list) {
    const char **out = arena_alloc(a, (json_len(list) + 1) * sizeof(*out));
    struct json *x;
    size_t n = 0;
    JSON_FOREACH(x, list) {
        if (json_as_str(x)) out[n++] = arena_strdup(a, json_as_str(x));
    }
    out[n] = NULL;
    return out;
}

static void read_subject(struct arena *a, const struct json *s, struct flow_subject *out) {
    static const struct {
        const char *kind, *member;
        enum flow_subject_kind k;
    } kinds[] = {{"User", "user", SUBJECT_USER},
                 {"Group", "group", SUBJECT_GROUP},
                 {"ServiceAccount", "serviceAccount", SUBJECT_ACCOUNT}};
    *out = (struct flow_subject){.name = "", .ns = ""};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!str_eq(json_get_str(s, "kind"), kinds[i].kind)) continue;
        const struct json *m = json_get(s, kinds[i].member);
        out->kind = kinds[i].k;
        out->name = arena_strdup(a, str_or_empty(json_get_str(m, "name")));
        out->ns = arena_strdup(a, str_or_empty(json_get_str(m, "namespace")));
        out->any = str_eq(out->name, "*");
        out->hash = hash_bytes(out->name, strlen(out->name));
    }
}

static void read_rule(struct arena *a, const struct json *r, bool urls, struct flow_rule *out) {
    *out = (struct flow_rule){.verbs = strings(a, json_get(r, "verbs"))};
    if (urls) {
        out->urls = strings(a, json_get(r, "nonResourceURLs"));
        return;
    }
    out->groups = strings(a, json_get(r, "apiGroups"));
    out->resources = strings(a, json_get(r, "resources"));
    out->namespaces = strings(a, json_get(r, "namespaces"));
    out->cluster_scope = json_get_bool(r, "clusterScope", false);
}

static void read_rules(struct arena *a, const struct json *r, struct flow_schema_rules *out) {
    const struct json *subjects = json_get(r, "subjects"), *res = json_get(r, "resourceRules"),
                      *non = json_get(r, "nonResourceRules");
    struct json *x;
    out->subjects = arena_zalloc(a, (json_len(subjects) + 1) * sizeof(*out->subjects));
    out->rules = arena_zalloc(a, (json_len(res) + json_len(non) + 1) * sizeof(*out->rules));
    JSON_FOREACH(x, subjects) read_subject(a, x, &out->subjects[out->n_subjects++]);
    JSON_FOREACH(x, res) read_rule(a, x, false, &out->rules[out->n_rules++]);
    JSON_FOREACH(x, non) read_rule(a, x, true, &out->rules[out->n_rules++]);
}

struct flow_schema *flow_schema_read(const char *name, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec"), *rules = json_get(spec, "rules");
    const char *by = json_as_str(json_at(spec, "distinguisherMethod", "type", NULL));
    struct flow_schema *s = xcalloc(1, sizeof(*s));
    struct json *r;
    s->arena = arena_new();
    snprintf(s->name, sizeof(s->name), "%s", name);
    snprintf(s->uid, sizeof(s->uid), "%s", str_or_empty(json_as_str(json_at(obj, "metadata", "uid", NULL))));
    snprintf(s->level, sizeof(s->level), "%s",
             str_or_empty(json_as_str(json_at(spec, "priorityLevelConfiguration", "name", NULL))));
    s->precedence = json_get_int(spec, "matchingPrecedence", 1000);
    s->distinguisher = str_eq(by, "ByUser") ? BY_USER : str_eq(by, "ByNamespace") ? BY_NAMESPACE : BY_NOTHING;
    s->rules = arena_zalloc(s->arena, (json_len(rules) + 1) * sizeof(*s->rules));
    JSON_FOREACH(r, rules) read_rules(s->arena, r, &s->rules[s->n_rules++]);
    return s;
}

void flow_schema_free(struct flow_schema *s) {
    if (!s) return;
    arena_free(s->arena);
    free(s);
}

/* ---- matching ---- */

static bool has(const char *const *list, const char *s) {
    for (; *list; list++)
        if (str_eq(*list, "*") || str_eq(*list, s)) return true;
    return false;
}

/* "*" alone, exact, or up to a final "*". */
static bool has_url(const char *const *list, const char *path) {
    for (; *list; list++) {
        size_t n = strlen(*list);
        bool prefix = n && (*list)[n - 1] == '*';
        if (prefix ? strncmp(*list, path, n - 1) == 0 : str_eq(*list, path)) return true;
    }
    return false;
}

/* "pods", "pods/log", "*", "*\/scale" */
static bool has_resource(const char *const *list, const struct request *q) {
    bool sub = !str_empty(q->subresource);
    size_t n = strlen(q->plural);
    for (; *list; list++) {
        const char *x = *list, *slash = strchr(x, '/');
        if (str_eq(x, "*")) return true;
        if (!slash) {
            if (!sub && str_eq(x, q->plural)) return true;
            continue;
        }
        size_t len = (size_t)(slash - x);
        bool name = (len == 1 && *x == '*') || (len == n && strncmp(x, q->plural, n) == 0);
        if (sub && name && str_eq(slash + 1, q->subresource)) return true;
    }
    return false;
}

static bool rule_match(const struct flow_rule *r, const struct request *q) {
    if (q->is_resource == (r->urls != NULL) || !has(r->verbs, q->verb)) return false;
    if (r->urls) return has_url(r->urls, q->http->path);
    if (!has(r->groups, q->group) || !has_resource(r->resources, q)) return false;
    const char *ns = q->ns;
    if (str_eq(q->plural, "namespaces") && str_empty(ns)) ns = q->name; /* a namespace counts as being in itself */
    return str_empty(ns) ? r->cluster_scope : has(r->namespaces, ns);
}

#define ACCOUNT_PREFIX "system:serviceaccount:"

static bool account_match(const struct flow_subject *s, const char *user) {
    size_t n = strlen(s->ns);
    user += strlen(ACCOUNT_PREFIX);
    return strncmp(user, s->ns, n) == 0 && user[n] == ':' && (s->any || str_eq(user + n + 1, s->name));
}

static bool group_match(const struct flow_subject *s, const struct user_info *u, const struct flow_who *w) {
    if (s->any) return true;
    for (size_t i = 0; i < u->n_groups; i++)
        if ((i >= ARRAY_LEN(w->groups) || w->groups[i] == s->hash) && str_eq(u->groups[i], s->name)) return true;
    return false;
}

static bool subject_match(const struct flow_subject *s, const struct user_info *u, const struct flow_who *w) {
    switch (s->kind) {
        case SUBJECT_USER: return s->any || (s->hash == w->user && str_eq(s->name, u->name));
        case SUBJECT_GROUP: return group_match(s, u, w);
        case SUBJECT_ACCOUNT: return w->account && account_match(s, u->name);
    }
    return false;
}

static bool rules_match(const struct flow_schema_rules *r, const struct request *q, const struct flow_who *w) {
    size_t i = 0;
    while (i < r->n_subjects && !subject_match(&r->subjects[i], &q->user, w)) i++;
    if (i == r->n_subjects) return false;
    for (i = 0; i < r->n_rules; i++)
        if (rule_match(&r->rules[i], q)) return true;
    return false;
}

bool flow_schema_match(const struct flow_schema *s, const struct request *q, const struct flow_who *w) {
    for (size_t i = 0; i < s->n_rules; i++)
        if (rules_match(&s->rules[i], q, w)) return true;
    return false;
}

static void who_of(const struct user_info *u, struct flow_who *w) {
    w->user = hash_bytes(u->name, strlen(u->name));
    w->account = str_has_prefix(u->name, ACCOUNT_PREFIX);
    for (size_t i = 0; i < u->n_groups && i < ARRAY_LEN(w->groups); i++)
        w->groups[i] = hash_bytes(u->groups[i], strlen(u->groups[i]));
}

/* ---- classifying ---- */

static uint32_t flow_hash(const struct flow_schema *s, const struct request *q) {
    const char *d = s->distinguisher == BY_USER        ? q->user.name
                    : s->distinguisher == BY_NAMESPACE ? str_or_empty(q->ns)
                                                       : "";
    uint32_t h[2] = {hash_bytes(s->name, strlen(s->name)), hash_bytes(d, strlen(d))};
    return hash_bytes(h, sizeof(h));
}

void flow_classify(struct flow *f, struct request *q) {
    struct flow_ticket *t = &q->flow;
    const struct flow_schema *s = NULL;
    struct flow_who w;
    who_of(&q->user, &w);
    pthread_rwlock_rdlock(&f->config);
    for (size_t i = 0; i < f->n_schemas && !s; i++)
        if (flow_schema_match(f->schemas[i], q, &w)) s = f->schemas[i];
    t->level = s ? s->to : f->catch_all;
    t->stat = s ? s->stat : f->stat_catch_all;
    if (s) {
        memcpy(q->flow_schema_uid, s->uid, sizeof(q->flow_schema_uid));
        if (t->level->n_queues > 1) t->hash = flow_hash(s, q);
    }
    memcpy(q->flow_level_uid, t->level->uid, sizeof(q->flow_level_uid));
    pthread_rwlock_unlock(&f->config);
}

void flow_pass(struct flow *f, struct request *q) {
    atomic_fetch_add_explicit(&q->flow.stat->dispatched, 1, memory_order_relaxed);
}
