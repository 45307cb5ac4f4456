/* Nodes and pods as the scheduler counts them. */
#include <assert.h>

#include "pkg/api/meta.h"
#include "pkg/api/quantity.h"
#include "scheduler.h"

#define DEFAULT_CPU 100 /* for scoring, where a container requests nothing */
#define DEFAULT_MEM (INT64_C(200) * 1024 * 1024)

/* ---- resources ---- */

void res_add(struct res *a, const struct res *b, int sign) {
    a->cpu += sign * b->cpu;
    a->mem += sign * b->mem;
    a->eph += sign * b->eph;
    for (size_t i = 0; i < EXT_MAX; i++) a->ext[i] += sign * b->ext[i];
}

static void res_max(struct res *a, const struct res *b) {
    a->cpu = MAX_OF(a->cpu, b->cpu);
    a->mem = MAX_OF(a->mem, b->mem);
    a->eph = MAX_OF(a->eph, b->eph);
    for (size_t i = 0; i < EXT_MAX; i++) a->ext[i] = MAX_OF(a->ext[i], b->ext[i]);
}

/* The slot of an extended resource; -1 when there are too many kinds. */
static int ext_slot(struct sched *s, const char *name) {
    for (size_t i = 0; i < s->n_ext; i++)
        if (strcmp(s->ext_names[i], name) == 0) return (int)i;
    if (s->n_ext == EXT_MAX) return -1;
    s->ext_names[s->n_ext] = arena_strdup(s->names, name);
    return (int)s->n_ext++;
}

static void res_of(struct sched *s, const struct str_map *m, struct res *out, int64_t *pods) {
    *out = (struct res){0};
    for (size_t i = 0; i < m->n; i++) {
        const char *k = m->items[i].key, *v = m->items[i].value;
        if (strcmp(k, "cpu") == 0)
            out->cpu = quantity_str_milli(v);
        else if (strcmp(k, "memory") == 0)
            out->mem = quantity_str_value(v);
        else if (strcmp(k, "ephemeral-storage") == 0)
            out->eph = quantity_str_value(v);
        else if (strcmp(k, "pods") == 0) {
            if (pods) *pods = quantity_str_value(v);
        } else {
            int slot = ext_slot(s, k);
            if (slot >= 0) out->ext[slot] = quantity_str_value(v);
        }
    }
}

struct need {
    struct res r;
    int64_t nz_cpu, nz_mem;
};

static struct need container_need(struct sched *s, const struct core_container *c) {
    struct need n;
    res_of(s, &c->resources.requests, &n.r, NULL);
    n.nz_cpu = str_map_get(&c->resources.requests, "cpu") ? n.r.cpu : DEFAULT_CPU;
    n.nz_mem = str_map_get(&c->resources.requests, "memory") ? n.r.mem : DEFAULT_MEM;
    return n;
}

static void need_add(struct need *a, const struct need *b) {
    res_add(&a->r, &b->r, 1);
    a->nz_cpu += b->nz_cpu;
    a->nz_mem += b->nz_mem;
}

static void need_max(struct need *a, const struct need *b) {
    res_max(&a->r, &b->r);
    a->nz_cpu = MAX_OF(a->nz_cpu, b->nz_cpu);
    a->nz_mem = MAX_OF(a->nz_mem, b->nz_mem);
}

/* Containers and sidecars (restartable init containers) add up; an init container runs beside the sidecars
 * started before it. The pod needs the larger of the two phases, and its overhead. */
void pod_requests(struct sched *s, const struct core_pod *p, struct res *out, int64_t *nz_cpu, int64_t *nz_mem) {
    struct need run = {0}, init = {0}, sidecars = {0};
    for (size_t i = 0; i < p->spec.containers.n; i++) {
        struct need n = container_need(s, &p->spec.containers.items[i]);
        need_add(&run, &n);
    }
    for (size_t i = 0; i < p->spec.init_containers.n; i++) {
        const struct core_container *c = &p->spec.init_containers.items[i];
        struct need n = container_need(s, c);
        if (str_eq(c->restart_policy, "Always")) {
            need_add(&sidecars, &n);
            need_max(&init, &sidecars);
        } else {
            need_add(&n, &sidecars);
            need_max(&init, &n);
        }
    }
    need_add(&run, &sidecars);
    need_max(&run, &init);
    if (p->spec.resources && p->spec.resources->requests.n) { /* given for the pod as a whole */
        struct res whole;
        res_of(s, &p->spec.resources->requests, &whole, NULL);
        if (str_map_get(&p->spec.resources->requests, "cpu")) run.r.cpu = run.nz_cpu = whole.cpu;
        if (str_map_get(&p->spec.resources->requests, "memory")) run.r.mem = run.nz_mem = whole.mem;
    }
    struct res overhead;
    res_of(s, &p->spec.overhead, &overhead, NULL);
    res_add(&run.r, &overhead, 1);
    *out = run.r;
    *nz_cpu = run.nz_cpu + overhead.cpu;
    *nz_mem = run.nz_mem + overhead.mem;
}

/* ---- controllers' spread ---- */

static struct owner_spread *owner_of(struct sched *s, const struct core_pod *p) {
    const struct meta_owner_reference *ref = meta_controller_of(&p->metadata);
    if (!ref || str_empty(ref->uid)) return NULL;
    struct owner_spread *o = map_get(&s->owners, ref->uid);
    if (!o) {
        o = xcalloc(1, sizeof(*o));
        o->uid = xstrdup(ref->uid);
        map_put(&s->owners, ref->uid, o);
    }
    o->pods++;
    return o;
}

static void owner_drop(struct sched *s, struct owner_spread *o) {
    if (!o || --o->pods) return;
    map_del(&s->owners, o->uid);
    free(o->uid);
    free(o->by_node);
    free(o);
}

static void owner_count(struct sched *s, struct owner_spread *o, size_t node, int by) {
    if (!o) return;
    if (node >= o->cap) {
        size_t cap = MAX_OF(s->n_nodes, node + 1);
        o->by_node = xrealloc(o->by_node, cap * sizeof(*o->by_node));
        memset(o->by_node + o->cap, 0, (cap - o->cap) * sizeof(*o->by_node));
        o->cap = cap;
    }
    o->by_node[node] += (uint32_t)by;
}

/* The last node took the place of one that went (and had no pods). */
static void owners_renumber(struct sched *s, size_t from, size_t to) {
    size_t it = 0;
    const char *uid;
    void *v;
    while (map_next(&s->owners, &it, &uid, &v)) {
        struct owner_spread *o = v;
        uint32_t n = from < o->cap ? o->by_node[from] : 0;
        if (from < o->cap) o->by_node[from] = 0;
        if (to < o->cap)
            o->by_node[to] = n;
        else
            owner_count(s, o, to, (int)n);
    }
}

/* ---- nodes ---- */

struct sched_node *cache_node(struct sched *s, const char *name) {
    struct sched_node *n = map_get(&s->node_by_name, name);
    if (n) return n;
    n = xcalloc(1, sizeof(*n));
    n->name = xstrdup(name);
    n->index = s->n_nodes;
    VEC_GROW(s->nodes, s->n_nodes, s->cap_nodes);
    s->nodes[s->n_nodes++] = n;
    map_put(&s->node_by_name, name, n);
    return n;
}

static void node_drop_if_empty(struct sched *s, struct sched_node *n) {
    if (n->o || n->n_pods || n->n_nominated) return;
    map_del(&s->node_by_name, n->name);
    struct sched_node *last = s->nodes[--s->n_nodes];
    if (last != n) owners_renumber(s, last->index, n->index);
    s->nodes[n->index] = last;
    last->index = n->index;
    free(n->name);
    free(n->pods);
    free(n);
}

void cache_node_set(struct sched *s, struct object *o) {
    struct sched_node *n = cache_node(s, o->meta->name);
    if (!n->o) s->n_live++;
    object_unref(n->o);
    n->o = object_ref(o);
    n->n = o->obj;
    n->max_pods = 0;
    const struct core_node *k = n->n;
    res_of(s, k->status.allocatable.n ? &k->status.allocatable : &k->status.capacity, &n->alloc, &n->max_pods);
}

void cache_node_gone(struct sched *s, const char *name) {
    struct sched_node *n = map_get(&s->node_by_name, name);
    if (!n || !n->o) return;
    object_unref(n->o);
    n->o = NULL;
    n->n = NULL;
    s->n_live--;
    node_drop_if_empty(s, n);
}

/* ---- pods ---- */

static void add_ports(struct sched_pod *sp, const struct core_container *c, size_t *cap) {
    for (size_t i = 0; i < c->ports.n; i++) {
        const struct core_container_port *p = &c->ports.items[i];
        if (p->host_port <= 0) continue;
        VEC_GROW(sp->ports, sp->n_ports, *cap);
        sp->ports[sp->n_ports++] = (struct host_port){.ip = str_empty(p->host_ip) ? "0.0.0.0" : p->host_ip,
                                                      .port = p->host_port,
                                                      .proto = str_empty(p->protocol) ? 'T' : *p->protocol};
    }
}

struct sched_pod *cache_pod_new(struct sched *s, struct object *o) {
    struct sched_pod *sp = xcalloc(1, sizeof(*sp));
    sp->o = object_ref(o);
    sp->p = o->obj;
    pod_requests(s, sp->p, &sp->req, &sp->nz_cpu, &sp->nz_mem);
    sp->priority = sp->p->spec.priority ? *sp->p->spec.priority : 0;
    size_t cap = 0;
    for (size_t i = 0; i < sp->p->spec.containers.n; i++) add_ports(sp, &sp->p->spec.containers.items[i], &cap);
    for (size_t i = 0; i < sp->p->spec.init_containers.n; i++)
        if (str_eq(sp->p->spec.init_containers.items[i].restart_policy, "Always"))
            add_ports(sp, &sp->p->spec.init_containers.items[i], &cap);
    const struct core_affinity *a = sp->p->spec.affinity;
    if (a && a->pod_anti_affinity) {
        sp->anti = a->pod_anti_affinity->required_during_scheduling_ignored_during_execution.n > 0;
        sp->prefers = a->pod_anti_affinity->preferred_during_scheduling_ignored_during_execution.n > 0;
    }
    if (a && a->pod_affinity &&
        (a->pod_affinity->required_during_scheduling_ignored_during_execution.n ||
         a->pod_affinity->preferred_during_scheduling_ignored_during_execution.n))
        sp->prefers = true;
    sp->owner = owner_of(s, sp->p);
    map_put(&s->pod_by_key, o->key, sp);
    return sp;
}

static void vec_remove(struct sched_pod **v, size_t *n, const struct sched_pod *sp) {
    for (size_t i = 0; i < *n; i++)
        if (v[i] == sp) {
            v[i] = v[--*n];
            return;
        }
}

void cache_pod_place(struct sched *s, struct sched_pod *sp, struct sched_node *n) {
    assert(!sp->node);
    sp->node = n;
    VEC_GROW(n->pods, n->n_pods, n->cap_pods);
    sp->node_at = n->n_pods;
    n->pods[n->n_pods++] = sp;
    res_add(&n->used, &sp->req, 1);
    n->nz_cpu += sp->nz_cpu;
    n->nz_mem += sp->nz_mem;
    owner_count(s, sp->owner, n->index, 1);
    if (sp->anti) {
        VEC_GROW(s->anti_pods, s->n_anti, s->cap_anti);
        s->anti_pods[s->n_anti++] = sp;
    }
    if (sp->prefers) {
        VEC_GROW(s->prefer_pods, s->n_prefer, s->cap_prefer);
        s->prefer_pods[s->n_prefer++] = sp;
    }
}

void cache_pod_remove(struct sched *s, struct sched_pod *sp) {
    struct sched_node *n = sp->node;
    if (!n) return;
    struct sched_pod *last = n->pods[--n->n_pods];
    n->pods[sp->node_at] = last;
    last->node_at = sp->node_at;
    res_add(&n->used, &sp->req, -1);
    n->nz_cpu -= sp->nz_cpu;
    n->nz_mem -= sp->nz_mem;
    owner_count(s, sp->owner, n->index, -1);
    sp->node = NULL;
    if (sp->anti) vec_remove(s->anti_pods, &s->n_anti, sp);
    if (sp->prefers) vec_remove(s->prefer_pods, &s->n_prefer, sp);
    node_drop_if_empty(s, n);
}

void cache_nominate(struct sched *s, struct sched_pod *sp, struct sched_node *n) {
    struct sched_node *was = sp->nominated;
    if (was == n) return;
    if (was) vec_remove(s->nominees, &s->n_nominees, sp);
    sp->nominated = n;
    if (n) {
        n->n_nominated++;
        VEC_GROW(s->nominees, s->n_nominees, s->cap_nominees);
        s->nominees[s->n_nominees++] = sp;
    }
    if (was) {
        was->n_nominated--;
        node_drop_if_empty(s, was);
    }
}

/* A pod whose claims are not there waits beside the queue; or no longer. */
void cache_pod_claimless(struct sched *s, struct sched_pod *sp, bool is) {
    if (is == (sp->gated_at > 0)) return;
    if (is) {
        VEC_GROW(s->claimless, s->n_claimless, s->cap_claimless);
        s->claimless[s->n_claimless++] = sp;
        sp->gated_at = s->n_claimless;
        return;
    }
    struct sched_pod *last = s->claimless[--s->n_claimless];
    s->claimless[sp->gated_at - 1] = last;
    last->gated_at = sp->gated_at;
    sp->gated_at = 0;
}

void cache_pod_free(struct sched *s, struct sched_pod *sp) {
    cache_pod_claimless(s, sp, false);
    cache_nominate(s, sp, NULL);
    cache_pod_remove(s, sp);
    if (map_get(&s->pod_by_key, sp->o->key) == sp) map_del(&s->pod_by_key, sp->o->key);
    owner_drop(s, sp->owner);
    object_unref(sp->o);
    free(sp->ports);
    free(sp->last_message);
    free(sp);
}
