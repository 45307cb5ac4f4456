/* Which devices a container gets, and what their plugins say to that. See devices.h. */
#include "kubelet/cm/hints.h"
#include "kubelet/devices_internal.h"
#include "pkg/api/quantity.h"
#include "pkg/json/json.h"

static struct allocation *find(struct devices *d, const char *pod, const char *container, const char *resource) {
    for (struct allocation *x = d->allocations; x; x = x->next)
        if (str_eq(x->pod, pod) && str_eq(x->container, container) && str_eq(x->resource, resource)) return x;
    return NULL;
}

static bool in_vec(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

static void vec_add(struct arena *a, struct str_vec *v, const char *s) {
    const char **items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n++] = arena_strdup(a, s);
    v->items = items;
}

static bool is_healthy(const struct resource *r, const char *id) {
    const struct device *x = resource_device(r, id);
    return x && x->healthy;
}

/* Devices that may be chosen, and those that must be: what the pod's init containers leave is used again.
 * Lock held. */
static void candidates(struct devices *d, struct arena *a, const struct resource *r, const char *pod, size_t want,
                       struct str_vec *available, struct str_vec *must) {
    struct str_vec used = {0};
    for (struct allocation *x = d->allocations; x; x = x->next) {
        if (!str_eq(x->resource, r->name)) continue;
        bool reuse = x->init && str_eq(x->pod, pod);
        for (size_t i = 0; i < x->n; i++) {
            if (!reuse)
                vec_add(a, &used, x->ids[i]);
            else if (must->n < want && !in_vec(must, x->ids[i]) && is_healthy(r, x->ids[i]))
                vec_add(a, must, x->ids[i]);
        }
    }
    /* What an ordinary container of the pod took over is not free any more. */
    struct str_vec kept = {0};
    for (size_t i = 0; i < must->n; i++)
        if (!in_vec(&used, must->items[i])) vec_add(a, &kept, must->items[i]);
    *must = kept;
    *available = *must;
    size_t it = 0;
    const char *id;
    void *value;
    while (map_next(&r->ids, &it, &id, &value))
        if (((const struct device *)value)->healthy && !in_vec(&used, id) && !in_vec(available, id))
            vec_add(a, available, id);
}

/* ---- choosing ---- */

/* Devices near to one of the nodes; of `nodes` 0, those that are near to none. */
static struct str_vec near_to(struct arena *a, const struct resource *r, const struct str_vec *from, uint64_t nodes) {
    struct str_vec out = {0};
    for (size_t i = 0; i < from->n; i++) {
        const struct device *x = resource_device(r, from->items[i]);
        uint64_t has = x ? x->nodes : 0;
        if (nodes ? has & nodes : !has) vec_add(a, &out, from->items[i]);
    }
    return out;
}

/* Up to `want` in all. */
static void fill(struct arena *a, struct str_vec *out, const struct str_vec *from, size_t want) {
    for (size_t i = 0; i < from->n && out->n < want; i++)
        if (!in_vec(out, from->items[i])) vec_add(a, out, from->items[i]);
}

/* Takes those of `from` that the plugin would rather give, if it says. */
static void ask_plugin(struct resource *r, struct arena *a, const struct str_vec *from, size_t want,
                       struct str_vec *out) {
    struct str_vec available = {0};
    fill(a, &available, out, SIZE_MAX);
    fill(a, &available, from, SIZE_MAX);
    if (!r->preferred || available.n <= want) return;
    struct deviceplugin_container_preferred_allocation_request one = {
        .available_device_ids = available, .must_include_device_ids = *out, .allocation_size = (int32_t)want};
    struct deviceplugin_preferred_allocation_request rq = {.container_requests = {&one, 1}};
    struct deviceplugin_preferred_allocation_response rs = {0};
    if (grpc_call(r->grpc, &api_rpc_deviceplugin_device_plugin_get_preferred_allocation, &rq, a, &rs, DEVICE_CALL_MS,
                  NULL) < 0 ||
        !rs.container_responses.n)
        return;
    const struct str_vec *p = &rs.container_responses.items[0].device_ids;
    for (size_t i = 0; i < p->n && out->n < want; i++)
        if (in_vec(from, p->items[i]) && !in_vec(out, p->items[i])) vec_add(a, out, p->items[i]);
}

/* `want` of the available ones: what must be, then those near to the nodes that the pod's admission found (0: it found
 * none), then the others; the plugin may have a preference within each. */
static struct str_vec choose(struct resource *r, struct arena *a, const struct str_vec *available,
                             const struct str_vec *must, size_t want, uint64_t nodes) {
    struct str_vec out = *must, aligned = {0}, anywhere = near_to(a, r, available, 0);
    if (nodes) aligned = near_to(a, r, available, nodes);
    if (want > out.n && want - out.n < aligned.n) ask_plugin(r, a, &aligned, want, &out);
    fill(a, &out, &aligned, want);
    if (out.n < want) ask_plugin(r, a, available, want, &out);
    if (aligned.n) { /* a device that is near to other nodes goes before one that does not say */
        struct str_vec elsewhere = near_to(a, r, available, UINT64_MAX);
        fill(a, &out, &elsewhere, want);
        fill(a, &out, &anywhere, want);
    }
    fill(a, &out, available, want);
    return out;
}

static bool is_init(const struct core_pod *p, const struct core_container *c) {
    for (size_t i = 0; i < p->spec.init_containers.n; i++)
        if (str_eq(p->spec.init_containers.items[i].name, c->name))
            return !str_eq(p->spec.init_containers.items[i].restart_policy, "Always");
    return false;
}

static void remember(struct devices *d, const struct core_pod *p, const struct core_container *c, const char *resource,
                     const struct str_vec *ids, const char *answer) {
    struct allocation *x = xcalloc(1, sizeof(*x));
    x->pod = xstrdup(p->metadata.uid);
    x->container = xstrdup(c->name);
    x->resource = xstrdup(resource);
    x->answer = xstrdup(answer);
    x->init = is_init(p, c);
    x->ids = xcalloc(ids->n + 1, sizeof(*x->ids));
    for (size_t i = 0; i < ids->n; i++) x->ids[x->n++] = xstrdup(ids->items[i]);
    pthread_mutex_lock(&d->lock);
    x->next = d->allocations;
    d->allocations = x;
    devices_save(d);
    pthread_mutex_unlock(&d->lock);
}

static int call_plugin(struct devices *d, struct resource *r, struct arena *a, const struct core_pod *p,
                       const struct core_container *c, size_t want, uint64_t nodes,
                       struct deviceplugin_container_allocate_response *out, struct err *e) {
    struct str_vec available = {0}, must = {0};
    pthread_mutex_lock(&d->lock);
    bool stopped = r->stopped;
    candidates(d, a, r, p->metadata.uid, want, &available, &must);
    pthread_mutex_unlock(&d->lock);
    if (stopped) return err_set(e, -EAGAIN, "the device plugin of %s is not running", r->name);
    if (available.n < want)
        return err_set(e, -EBUSY, "requested number of devices unavailable for %s. Requested: %zu, Available: %zu",
                       r->name, want, available.n);
    struct str_vec ids = choose(r, a, &available, &must, want, nodes);
    struct deviceplugin_container_allocate_request one = {.devices_ids = ids};
    struct deviceplugin_allocate_request rq = {.container_requests = {&one, 1}};
    struct deviceplugin_allocate_response rs = {0};
    int rc = grpc_call(r->grpc, &api_rpc_deviceplugin_device_plugin_allocate, &rq, a, &rs, DEVICE_CALL_MS, e);
    if (rc < 0) return err_wrap(e, "Allocate of device plugin %s", r->name);
    if (!rs.container_responses.n)
        return err_set(e, -EPROTO, "no containers in the answer of device plugin %s", r->name);
    *out = rs.container_responses.items[0];
    remember(d, p, c, r->name, &ids, json_text(a, api_to_tree(a, &api_deviceplugin_container_allocate_response, out)));
    return 0;
}

static int pre_start(struct resource *r, struct arena *a, const struct str_vec *ids, struct err *e) {
    if (!r->pre_start) return 0;
    struct deviceplugin_pre_start_container_request rq = {.devices_ids = *ids};
    struct deviceplugin_pre_start_container_response rs = {0};
    int rc =
        grpc_call(r->grpc, &api_rpc_deviceplugin_device_plugin_pre_start_container, &rq, a, &rs, DEVICE_CALL_MS, e);
    return rc < 0 ? err_wrap(e, "device plugin %s PreStartContainer", r->name) : 0;
}

/* The answer that the plugin gave for these devices, once for all. */
static int allocate_one(struct devices *d, struct resource *r, struct arena *a, const struct core_pod *p,
                        const struct core_container *c, size_t want, uint64_t nodes,
                        struct deviceplugin_container_allocate_response *out, struct err *e) {
    pthread_mutex_lock(&d->lock);
    const struct allocation *have = find(d, p->metadata.uid, c->name, r->name);
    const char *answer = have ? arena_strdup(a, have->answer) : NULL;
    pthread_mutex_unlock(&d->lock);
    return answer ? api_from_json(a, &api_deviceplugin_container_allocate_response, answer, strlen(answer), out, e)
                  : call_plugin(d, r, a, p, c, want, nodes, out, e);
}

static int prepare_one(struct devices *d, struct resource *r, struct arena *a, const struct core_pod *p,
                       const struct core_container *c, struct err *e) {
    struct str_vec ids = {0};
    pthread_mutex_lock(&d->lock);
    const struct allocation *have = find(d, p->metadata.uid, c->name, r->name);
    for (size_t i = 0; have && i < have->n; i++) vec_add(a, &ids, have->ids[i]);
    pthread_mutex_unlock(&d->lock);
    return pre_start(r, a, &ids, e);
}

/* With a reference; NULL: no plugin has offered it since the kubelet started. */
static struct resource *get_resource(struct devices *d, const char *name) {
    pthread_mutex_lock(&d->lock);
    struct resource *r = map_get(&d->resources, name);
    if (r) r->refs++;
    pthread_mutex_unlock(&d->lock);
    return r;
}

static void put_resource(struct devices *d, struct resource *r) {
    pthread_mutex_lock(&d->lock);
    resource_unref(r);
    pthread_mutex_unlock(&d->lock);
}

/* After a restart of the kubelet a container may have devices whose plugin has not come back yet. */
static int without_plugin(struct devices *d, const struct core_pod *p, const struct core_container *c,
                          const char *resource, struct err *e) {
    pthread_mutex_lock(&d->lock);
    bool has = find(d, p->metadata.uid, c->name, resource);
    pthread_mutex_unlock(&d->lock);
    return has ? err_set(e, -EAGAIN, "the device plugin of %s has not registered yet", resource) : 0;
}

int devices_reserve(struct devices *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                    uint64_t nodes, struct err *e) {
    const struct str_map *limits = &c->resources.limits;
    int rc = 0;
    for (size_t i = 0; d && rc == 0 && i < limits->n; i++) {
        struct deviceplugin_container_allocate_response answer;
        int64_t want = quantity_str_value(limits->items[i].value);
        struct resource *r = want > 0 ? get_resource(d, limits->items[i].key) : NULL;
        if (!r) continue;
        pthread_mutex_lock(&d->allocating); /* between choosing and remembering nobody else chooses */
        rc = allocate_one(d, r, a, p, c, (size_t)want, nodes, &answer, e);
        pthread_mutex_unlock(&d->allocating);
        put_resource(d, r);
    }
    return rc;
}

int devices_allocate(struct devices *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                     struct deviceplugin_container_allocate_response_vec *out, struct err *e) {
    const struct str_map *limits = &c->resources.limits;
    int rc = 0;
    out->items = arena_zalloc(a, (limits->n + 1) * sizeof(*out->items));
    for (size_t i = 0; d && rc == 0 && i < limits->n; i++) {
        int64_t want = quantity_str_value(limits->items[i].value);
        if (want <= 0) continue;
        struct resource *r = get_resource(d, limits->items[i].key);
        if (!r) {
            rc = without_plugin(d, p, c, limits->items[i].key, e);
            continue;
        }
        pthread_mutex_lock(&d->allocating);
        rc = allocate_one(d, r, a, p, c, (size_t)want, 0, &out->items[out->n], e);
        pthread_mutex_unlock(&d->allocating);
        if (rc == 0) rc = prepare_one(d, r, a, p, c, e);
        put_resource(d, r);
        if (rc == 0) out->n++;
    }
    return rc;
}

void devices_release(struct devices *d, const char *pod_uid) {
    if (!d) return;
    bool any = false;
    pthread_mutex_lock(&d->lock);
    for (struct allocation **x = &d->allocations; *x;) {
        struct allocation *one = *x;
        if (!str_eq(one->pod, pod_uid)) {
            x = &one->next;
            continue;
        }
        *x = one->next;
        allocation_free(one);
        any = true;
    }
    if (any) devices_save(d);
    pthread_mutex_unlock(&d->lock);
}

/* ---- hints ---- */

struct asked {
    const struct resource *r;
    const char *pod;
    size_t want;
    struct str_vec had, available, reused;
};

static size_t near_count(const struct resource *r, const struct str_vec *ids, uint64_t nodes) {
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) {
        const struct device *x = resource_device(r, ids->items[i]);
        n += x && (x->nodes & nodes);
    }
    return n;
}

/* Whether a set of nodes leaves one of the devices out that are used again. */
static bool leaves_out(const struct resource *r, const struct str_vec *reused, uint64_t nodes) {
    for (size_t i = 0; i < reused->n; i++) {
        const struct device *x = resource_device(r, reused->items[i]);
        if (x && x->nodes && !(x->nodes & nodes)) return true;
    }
    return false;
}

static void hint(struct arena *a, const struct asked *q, uint64_t known, struct hint_list *out) {
    uint64_t all = 0;
    size_t it = 0;
    const char *id;
    void *value;
    while (map_next(&q->r->ids, &it, &id, &value)) all |= ((const struct device *)value)->nodes;
    all &= known;
    out->any = !all;
    if (!all) return;
    if (q->had.n ? q->had.n != q->want : q->available.n + q->reused.n < q->want) return;
    size_t narrowest = node_count(all);
    NODE_SETS(nodes, all) {
        size_t there = 0;
        it = 0;
        while (map_next(&q->r->ids, &it, &id, &value)) there += (((const struct device *)value)->nodes & nodes) != 0;
        if (there >= q->want) narrowest = MIN_OF(narrowest, node_count(nodes));
        size_t could = q->had.n ? near_count(q->r, &q->had, nodes)
                                : near_count(q->r, &q->available, nodes) + near_count(q->r, &q->reused, nodes);
        if (could >= q->want && (q->had.n || !leaves_out(q->r, &q->reused, nodes))) hint_add(a, out, nodes);
    }
    hint_prefer(out, narrowest);
}

void devices_hints(struct devices *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                   uint64_t known, struct hint_set *out) {
    size_t it = 0;
    const char *name;
    void *value;
    if (!d) return;
    pthread_mutex_lock(&d->lock);
    while (map_next(&d->resources, &it, &name, &value)) {
        struct asked q = {.r = value, .pod = p->metadata.uid};
        struct quantity amount = c ? container_resource(c, name, true, NULL) : pod_resource(p, name, true, NULL);
        struct str_vec may = {0};
        if (quantity_value(amount) <= 0) continue;
        q.want = (size_t)quantity_value(amount);
        for (const struct allocation *x = d->allocations; x; x = x->next)
            if (str_eq(x->pod, q.pod) && str_eq(x->resource, name) && (!c || str_eq(x->container, c->name)))
                for (size_t i = 0; i < x->n; i++)
                    if (!in_vec(&q.had, x->ids[i])) vec_add(a, &q.had, x->ids[i]);
        candidates(d, a, q.r, q.pod, q.want, &may, &q.reused);
        for (size_t i = 0; i < may.n; i++)
            if (!in_vec(&q.reused, may.items[i])) vec_add(a, &q.available, may.items[i]);
        hint(a, &q, known, hint_set_add(a, out));
    }
    pthread_mutex_unlock(&d->lock);
}
