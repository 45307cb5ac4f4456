/* Snapshots of what is configured. A write asks for the revision at which the resources in question last changed (the watch
 * cache knows) and takes the snapshot of that revision; the first that finds it outdated makes a new one. Without a cache to
 * ask, every write makes its own. */
#include <pthread.h>

#include "apiserver/rules/alloc.h"
#include "apiserver/rules/policy.h"

struct policy_cache {
    pthread_mutex_t lock;
    struct policy_set *sets[SETS];
};

static const struct {
    const char *main, *bindings;
} resources[SETS] = {
    [SET_VALIDATING_POLICIES] = {"validatingadmissionpolicies", "validatingadmissionpolicybindings"},
    [SET_MUTATING_POLICIES] = {"mutatingadmissionpolicies", "mutatingadmissionpolicybindings"},
    [SET_VALIDATING_HOOKS] = {"validatingwebhookconfigurations", NULL},
    [SET_MUTATING_HOOKS] = {"mutatingwebhookconfigurations", NULL},
};

struct policy_cache *policy_cache_new(void) {
    struct policy_cache *p = xcalloc(1, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

void policy_set_unref(struct policy_set *s) {
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) return;
    arena_free(s->arena);
    free(s);
}

void policy_cache_free(struct policy_cache *p) {
    if (!p) return;
    for (size_t i = 0; i < SETS; i++) policy_set_unref(p->sets[i]);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* ---- making ---- */

static const char *name_of(const struct json *o) { return jstr(json_get(o, "metadata"), "name"); }

static int by_name(const void *x, const void *y) {
    const struct json *const *a = x, *const *b = y;
    return strcmp(name_of(*a), name_of(*b));
}

static const struct json **sorted(struct arena *a, const struct json *list, size_t *n) {
    const struct json **out = arena_alloc(a, (json_len(list) + 1) * sizeof(*out)), *it;
    *n = 0;
    JSON_FOREACH(it, list) out[(*n)++] = it;
    if (*n > 1) qsort(out, *n, sizeof(*out), by_name);
    return out;
}

static const struct json *list_of(struct rules_ctx *c, struct arena *a, const char *resource) {
    const struct rules_lookup *l = &c->rules->lookup;
    return l->list ? l->list(l->arg, a, ADMISSION_GROUP, resource, NULL) : NULL;
}

static void make_policies(struct rules_ctx *c, struct policy_set *s, enum policy_set_kind kind) {
    size_t n, n_bindings;
    const struct json **list = sorted(s->arena, list_of(c, s->arena, resources[kind].main), &n);
    const struct json **bindings =
        sorted(s->arena, n ? list_of(c, s->arena, resources[kind].bindings) : NULL, &n_bindings);
    s->policies = arena_alloc(s->arena, (n + 1) * sizeof(*s->policies));
    for (size_t i = 0; i < n; i++) {
        const struct json **own = arena_alloc(s->arena, (n_bindings + 1) * sizeof(*own));
        size_t n_own = 0;
        for (size_t j = 0; j < n_bindings; j++)
            if (str_eq(jstr(json_get(bindings[j], "spec"), "policyName"), name_of(list[i]))) own[n_own++] = bindings[j];
        if (!n_own) continue; /* without a binding a policy has no effect */
        struct policy *p = policy_compile(s->arena, list[i], kind == SET_MUTATING_POLICIES, NULL, NULL);
        p->bindings = own;
        p->n_bindings = n_own;
        s->policies[s->n++] = p;
    }
}

static void make_hooks(struct rules_ctx *c, struct policy_set *s, enum policy_set_kind kind) {
    static const char *const bools[] = {"bool", NULL};
    size_t n, cap = 0;
    const struct json **list = sorted(s->arena, list_of(c, s->arena, resources[kind].main), &n), *it, *cond;
    for (size_t i = 0; i < n; i++)
        JSON_FOREACH(it, json_get(list[i], "webhooks")) {
            const struct json *conditions = json_get(it, "matchConditions");
            ARENA_GROW(s->arena, s->hooks, s->n, cap);
            struct admission_hook *h = &s->hooks[s->n++];
            *h = (struct admission_hook){.config = name_of(list[i]), .name = jstr(it, "name"), .hook = it};
            h->key = arena_printf(s->arena, "%s/%s", h->config, h->name);
            if (!json_len(conditions)) continue;
            h->env = cel_policy_env_new(s->arena, CEL_DECL_AUTHORIZER, NULL, NULL, NULL);
            h->conditions = arena_zalloc(s->arena, json_len(conditions) * sizeof(*h->conditions));
            JSON_FOREACH(cond, conditions)
                h->conditions[h->n_conditions++] =
                    expr_compile(s->arena, h->env, jstr(cond, "name"), jstr(cond, "expression"), bools);
        }
}

static struct policy_set *make(struct rules_ctx *c, enum policy_set_kind kind, int64_t rev) {
    struct policy_set *s = xcalloc(1, sizeof(*s));
    s->refs = 1;
    s->rev = rev;
    s->arena = arena_new_sized(256);
    if (resources[kind].bindings)
        make_policies(c, s, kind);
    else
        make_hooks(c, s, kind);
    return s;
}

struct policy_set *policy_set_get(struct rules_ctx *c, enum policy_set_kind kind) {
    const struct rules_lookup *l = &c->rules->lookup;
    struct policy_cache *p = c->rules->policies;
    if (!l->changed || !p) return make(c, kind, 0);
    int64_t rev = l->changed(l->arg, ADMISSION_GROUP, resources[kind].main);
    if (resources[kind].bindings) rev = MAX_OF(rev, l->changed(l->arg, ADMISSION_GROUP, resources[kind].bindings));
    pthread_mutex_lock(&p->lock);
    struct policy_set *s = p->sets[kind];
    if (!s || s->rev != rev) {
        policy_set_unref(s);
        s = p->sets[kind] = make(c, kind, rev);
    }
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&p->lock);
    return s;
}
