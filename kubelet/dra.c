/* Drivers of devices, preparing and undoing; see dra.h. */
#include "kubelet/dra_internal.h"

#include "pkg/api/draplugin.h"
#include "pkg/api/quantity.h"
#include "pkg/client/claims.h"

enum { CALL_MS = 45000 };

/* ---- drivers ---- */

void dra_endpoint_unref(struct dra *d, struct dra_endpoint *p) {
    if (!p || --p->refs) return;
    grpc_client_free(p->grpc);
    free(p->driver);
    free(p->path);
    free(p);
}

/* With a reference; the newest that answers. Under the lock. */
static struct dra_endpoint *endpoint_of(struct dra *d, const char *driver) {
    struct dra_endpoint *best = NULL;
    for (struct dra_endpoint *p = d->endpoints; p; p = p->next) {
        if (!str_eq(p->driver, driver)) continue;
        if (!best || (p->connected && !best->connected)) best = p;
    }
    if (best) best->refs++;
    return best;
}

static int choose_service(const char *driver, const struct str_vec *versions, bool *beta, struct err *e) {
    for (size_t i = 0; i < versions->n; i++) {
        *beta = str_eq(versions->items[i], "v1beta1.DRAPlugin");
        if (*beta || str_eq(versions->items[i], "v1.DRAPlugin")) return 0;
    }
    return err_set(e, -EINVAL,
                   "driver %s speaks none of the services that are known here: v1.DRAPlugin, v1beta1.DRAPlugin",
                   driver);
}

int dra_register(struct dra *d, const char *driver, const char *endpoint, const struct str_vec *versions,
                 struct err *e) {
    bool beta;
    int r = choose_service(driver, versions, &beta, e);
    if (r < 0) return r;
    pthread_mutex_lock(&d->lock);
    size_t n = 0;
    for (struct dra_endpoint *p = d->endpoints; p && r == 0; p = p->next, n++)
        if (str_eq(p->driver, driver) && str_eq(p->path, endpoint))
            r = err_set(e, -EEXIST, "endpoint %s already registered for DRA driver plugin %s", endpoint, driver);
    if (r == 0 && n >= DRA_DRIVERS_MAX) r = err_set(e, -ENOSPC, "more than %d drivers", DRA_DRIVERS_MAX);
    if (r == 0) {
        struct dra_endpoint *p = xcalloc(1, sizeof(*p));
        *p = (struct dra_endpoint){.next = d->endpoints,
                                   .refs = 1,
                                   .driver = xstrdup(driver),
                                   .path = xstrdup(endpoint),
                                   .grpc = grpc_client_new(endpoint),
                                   .beta = beta,
                                   .connected = true};
        d->endpoints = p;
        dra_slices_sync(d, driver);
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}

void dra_unregister(struct dra *d, const char *driver, const char *endpoint) {
    pthread_mutex_lock(&d->lock);
    for (struct dra_endpoint **at = &d->endpoints; *at; at = &(*at)->next) {
        struct dra_endpoint *p = *at;
        if (!str_eq(p->driver, driver) || !str_eq(p->path, endpoint)) continue;
        *at = p->next;
        dra_endpoint_unref(d, p);
        dra_slices_sync(d, driver);
        break;
    }
    pthread_mutex_unlock(&d->lock);
}

/* ---- claims of a pod ---- */

struct pod_claims {
    struct core_pod_resource_claim *items;
    size_t n;
};

/* With the one for extended resources. */
static struct pod_claims claims_of(struct arena *a, const struct core_pod *p) {
    struct pod_claims v = {.n = p->spec.resource_claims.n};
    v.items = arena_zalloc(a, (v.n + 1) * sizeof(*v.items));
    if (v.n) memcpy(v.items, p->spec.resource_claims.items, v.n * sizeof(*v.items));
    if (p->status.extended_resource_claim_status)
        v.items[v.n++].resource_claim_name = p->status.extended_resource_claim_status->resource_claim_name;
    return v;
}

struct batch { /* what one driver is asked */
    const char *driver;
    struct draplugin_claim_vec claims;
};
struct batches {
    struct batch *items;
    size_t n, cap;
};

static void batch_add(struct arena *a, struct batches *b, const char *driver, const struct json *state) {
    size_t i = 0;
    while (i < b->n && !str_eq(b->items[i].driver, driver)) i++;
    if (i == b->n) {
        ARENA_GROW(a, b->items, b->n, b->cap);
        b->items[b->n++] = (struct batch){.driver = arena_strdup(a, driver)};
    }
    struct draplugin_claim_vec *v = &b->items[i].claims;
    struct draplugin_claim *items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n++] = (struct draplugin_claim){.namespace = arena_strdup(a, json_get_str(state, "Namespace")),
                                             .uid = arena_strdup(a, json_get_str(state, "ClaimUID")),
                                             .name = arena_strdup(a, json_get_str(state, "ClaimName"))};
    v->items = items;
}

static void batch_claim(struct arena *a, struct batches *b, const struct json *state) {
    JSON_FOREACH_MEMBER(m, json_get(state, "DriverState")) batch_add(a, b, m->key, state);
}

static struct dra_endpoint *driver_of(struct dra *d, const char *driver, struct err *e) {
    pthread_mutex_lock(&d->lock);
    struct dra_endpoint *p = endpoint_of(d, driver);
    pthread_mutex_unlock(&d->lock);
    if (!p) err_set(e, -EAGAIN, "DRA driver %s is not registered", driver);
    return p;
}

static void put_back(struct dra *d, struct dra_endpoint *p) {
    pthread_mutex_lock(&d->lock);
    dra_endpoint_unref(d, p);
    pthread_mutex_unlock(&d->lock);
}

static const char *claim_name_of(const struct draplugin_claim_vec *v, const char *uid) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i].uid, uid)) return v->items[i].name;
    return NULL;
}

/* ---- preparing ---- */

/* Reads the claim and checks that the pod may use it. 0 with *out NULL: the entry needs none. */
static int fetch(struct dra *d, struct arena *a, const struct core_pod *p, const struct core_pod_resource_claim *entry,
                 struct resource_resource_claim **out, struct err *e) {
    const char *name;
    bool generated;
    *out = NULL;
    int r = pod_claim_name(p, entry, &name, &generated, e);
    if (r < 0 || !name) return r;
    struct resource_resource_claim *k = arena_zalloc(a, sizeof(*k));
    r = client_get(d->kl->client, a, &client_resourceclaims, p->metadata.namespace, name, k, e);
    if (r < 0) return err_wrap(e, "fetch ResourceClaim %s", name);
    if (generated && (r = claim_is_for_pod(k, p, e)) < 0) return r;
    if (!claim_reserved_for(k, p->metadata.uid))
        return err_set(e, -EPERM, "pod %s (%s) is not allowed to use ResourceClaim %s (%s)", p->metadata.name,
                       str_or_empty(p->metadata.uid), name, str_or_empty(k->metadata.uid));
    if (!k->status.allocation) return err_set(e, -EAGAIN, "ResourceClaim %s: not allocated", name);
    *out = k;
    return 0;
}

static void set_drivers(struct arena *a, struct json *state, const void *arg) {
    const struct resource_resource_claim *k = arg;
    struct json *drivers = json_ensure_object(a, state, "DriverState");
    for (size_t i = 0; i < k->status.allocation->devices.results.n; i++) {
        const char *driver = k->status.allocation->devices.results.items[i].driver;
        json_ensure_array(a, json_ensure_object(a, drivers, driver), "Devices");
    }
}

/* Waits until no other pod has one of the claims prepared; gives up the lock meanwhile. All are waited for before any is
 * taken: two pods that share two claims would wait for each other else. */
static void await_idle(struct dra *d, struct resource_resource_claim *const *claims, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct dra_claim *c =
            claims[i] ? dra_state_find(d, claims[i]->metadata.namespace, claims[i]->metadata.name) : NULL;
        if (!c || !c->busy) continue;
        pthread_cond_wait(&d->idle, &d->lock);
        i = SIZE_MAX; /* from the start */
    }
}

/* Notes that the pod uses the claim; *todo when its drivers have work with it, which is this pod's alone then. Under the
 * lock. */
static int note_use(struct dra *d, const struct core_pod *p, const struct resource_resource_claim *k, bool *todo,
                    struct err *e) {
    struct dra_claim *c = dra_state_find(d, k->metadata.namespace, k->metadata.name);
    size_t n = 0;
    if (c && !str_eq(json_get_str(c->state, "ClaimUID"), k->metadata.uid))
        return err_set(e, -EEXIST,
                       "old ResourceClaim with same name %s and different UID %s still exists (previous pod "
                       "force-deleted?!)",
                       k->metadata.name, str_or_empty(json_get_str(c->state, "ClaimUID")));
    for (struct dra_claim *x = d->claims; x; x = x->next) n++;
    if (!c && n >= DRA_CLAIMS_MAX) return err_set(e, -ENOSPC, "more than %d claims on this node", DRA_CLAIMS_MAX);
    if (!c) {
        c = dra_state_add(d, k->metadata.namespace, k->metadata.name, k->metadata.uid);
        dra_state_change(c, set_drivers, k);
    }
    dra_state_pod(c, p->metadata.uid, true);
    *todo = !c->prepared && !c->busy; /* an entry before may name the same claim */
    c->busy |= *todo;
    return dra_state_save(d, e);
}

struct prepared { /* by one driver, of one claim */
    const char *driver;
    const struct draplugin_device_vec *devices;
};

static struct json *strings(struct arena *a, const struct str_vec *v) {
    struct json *list = json_array(a);
    for (size_t i = 0; i < v->n; i++) json_append(a, list, json_str(a, v->items[i]));
    return list;
}

static void set_devices(struct arena *a, struct json *state, const void *arg) {
    const struct prepared *p = arg;
    struct json *list = json_array(a);
    for (size_t i = 0; i < p->devices->n; i++) {
        const struct draplugin_device *x = &p->devices->items[i];
        struct json *o = json_object(a);
        json_set_str(a, o, "PoolName", str_or_empty(x->pool_name));
        json_set_str(a, o, "DeviceName", str_or_empty(x->device_name));
        json_set(a, o, "ShareID", x->share_id ? json_str(a, x->share_id) : json_null(a));
        json_set(a, o, "RequestNames", strings(a, &x->request_names));
        json_set(a, o, "CDIDeviceIDs", strings(a, &x->cdi_device_ids));
        json_append(a, list, o);
    }
    json_set(a, json_ensure_object(a, json_ensure_object(a, state, "DriverState"), p->driver), "Devices", list);
}

static int take_answer(struct dra *d, const struct batch *b, const char *uid,
                       const struct draplugin_node_prepare_resource_response *r, struct err *e) {
    const char *name = claim_name_of(&b->claims, uid);
    if (!name) return err_set(e, -EPROTO, "NodePrepareResources returned result for unknown claim UID %s", uid);
    if (!str_empty(r->error))
        return err_set(e, -EIO, "NodePrepareResources failed for ResourceClaim %s: %s", name, r->error);
    pthread_mutex_lock(&d->lock);
    struct dra_claim *c = dra_state_find(d, b->claims.items[0].namespace, name);
    struct prepared p = {b->driver, &r->devices};
    if (c) dra_state_change(c, set_devices, &p);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static int call_prepare(struct dra *d, struct arena *a, const struct batch *b, struct err *e) {
    struct dra_endpoint *p = driver_of(d, b->driver, e);
    if (!p) return -EAGAIN;
    struct draplugin_node_prepare_resources_request rq = {.claims = b->claims};
    struct draplugin_node_prepare_resources_response rs = {0};
    int r = grpc_call(p->grpc,
                      p->beta ? &api_rpc_draplugin_dra_plugin_beta_node_prepare_resources
                              : &api_rpc_draplugin_dra_plugin_node_prepare_resources,
                      &rq, a, &rs, CALL_MS, e);
    put_back(d, p);
    if (r < 0) return err_wrap(e, "NodePrepareResources");
    for (size_t i = 0; r == 0 && i < rs.claims.n; i++)
        r = take_answer(d, b, rs.claims.items[i].key, &rs.claims.items[i].value, e);
    if (r == 0 && rs.claims.n < b->claims.n)
        r = err_set(e, -EPROTO, "NodePrepareResources skipped %zu ResourceClaims", b->claims.n - rs.claims.n);
    return r;
}

/* This pod's work with its claims is over: they are prepared, or others may try. Under the lock. */
static void end_work(struct dra *d, const struct batches *b, bool prepared) {
    for (size_t i = 0; i < b->n; i++)
        for (size_t k = 0; k < b->items[i].claims.n; k++) {
            const struct draplugin_claim *x = &b->items[i].claims.items[k];
            struct dra_claim *c = dra_state_find(d, x->namespace, x->name);
            if (!c) continue;
            c->prepared |= prepared;
            c->busy = false;
        }
    pthread_cond_broadcast(&d->idle);
}

int dra_prepare(struct dra *d, struct arena *a, const struct core_pod *p, struct err *e) {
    struct pod_claims v = claims_of(a, p);
    struct batches b = {0};
    if (!d || !v.n || !d->kl->client) return 0;
    struct resource_resource_claim **claims = arena_zalloc(a, v.n * sizeof(*claims));
    int r = 0;
    for (size_t i = 0; r == 0 && i < v.n; i++) {
        r = fetch(d, a, p, &v.items[i], &claims[i], e);
        for (size_t k = 0; r == 0 && claims[i] && k < claims[i]->status.allocation->devices.results.n; k++) {
            struct dra_endpoint *x = driver_of(d, claims[i]->status.allocation->devices.results.items[k].driver, e);
            if (!x) r = -EAGAIN;
            if (x) put_back(d, x);
        }
    }
    pthread_mutex_lock(&d->lock);
    if (r == 0) await_idle(d, claims, v.n);
    for (size_t i = 0; r == 0 && i < v.n; i++) {
        bool todo = false;
        if (!claims[i]) continue;
        r = note_use(d, p, claims[i], &todo, e);
        struct dra_claim *c = dra_state_find(d, claims[i]->metadata.namespace, claims[i]->metadata.name);
        if (r == 0 && todo && c) batch_claim(a, &b, c->state);
    }
    pthread_mutex_unlock(&d->lock);
    for (size_t i = 0; r == 0 && i < b.n; i++) r = call_prepare(d, a, &b.items[i], e);
    pthread_mutex_lock(&d->lock);
    end_work(d, &b, r == 0);
    if (r == 0 && b.n) r = dra_state_save(d, e);
    pthread_mutex_unlock(&d->lock);
    return r < 0 ? err_wrap(e, "prepare dynamic resources") : 0;
}

/* ---- undoing ---- */

static int call_unprepare(struct dra *d, struct arena *a, const struct batch *b, struct err *e) {
    struct dra_endpoint *p = driver_of(d, b->driver, e);
    if (!p) return -EAGAIN;
    struct draplugin_node_unprepare_resources_request rq = {.claims = b->claims};
    struct draplugin_node_unprepare_resources_response rs = {0};
    int r = grpc_call(p->grpc,
                      p->beta ? &api_rpc_draplugin_dra_plugin_beta_node_unprepare_resources
                              : &api_rpc_draplugin_dra_plugin_node_unprepare_resources,
                      &rq, a, &rs, CALL_MS, e);
    put_back(d, p);
    if (r < 0) return err_wrap(e, "NodeUnprepareResources");
    for (size_t i = 0; i < rs.claims.n; i++) {
        const char *name = claim_name_of(&b->claims, rs.claims.items[i].key), *why = rs.claims.items[i].value.error;
        if (!name)
            return err_set(e, -EPROTO, "NodeUnprepareResources returned result for unknown claim UID %s",
                           rs.claims.items[i].key);
        if (!str_empty(why))
            return err_set(e, -EIO, "NodeUnprepareResources failed for ResourceClaim %s: %s", name, why);
    }
    if (rs.claims.n < b->claims.n)
        return err_set(e, -EPROTO, "NodeUnprepareResources skipped %zu ResourceClaims", b->claims.n - rs.claims.n);
    return 0;
}

int dra_unprepare_claims(struct dra *d, const char *pod_uid, const char *ns, const char *const *names, size_t n,
                         struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct batches b = {0};
    bool changed = false, *last = arena_zalloc(a, (n + 1) * sizeof(*last));
    pthread_mutex_lock(&d->lock);
    for (size_t i = 0; i < n; i++) {
        struct dra_claim *c = dra_state_find(d, ns, names[i]);
        if (!c) continue;
        changed = true;
        last[i] = dra_state_pods(c) <= 1;
        if (last[i])
            batch_claim(a, &b, c->state);
        else
            dra_state_pod(c, pod_uid, false);
    }
    pthread_mutex_unlock(&d->lock);
    if (!changed) return 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < b.n; i++) r = call_unprepare(d, a, &b.items[i], e);
    pthread_mutex_lock(&d->lock);
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct dra_claim *c = last[i] ? dra_state_find(d, ns, names[i]) : NULL;
        if (c) dra_state_drop(d, c);
    }
    int saved = dra_state_save(d, r == 0 ? e : NULL);
    pthread_mutex_unlock(&d->lock);
    return r < 0 ? r : saved;
}

int dra_unprepare(struct dra *d, const struct core_pod *p, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct pod_claims v = claims_of(a, p);
    if (!d || !v.n) return 0;
    const char **names = arena_alloc(a, v.n * sizeof(*names));
    size_t n = 0;
    for (size_t i = 0; i < v.n; i++) {
        const char *name;
        bool generated;
        if (pod_claim_name(p, &v.items[i], &name, &generated, NULL) == 0 && name) names[n++] = name;
    }
    int r = dra_unprepare_claims(d, p->metadata.uid, p->metadata.namespace, names, n, e);
    return r < 0 ? err_wrap(e, "unprepare dynamic resources") : 0;
}

/* ---- what a container gets ---- */

/* The requests of a claim that a container uses, "" for all. */
static void container_requests(struct arena *a, const struct core_pod *p, const struct core_container *c,
                               const struct core_pod_resource_claim *entry, struct str_vec *out) {
    const struct core_pod_extended_resource_claim_status *x = p->status.extended_resource_claim_status;
    out->items = arena_alloc(a, (c->resources.claims.n + (x ? x->request_mappings.n : 0) + 1) * sizeof(char *));
    for (size_t i = 0; entry->name && i < c->resources.claims.n; i++)
        if (str_eq(c->resources.claims.items[i].name, entry->name))
            out->items[out->n++] = str_or_empty(c->resources.claims.items[i].request);
    for (size_t i = 0; !entry->name && x && i < x->request_mappings.n; i++) {
        const struct core_container_extended_resource_request *m = &x->request_mappings.items[i];
        if (str_eq(m->container_name, c->name) &&
            quantity_str_value(str_map_get(&c->resources.requests, m->resource_name)) > 0)
            out->items[out->n++] = str_or_empty(m->request_name);
    }
}

static bool device_serves(const struct json *device, const char *request) {
    const struct json *names = json_get(device, "RequestNames"), *it;
    if (!*request || !json_len(names)) return true;
    JSON_FOREACH(it, names)
        if (claim_request_matches(json_as_str(it), request)) return true;
    return false;
}

typedef void device_fn(struct arena *a, const struct json *claim, const char *driver, const struct json *device,
                       void *out);

static int each_device(struct dra *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                       device_fn *fn, void *out, struct err *e) {
    struct pod_claims v = claims_of(a, p);
    const struct json *device;
    int r = 0;
    if (!d || !v.n) return 0;
    pthread_mutex_lock(&d->lock);
    for (size_t i = 0; r == 0 && i < v.n; i++) {
        const char *name;
        bool generated;
        struct str_vec requests = {0};
        container_requests(a, p, c, &v.items[i], &requests);
        if (!requests.n) continue;
        r = pod_claim_name(p, &v.items[i], &name, &generated, e);
        if (r < 0 || !name) continue;
        struct dra_claim *k = dra_state_find(d, p->metadata.namespace, name);
        if (!k) {
            r = err_set(e, -ENOENT, "ResourceClaim %s of namespace %s is not prepared", name,
                        str_or_empty(p->metadata.namespace));
            continue;
        }
        for (size_t q = 0; q < requests.n; q++)
            JSON_FOREACH_MEMBER(m, json_get(k->state, "DriverState"))
                JSON_FOREACH(device, json_get(m->value, "Devices"))
                    if (device_serves(device, requests.items[q])) fn(a, k->state, m->key, device, out);
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}

static void add_cdi(struct arena *a, const struct json *claim, const char *driver, const struct json *device,
                    void *out) {
    struct str_vec *v = out;
    const struct json *ids = json_get(device, "CDIDeviceIDs"), *it;
    const char **items = arena_alloc(a, (v->n + json_len(ids) + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    JSON_FOREACH(it, ids) {
        bool have = false;
        for (size_t i = 0; i < v->n; i++) have |= str_eq(items[i], json_as_str(it));
        if (!have && json_as_str(it)) items[v->n++] = arena_strdup(a, json_as_str(it));
    }
    v->items = items;
}

int dra_devices(struct dra *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                struct str_vec *out, struct err *e) {
    return each_device(d, a, p, c, add_cdi, out, e);
}

struct uses {
    struct dra_use *items;
    size_t n, cap;
};

static void add_use(struct arena *a, const struct json *claim, const char *driver, const struct json *device,
                    void *out) {
    struct uses *v = out;
    ARENA_GROW(a, v->items, v->n, v->cap);
    struct dra_use *u = &v->items[v->n++];
    *u = (struct dra_use){.ns = arena_strdup(a, json_get_str(claim, "Namespace")),
                          .claim = arena_strdup(a, json_get_str(claim, "ClaimName")),
                          .driver = arena_strdup(a, driver),
                          .pool = arena_strdup(a, json_get_str(device, "PoolName")),
                          .device = arena_strdup(a, json_get_str(device, "DeviceName")),
                          .share = arena_strdup(a, json_get_str(device, "ShareID"))};
    add_cdi(a, claim, driver, device, &u->cdi);
}

struct dra_use *dra_uses(struct dra *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                         size_t *n) {
    struct uses v = {0};
    each_device(d, a, p, c, add_use, &v, NULL);
    *n = v.n;
    return v.items;
}

/* ---- begin and end ---- */

struct dra *dra_new(struct kubelet *kl) {
    struct dra *d = xcalloc(1, sizeof(*d));
    pthread_condattr_t ca;
    d->kl = kl;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->idle, NULL);
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&d->work, &ca);
    pthread_condattr_destroy(&ca);
    d->checkpoint = xasprintf("%s/dra_manager_state", str_or_empty(kl->cfg.root_dir));
    if (!kl->fake) dra_state_load(d);
    return d;
}

int dra_start(struct dra *d) {
    if (!d->kl->client) return 0;
    pthread_mutex_lock(&d->lock);
    dra_slices_wipe(d, "", 0);
    pthread_mutex_unlock(&d->lock);
    int r = kubelet_thread(&d->thread, dra_thread, d, false);
    d->running = r == 0;
    return r;
}

void dra_free(struct dra *d) {
    if (!d) return;
    pthread_mutex_lock(&d->lock);
    d->stopping = true;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
    if (d->running) pthread_join(d->thread, NULL);
    while (d->endpoints) {
        struct dra_endpoint *p = d->endpoints;
        d->endpoints = p->next;
        dra_endpoint_unref(d, p);
    }
    while (d->wipes) {
        struct dra_wipe *w = d->wipes;
        d->wipes = w->next;
        free(w->driver);
        free(w);
    }
    dra_state_free(d);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->work);
    pthread_cond_destroy(&d->idle);
    free(d->checkpoint);
    free(d);
}
