/* ResourceQuota controller: shows in each quota's status what its namespace uses (upstream
 * pkg/controller/resourcequota). Enforcing is the API server's admission, which counts for itself; where there are several
 * servers, they charge the status for what they are about to store, and what they have just charged is left alone until
 * the object can be counted. */
#include <pthread.h>

#include "pkg/api/quantity.h"
#include "pkg/api/resource.h"
#include "pkg/base/map.h"
#include "util.h"

#define RESYNC (300 * NS_PER_SEC)
#define DISCOVER_EVERY (5 * NS_PER_SEC)
#define CHARGE_AGE (2 * NS_PER_SEC) /* after which the charged object is stored, or will not be */

enum {
    WATCHED_MAX = 32,
    CLAIM_DEVICES_MAX = 32 /* of one ResourceClaim, as many as its allocation may hold */
};

struct quota_controller {
    struct manager *m;
    struct workqueue *q;
    /* resources that some quota counts and that nobody else watches: by their metadata; used by the one
     * worker */
    struct watched {
        const struct client_resource *r;
        struct informer *i;
        bool shared;
    } watched[WATCHED_MAX];
    size_t n_watched;
    struct arena *arena; /* of custom resources' names; used by the one worker */
    int64_t discover_at; /* mono: not before */
    pthread_mutex_t lock;
    struct map charges; /* key -> struct charge */
};

/* What is known of the writers of a quota's status. */
struct charge {
    char *written;      /* what this controller wrote last, or is writing; NULL: nothing */
    int64_t foreign_at; /* mono: when somebody else's was seen; 0: not since */
};

static void wake(void *arg, struct object *o);

/* ---- charges ---- */

static const char *used_text(struct arena *a, const struct core_resource_quota *q) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < q->status.used.n; i++)
        buf_printf(&b, "%s=%s\n", q->status.used.items[i].key, q->status.used.items[i].value);
    return arena_strndup(a, str_or_empty(b.data), b.len);
}

/* Under the lock. */
static struct charge *charge_of(struct quota_controller *c, const char *key) {
    struct charge *x = map_get(&c->charges, key);
    if (x) return x;
    x = xcalloc(1, sizeof(*x));
    map_put(&c->charges, key, x);
    return x;
}

static void charge_free(void *p) {
    struct charge *x = p;
    free(x->written);
    free(x);
}

/* How long the status must be left as it is. */
static int64_t charge_left(struct quota_controller *c, const char *key) {
    pthread_mutex_lock(&c->lock);
    const struct charge *x = map_get(&c->charges, key);
    int64_t left = x && x->foreign_at ? x->foreign_at + CHARGE_AGE - mono_ns() : 0;
    pthread_mutex_unlock(&c->lock);
    return left;
}

static void note_written(struct quota_controller *c, struct arena *a, const char *key,
                         const struct core_resource_quota *q) {
    pthread_mutex_lock(&c->lock);
    struct charge *x = charge_of(c, key);
    free(x->written);
    x->written = xstrdup(used_text(a, q));
    x->foreign_at = 0;
    pthread_mutex_unlock(&c->lock);
}

static void quota_added(void *arg, struct object *o) { workqueue_add(((struct quota_controller *)arg)->q, o->key); }

static void quota_updated(void *arg, struct object *old, struct object *o) {
    struct quota_controller *c = arg;
    const struct core_resource_quota *was = old->obj, *now = o->obj;
    if (!api_equal(&api_core_resource_quota_spec, &was->spec, &now->spec)) {
        workqueue_add(c->q, o->key);
        return;
    }
    _cleanup_arena_ struct arena *a = arena_new();
    const char *used = used_text(a, now);
    pthread_mutex_lock(&c->lock);
    struct charge *x = charge_of(c, o->key);
    bool foreign = !str_eq(x->written, used);
    if (foreign) x->foreign_at = mono_ns();
    pthread_mutex_unlock(&c->lock);
    if (foreign) workqueue_add_after(c->q, o->key, CHARGE_AGE);
}

static void quota_gone(void *arg, struct object *o) {
    struct quota_controller *c = arg;
    pthread_mutex_lock(&c->lock);
    struct charge *x = map_get(&c->charges, o->key);
    map_del(&c->charges, o->key);
    pthread_mutex_unlock(&c->lock);
    if (x) charge_free(x);
}

/* ---- scopes ---- */

static bool terms_reach_out(const struct core_pod_affinity_term_vec *t) {
    for (size_t i = 0; i < t->n; i++)
        if (t->items[i].namespaces.n || t->items[i].namespace_selector) return true;
    return false;
}

static bool wishes_reach_out(const struct core_weighted_pod_affinity_term_vec *t) {
    for (size_t i = 0; i < t->n; i++)
        if (t->items[i].pod_affinity_term.namespaces.n || t->items[i].pod_affinity_term.namespace_selector) return true;
    return false;
}

/* Whether a pod's affinity looks at pods of other namespaces. */
static bool reaches_out(const struct core_pod *p) {
    const struct core_affinity *a = p->spec.affinity;
    const struct core_pod_affinity *to = a ? a->pod_affinity : NULL;
    const struct core_pod_anti_affinity *from = a ? a->pod_anti_affinity : NULL;
    return (to && (terms_reach_out(&to->required_during_scheduling_ignored_during_execution) ||
                   wishes_reach_out(&to->preferred_during_scheduling_ignored_during_execution))) ||
           (from && (terms_reach_out(&from->required_during_scheduling_ignored_during_execution) ||
                     wishes_reach_out(&from->preferred_during_scheduling_ignored_during_execution)));
}

static bool pod_in_scope(const struct core_pod *p, const char *scope) {
    bool terminating = p->spec.active_deadline_seconds != NULL, best_effort = str_eq(p->status.qos_class, "BestEffort");
    if (str_eq(scope, "Terminating")) return terminating;
    if (str_eq(scope, "NotTerminating")) return !terminating;
    if (str_eq(scope, "BestEffort")) return best_effort;
    if (str_eq(scope, "NotBestEffort")) return !best_effort;
    if (str_eq(scope, "CrossNamespacePodAffinity")) return reaches_out(p);
    return str_eq(scope, "PriorityClass") && !str_empty(p->spec.priority_class_name);
}

/* What a quota may look at: a pod, or a claim. */
struct counted {
    const struct core_pod *pod;
    const struct core_persistent_volume_claim *claim;
};

static bool in_scope(const struct counted *o, const char *scope, const char *const *names, size_t n) {
    return o->pod ? pod_in_scope(o->pod, scope) : str_eq(scope, "VolumeAttributesClass") && n && names[0];
}

/* One name that fits is enough; without any, those that exclude do. */
static bool names_fit(const struct core_scoped_resource_selector_requirement *x, const char *const *names, size_t n) {
    bool wanted = str_eq(x->operator, "In");
    for (size_t i = 0; i < n; i++) {
        bool listed = false;
        for (size_t k = 0; k < x->values.n; k++) listed |= str_eq(x->values.items[k], names[i]);
        if (listed == wanted) return true;
    }
    return !n && !wanted;
}

static bool applies(const struct core_resource_quota *q, const struct counted *o) {
    const struct core_persistent_volume_claim *k = o->claim;
    const char *const all[] = {
        o->pod ? o->pod->spec.priority_class_name : NULL,
        k ? k->spec.volume_attributes_class_name : NULL,
        k ? k->status.current_volume_attributes_class_name : NULL,
        k && k->status.modify_volume_status ? k->status.modify_volume_status->target_volume_attributes_class_name
                                            : NULL,
    };
    const char *names[ARRAY_LEN(all)];
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (!str_empty(all[i])) names[n++] = all[i];
    for (size_t i = 0; i < q->spec.scopes.n; i++)
        if (!in_scope(o, q->spec.scopes.items[i], names, n)) return false;
    for (size_t i = 0; q->spec.scope_selector && i < q->spec.scope_selector->match_expressions.n; i++) {
        const struct core_scoped_resource_selector_requirement *x = &q->spec.scope_selector->match_expressions.items[i];
        bool named = str_eq(x->operator, "In") || str_eq(x->operator, "NotIn");
        if (named ? !names_fit(x, names, n) : in_scope(o, x->scope_name, names, n) != str_eq(x->operator, "Exists"))
            return false;
    }
    return true;
}

/* ---- sums ---- */

static void add(struct quantity *sum, const char *text) {
    struct quantity v;
    if (text && quantity_parse(text, &v) == 0) {
        bool first = sum->nano == 0;
        *sum = quantity_add(*sum, v);
        if (first) sum->format = v.format;
    }
}

static struct quantity most(struct quantity a, struct quantity b) { return quantity_cmp(a, b) >= 0 ? a : b; }

static struct quantity pod_sum(const struct core_pod *p, const char *resource, bool limits) {
    struct quantity run = {0}, init = {0}, side = {0};
    for (size_t i = 0; i < p->spec.containers.n; i++) {
        const struct core_resource_requirements *r = &p->spec.containers.items[i].resources;
        add(&run, str_map_get(limits ? &r->limits : &r->requests, resource));
    }
    for (size_t i = 0; i < p->spec.init_containers.n; i++) {
        const struct core_container *c = &p->spec.init_containers.items[i];
        struct quantity one = side;
        add(&one, str_map_get(limits ? &c->resources.limits : &c->resources.requests, resource));
        init = most(init, one);
        if (str_eq(c->restart_policy, "Always")) side = one;
    }
    struct quantity both = quantity_add(run, side);
    if (run.nano == 0) both.format = side.format;
    both = most(both, init);
    add(&both, str_map_get(&p->spec.overhead, resource));
    return both;
}

static struct quantity pods_use(struct quota_controller *c, const struct core_resource_quota *q, const char *key) {
    struct quantity sum = {0};
    bool limits = str_has_prefix(key, "limits."), count = strcmp(key, "pods") == 0 || strcmp(key, "count/pods") == 0;
    const char *resource = limits ? key + 7 : str_has_prefix(key, "requests.") ? key + 9 : key;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_pods), q->metadata.namespace, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct core_pod *p = l.items[i]->obj;
        bool counts = strcmp(key, "count/pods") == 0 || !pod_is_terminal(p);
        if (!counts || !applies(q, &(struct counted){.pod = p})) continue;
        struct quantity one = count ? (struct quantity){.nano = 1000000000} : pod_sum(p, resource, limits);
        if (sum.nano == 0) sum.format = one.format;
        sum = quantity_add(sum, one);
    }
    return sum;
}

static struct quantity services_use(struct quota_controller *c, const char *ns, const char *key) {
    int64_t n = 0;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_services), ns, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct core_service *s = l.items[i]->obj;
        bool lb = str_eq(s->spec.type, "LoadBalancer"), ports = lb || str_eq(s->spec.type, "NodePort");
        if (strcmp(key, "services.loadbalancers") == 0)
            n += lb;
        else if (strcmp(key, "services.nodeports") == 0)
            n += ports ? (int64_t)s->spec.ports.n : 0;
        else
            n++;
    }
    return (struct quantity){.nano = (__int128)n * 1000000000};
}

/* What claims use of "requests.storage" or "persistentvolumeclaims"; `class`: only those of a storage class. */
static struct quantity claims_use(struct quota_controller *c, const struct core_resource_quota *q, const char *what,
                                  const char *class) {
    bool size = str_eq(what, "requests.storage");
    struct quantity sum = {0};
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_persistentvolumeclaims), q->metadata.namespace, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct core_persistent_volume_claim *k = l.items[i]->obj;
        const char *asked = str_map_get(&k->spec.resources.requests, "storage"),
                   *made = str_map_get(&k->status.allocated_resources, "storage");
        struct quantity a = {0}, b = {0};
        if ((class && !str_eq(class, k->spec.storage_class_name)) || !applies(q, &(struct counted){.claim = k}))
            continue;
        if (asked) quantity_parse(asked, &a);
        if (made) quantity_parse(made, &b);
        add(&sum, !size ? "1" : quantity_cmp(b, a) > 0 ? made : asked);
    }
    return sum;
}

/* Of one request of a ResourceClaim, or one of its alternatives: the devices that it may get of a class. */
static int64_t wanted(const char *of, const char *mode, int64_t count, const char *class) {
    if (!str_eq(of, class)) return 0;
    return str_eq(mode, "All") ? CLAIM_DEVICES_MAX : str_eq(mode, "ExactCount") ? count : 0;
}

static int64_t claim_devices(const struct resource_resource_claim *k, const char *class) {
    int64_t sum = 0;
    for (size_t i = 0; i < k->spec.devices.requests.n; i++) {
        const struct resource_device_request *rq = &k->spec.devices.requests.items[i];
        const struct resource_exact_device_request *x = rq->exactly;
        int64_t most = x ? wanted(x->device_class_name, x->allocation_mode, x->count, class) : 0;
        for (size_t j = 0; j < rq->first_available.n; j++) {
            const struct resource_device_sub_request *s = &rq->first_available.items[j];
            most = MAX_OF(most, wanted(s->device_class_name, s->allocation_mode, s->count, class));
        }
        sum += most;
    }
    return sum;
}

static struct quantity devices_use(struct quota_controller *c, const char *ns, const char *class) {
    int64_t n = 0;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_resourceclaims), ns, &l);
    for (size_t i = 0; i < l.n; i++) n += claim_devices(l.items[i]->obj, class);
    return (struct quantity){.nano = (__int128)n * 1000000000};
}

/* The informer of a resource, started when first needed; its objects then wake the quotas of their
 * namespaces. */
static struct informer *counted(struct quota_controller *c, const struct client_resource *r) {
    for (size_t i = 0; i < c->n_watched; i++)
        if (c->watched[i].r == r) return c->watched[i].i;
    if (c->n_watched == WATCHED_MAX) return NULL;
    struct informer_opts o = {.metadata_only = true};
    bool shared = informers_has(c->m->informers, r);
    struct informer *i = shared ? manager_informer(c->m, r) : informer_new(c->m->client, r, &o);
    struct informer_handler h = {.on_add = wake, .on_delete = wake, .arg = c};
    informer_add_handler(i, &h);
    if (!shared) informer_wait_synced(i, 5000, NULL);
    c->watched[c->n_watched++] = (struct watched){r, i, shared};
    return i;
}

static bool is_called(const struct client_resource *r, const char *what) {
    size_t n = strlen(r->plural);
    return strncmp(r->plural, what, n) == 0 &&
           (what[n] == '.' ? str_eq(r->group, what + n + 1) : !what[n] && !*r->group);
}

/* A resource that no program knows beforehand, as discovery has it. NULL: there is none. */
static const struct client_resource *discovered(struct quota_controller *c, struct arena *a, const char *what) {
    struct client_discovery d;
    for (size_t i = 0; i < c->n_watched; i++)
        if (is_called(c->watched[i].r, what)) return c->watched[i].r;
    if (mono_ns() < c->discover_at) return NULL;
    c->discover_at = mono_ns() + DISCOVER_EVERY;
    if (client_discover(c->m->client, a, &d, NULL) < 0) return NULL;
    for (size_t i = 0; i < d.n; i++) {
        const struct client_api_resource *x = &d.items[i];
        struct client_resource r = {.group = x->group, .plural = x->plural};
        if (!x->namespaced || !is_called(&r, what)) continue;
        struct client_resource *own = arena_zalloc(c->arena, sizeof(*own));
        *own = (struct client_resource){arena_strdup(c->arena, x->group),  arena_strdup(c->arena, x->version),
                                        arena_strdup(c->arena, x->plural), x->namespaced,
                                        arena_strdup(c->arena, x->kind),   &api_meta_partial_object_metadata};
        return own;
    }
    return NULL;
}

static int64_t count_of(struct quota_controller *c, const char *ns, const struct client_resource *r) {
    _cleanup_object_list_ struct object_list l = {0};
    struct informer *inf = r ? counted(c, r) : NULL;
    if (!inf || !informer_synced(inf)) return -1;
    informer_list(inf, ns, &l);
    return (int64_t)l.n;
}

/* Objects of a resource, "deployments.apps" or "configmaps". -1: not known. */
static int64_t count_objects(struct quota_controller *c, struct arena *a, const char *ns, const char *what) {
#define ROW(name) &client_##name,
    static const struct client_resource *const rows[] = {CLIENT_RESOURCES(ROW)};
#undef ROW
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (is_called(rows[i], what)) return count_of(c, ns, rows[i]);
    return count_of(c, ns, discovered(c, a, what));
}

static bool usage(struct quota_controller *c, struct arena *a, const struct core_resource_quota *q, const char *key,
                  struct quantity *out) {
    static const char *const of_pods[] = {"pods", "count/pods", "cpu", "memory", "ephemeral-storage"};
    static const char *const plain[] = {"configmaps", "secrets", "replicationcontrollers", "resourcequotas"};
    static const char by_class[] = ".storageclass.storage.k8s.io/",
                      by_devices[] = ".deviceclass.resource.k8s.io/devices";
    const char *ns = q->metadata.namespace, *of_class = strstr(key, by_class);
    if (of_class)
        *out = claims_use(c, q, of_class + strlen(by_class), arena_strndup(a, key, (size_t)(of_class - key)));
    else if (str_has_suffix(key, by_devices))
        *out = devices_use(c, ns, arena_strndup(a, key, strlen(key) - strlen(by_devices)));
    else if (str_eq(key, "requests.storage"))
        *out = claims_use(c, q, key, NULL);
    else if (str_eq(key, "persistentvolumeclaims") || str_eq(key, "count/persistentvolumeclaims"))
        *out = claims_use(c, q, "persistentvolumeclaims", NULL);
    else if (str_has_prefix(key, "services"))
        *out = services_use(c, ns, key);
    else {
        bool pods = str_has_prefix(key, "requests.") || str_has_prefix(key, "limits.");
        for (size_t i = 0; i < ARRAY_LEN(of_pods); i++) pods |= strcmp(key, of_pods[i]) == 0;
        if (pods) {
            *out = pods_use(c, q, key);
            return true;
        }
        const char *what = str_has_prefix(key, "count/") ? key + 6 : NULL;
        for (size_t i = 0; i < ARRAY_LEN(plain); i++)
            if (strcmp(key, plain[i]) == 0) what = key;
        int64_t n = what ? count_objects(c, a, ns, what) : -1;
        if (n < 0) return false;
        *out = (struct quantity){.nano = (__int128)n * 1000000000};
    }
    return true;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct quota_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_resourcequotas), key);
    if (!o) return 0;
    const struct core_resource_quota *was = o->obj;
    struct core_resource_quota q = *was;
    int64_t left = charge_left(c, key);
    if (left > 0) {
        workqueue_add_after(c->q, key, left);
        return 0;
    }
    q.status.hard = q.spec.hard;
    q.status.used = (struct str_map){0};
    bool unknown = false;
    for (size_t i = 0; i < q.spec.hard.n; i++) {
        struct quantity v = {0};
        if (!usage(c, a, was, q.spec.hard.items[i].key, &v)) {
            unknown |= str_has_prefix(q.spec.hard.items[i].key, "count/"); /* its definition may come */
            continue;
        }
        map_set(a, &q.status.used, q.spec.hard.items[i].key, quantity_format(a, v));
    }
    workqueue_add_after(c->q, key, unknown ? 2 * DISCOVER_EVERY : RESYNC);
    if (api_equal(&api_core_resource_quota_status, &q.status, &was->status)) return 0;
    struct client_opts opts = {.cause = was->metadata.resource_version};
    note_written(c, a, key, &q);
    return client_update_status(c->m->client, a, &client_resourcequotas, was->metadata.namespace, &q, &opts, NULL, e);
}

static void wake(void *arg, struct object *o) {
    struct quota_controller *c = arg;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_resourcequotas), o->meta->namespace, &l);
    for (size_t i = 0; i < l.n; i++) workqueue_add_after(c->q, l.items[i]->key, 50 * NS_PER_MS);
}

static void pod_updated(void *arg, struct object *old, struct object *o) {
    if (pod_is_terminal(old->obj) != pod_is_terminal(o->obj) || old->meta->generation != o->meta->generation)
        wake(arg, o);
}

static void updated(void *arg, struct object *old, struct object *o) { wake(arg, o); }

static void end_informers(void *p) {
    struct quota_controller *c = p;
    for (size_t i = 0; i < c->n_watched; i++)
        if (!c->watched[i].shared) informer_free(c->watched[i].i);
    map_done_with(&c->charges, charge_free);
    arena_free(c->arena);
    pthread_mutex_destroy(&c->lock);
}

int resourcequota_start(struct manager *m, struct err *e) {
    struct quota_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "resourcequota", 1, reconcile, c, &client_resourcequotas, &client_pods, &client_services,
                         &client_persistentvolumeclaims, &client_resourceclaims, NULL);
    pthread_mutex_init(&c->lock, NULL);
    c->arena = arena_new();
    struct informer_handler quotas = {quota_added, quota_updated, quota_gone, c};
    informer_add_handler(manager_informer(m, &client_resourcequotas), &quotas);
    struct informer_handler pods = {wake, pod_updated, wake, c}, other = {wake, updated, wake, c};
    informer_add_handler(manager_informer(m, &client_pods), &pods);
    informer_add_handler(manager_informer(m, &client_services), &other);
    informer_add_handler(manager_informer(m, &client_persistentvolumeclaims), &other);
    informer_add_handler(manager_informer(m, &client_resourceclaims), &other);
    manager_at_end(m, end_informers, c);
    return 0;
}
