/* See memory_manager.h. The file is memory_state.c's. */
#include "kubelet/cm/memory_internal.h"

/* ---- the beginning ---- */

int memory_type(struct memory_manager *m, const char *name) {
    for (size_t i = 0; i < m->n_types; i++)
        if (str_eq(m->types[i], name)) return (int)i;
    if (m->n_types >= MEMORY_TYPES) return -1;
    m->types[m->n_types] = xstrdup(name);
    return (int)m->n_types++;
}

static const char *huge_name(int64_t size, char out[40]) {
    static const char *const units[] = {"Ki", "Mi", "Gi", "Ti"};
    size_t u = 0;
    for (size /= 1024; size % 1024 == 0 && u + 1 < ARRAY_LEN(units); u++) size /= 1024;
    snprintf(out, 40, "hugepages-%lld%s", (long long)size, units[u]);
    return out;
}

static void add_table(struct memory_manager *m, struct memory_node *n, const char *name, int64_t total, int64_t less) {
    int t = memory_type(m, name);
    if (t < 0) return;
    struct memory_table *x = &n->tables[t];
    *x = (struct memory_table){.there = true, .total = total};
    for (size_t i = 0; i < m->c.n_by_node; i++)
        if (m->c.by_node[i].node == n->id && str_eq(m->c.by_node[i].type, name))
            x->system_reserved += m->c.by_node[i].amount;
    x->allocatable = x->free = MAX_OF(total - less - x->system_reserved, (int64_t)0);
}

void memory_reset(struct memory_manager *m) {
    char name[40];
    for (size_t i = 0; i < m->m->n_nodes; i++) {
        const struct numa_node *have = &m->m->nodes[i];
        struct memory_node *n = &m->nodes[i];
        int64_t huge = 0;
        *n = (struct memory_node){.id = have->id, .group = UINT64_C(1) << have->id};
        for (size_t h = 0; h < have->n_huge; h++) {
            int64_t total = have->huge[h].size * have->huge[h].pages;
            add_table(m, n, huge_name(have->huge[h].size, name), total, 0);
            huge += total;
        }
        add_table(m, n, "memory", have->memory, huge);
    }
}

static int64_t sum_of(const struct memory_reservation *r, size_t n, const char *type) {
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        if (str_eq(r[i].type, type)) sum += r[i].amount;
    return sum;
}

static int check_kind(const struct memory_config *c, const char *type, struct err *e) {
    int64_t by_node = sum_of(c->by_node, c->n_by_node, type), whole = sum_of(c->reserved, c->n_reserved, type);
    if (by_node == whole) return 0;
    return err_set(e, -EINVAL,
                   "memory manager: the total amount %lld of type %s in reservedMemory is not equal to the %lld that "
                   "kubeReserved, systemReserved and the hard eviction threshold make",
                   (long long)by_node, type, (long long)whole);
}

static int check_reservations(const struct memory_manager *m, struct err *e) {
    const struct memory_config *c = &m->c;
    int r = 0;
    for (size_t i = 0; i < c->n_by_node; i++)
        if (c->by_node[i].node < 0 || c->by_node[i].node >= MACHINE_NODES ||
            !(machine_nodes(m->m) >> c->by_node[i].node & 1))
            return err_set(
                e, -EINVAL,
                "memory manager: reservedMemory references a NUMA node %d that does not exist on this machine",
                c->by_node[i].node);
    for (size_t i = 0; r == 0 && i < c->n_by_node; i++) r = check_kind(c, c->by_node[i].type, e);
    for (size_t i = 0; r == 0 && i < c->n_reserved; i++) r = check_kind(c, c->reserved[i].type, e);
    if (r == 0 && sum_of(c->by_node, c->n_by_node, "memory") <= 0)
        r = err_set(e, -EINVAL, "memory manager: the policy Static needs reservedMemory of the type memory");
    return r;
}

int memory_manager_new(const struct machine *machine, const struct memory_config *c, struct memory_manager **out,
                       struct err *e) {
    struct memory_manager *m = xcalloc(1, sizeof(*m));
    m->m = machine;
    m->c = *c;
    m->file = c->file ? xstrdup(c->file) : NULL;
    int r = c->pinned ? check_reservations(m, e) : 0;
    if (r == 0 && c->pinned) memory_reset(m);
    m->c.by_node = m->c.reserved = NULL; /* the caller's */
    if (r == 0 && m->file) r = memory_load(m, e);
    if (r == 0) memory_save(m);
    *out = r < 0 ? memory_manager_free(m) : m;
    return r;
}

static struct promise *promise_free(struct promise *p) {
    struct promise *next = p->next;
    free(p->uid);
    free(p->container);
    free(p);
    return next;
}

struct memory_manager *memory_manager_free(struct memory_manager *m) {
    if (!m) return NULL;
    while (m->promises) m->promises = promise_free(m->promises);
    for (size_t i = 0; i < m->n_types; i++) free(m->types[i]);
    free(m->reuse_uid);
    free(m->file);
    free(m);
    return NULL;
}

/* ---- what is wanted ---- */

/* An amount by kind; `n` kinds that are asked for, if only for nothing. */
struct request {
    bool asked[MEMORY_TYPES];
    int64_t amount[MEMORY_TYPES];
    size_t n;
};

static void request_of(struct memory_manager *m, const struct core_container *c, struct request *out) {
    *out = (struct request){0};
    for (size_t i = 0; i < c->resources.requests.n; i++) {
        const char *name = c->resources.requests.items[i].key;
        int t = str_eq(name, "memory") || str_has_prefix(name, "hugepages-") ? memory_type(m, name) : -1;
        if (t < 0) continue;
        out->asked[t] = true;
        out->amount[t] = quantity_str_value(c->resources.requests.items[i].value);
        out->n++;
    }
}

/* Of the whole pod: kinds that main containers ask for, and the most at any time. */
static void request_of_pod(struct memory_manager *m, const struct core_pod *p, struct request *out) {
    const struct core_container_vec *init = &p->spec.init_containers, *main = &p->spec.containers;
    struct request one, by_main = {0};
    int64_t by_init[MEMORY_TYPES] = {0}, sidecars[MEMORY_TYPES] = {0};
    for (size_t i = 0; i < init->n; i++) {
        request_of(m, &init->items[i], &one);
        for (size_t t = 0; t < m->n_types; t++)
            if (container_is_sidecar(&init->items[i]))
                sidecars[t] += one.amount[t];
            else
                by_init[t] = MAX_OF(by_init[t], sidecars[t] + one.amount[t]);
    }
    for (size_t i = 0; i < main->n; i++) {
        request_of(m, &main->items[i], &one);
        for (size_t t = 0; t < m->n_types; t++) {
            by_main.n += one.asked[t] && !by_main.asked[t];
            by_main.asked[t] |= one.asked[t];
            by_main.amount[t] += one.amount[t];
        }
    }
    for (size_t t = 0; t < m->n_types; t++)
        if (by_main.asked[t]) by_main.amount[t] = MAX_OF(by_init[t], by_main.amount[t] + sidecars[t]);
    *out = by_main;
}

bool memory_manager_pins(const struct memory_manager *m, const struct core_pod *p) {
    return m->c.pinned && !p->spec.resources && str_eq(pod_qos_class(p), "Guaranteed");
}

/* ---- hints ---- */

static struct promise *find(const struct memory_manager *m, const char *uid, const char *container) {
    for (struct promise *p = m->promises; p; p = p->next)
        if (str_eq(p->uid, uid) && str_eq(p->container, container)) return p;
    return NULL;
}

static int64_t reusable(const struct memory_manager *m, const struct core_pod *p, uint64_t nodes, size_t type) {
    if (!str_eq(m->reuse_uid, p->metadata.uid)) return 0;
    for (size_t i = 0; i < m->n_reuse; i++)
        if (m->reuse[i].nodes == nodes) return m->reuse[i].amount[type];
    return 0;
}

static bool enough(const struct memory_manager *m, const struct core_pod *p, const struct request *rq, uint64_t nodes,
                   bool only_free) {
    for (size_t t = 0; t < m->n_types; t++) {
        int64_t have = only_free && p ? reusable(m, p, nodes, t) : 0;
        for (size_t i = 0; i < m->m->n_nodes; i++)
            if (nodes >> m->nodes[i].id & 1)
                have += only_free ? m->nodes[i].tables[t].free : m->nodes[i].tables[t].allocatable;
        if (rq->asked[t] && have < rq->amount[t]) return false;
    }
    return true;
}

/* A node is used alone or in one group, never in both ways. */
static bool group_allows(const struct memory_manager *m, uint64_t nodes) {
    for (size_t i = 0; i < m->m->n_nodes; i++) {
        const struct memory_node *n = &m->nodes[i];
        if (!(nodes >> n->id & 1)) continue;
        if (node_count(nodes) == 1 && node_count(n->group) > 1) return false;
        if (node_count(nodes) > 1 && n->assignments > 0 && n->group != nodes) return false;
    }
    return true;
}

static struct hint_list possible(const struct memory_manager *m, struct arena *a, const struct core_pod *p,
                                 const struct request *rq) {
    struct hint_list l = {0};
    uint64_t all = machine_nodes(m->m);
    size_t narrowest = node_count(all);
    NODE_SETS(nodes, all) {
        if (!enough(m, p, rq, nodes, false)) continue;
        narrowest = MIN_OF(narrowest, node_count(nodes));
        if (group_allows(m, nodes) && enough(m, p, rq, nodes, true)) hint_add(a, &l, nodes);
    }
    hint_prefer(&l, narrowest);
    return l;
}

/* The hints of what a container has already. False when it has something else than it asks for. */
static bool regenerate(const struct memory_manager *m, struct arena *a, const struct promise *have,
                       const struct request *rq, struct hint_set *out) {
    if (have->n != rq->n) return false;
    for (size_t i = 0; i < have->n; i++) {
        size_t t = (size_t)have->blocks[i].type;
        if (!rq->asked[t] || rq->amount[t] != have->blocks[i].size) return false;
    }
    for (size_t i = 0; i < have->n; i++) {
        struct hint_list *l = hint_set_add(a, out);
        hint_add(a, l, have->blocks[i].nodes);
        l->items[0].preferred = true;
    }
    return true;
}

static const struct promise *any_promise(const struct memory_manager *m, const struct core_pod *p,
                                         const struct core_container *c) {
    const struct core_container_vec *lists[] = {&p->spec.init_containers, &p->spec.containers};
    if (c) return find(m, p->metadata.uid, c->name);
    for (size_t l = 0; l < ARRAY_LEN(lists); l++)
        for (size_t i = 0; i < lists[l]->n; i++) {
            const struct promise *have = find(m, p->metadata.uid, lists[l]->items[i].name);
            if (have) return have;
        }
    return NULL;
}

void memory_manager_hints(struct memory_manager *m, struct arena *a, const struct core_pod *p,
                          const struct core_container *c, struct hint_set *out) {
    struct request rq;
    if (!memory_manager_pins(m, p)) return;
    if (c)
        request_of(m, c, &rq);
    else
        request_of_pod(m, p, &rq);
    const struct promise *have = any_promise(m, p, c);
    if (have) {
        regenerate(m, a, have, &rq, out);
        return;
    }
    struct hint_list l = possible(m, a, p, &rq);
    if (l.n) /* for each kind of memory; without any, promising it will fail */
        for (size_t i = 0; i < rq.n; i++) *hint_set_add(a, out) = l;
}

/* ---- promising ---- */

static bool best_of(const struct hint_list *l, uint64_t within, struct numa_hint *out) {
    bool found = false;
    for (size_t i = 0; i < l->n; i++) {
        struct numa_hint h = l->items[i];
        if (within & ~h.nodes) continue;
        if (found && (h.preferred != out->preferred ? out->preferred : !nodes_narrower(h.nodes, out->nodes))) continue;
        *out = h;
        found = true;
    }
    return found;
}

/* Takes from the nodes in their order. */
static void charge(struct memory_manager *m, uint64_t nodes, size_t type, int64_t size) {
    for (size_t i = 0; i < m->m->n_nodes; i++) {
        struct memory_node *n = &m->nodes[i];
        if (!(nodes >> n->id & 1)) continue;
        n->assignments++;
        n->group = nodes;
        int64_t part = MIN_OF(size, n->tables[type].free);
        n->tables[type].free -= part;
        n->tables[type].reserved += part;
        size -= part;
    }
}

static void discharge(struct memory_manager *m, const struct promised *b) {
    int64_t size = b->size;
    for (size_t i = 0; i < m->m->n_nodes; i++) {
        struct memory_node *n = &m->nodes[i];
        if (!(b->nodes >> n->id & 1)) continue;
        if (--n->assignments == 0) n->group = UINT64_C(1) << n->id;
        int64_t part = MIN_OF(size, n->tables[b->type].reserved);
        n->tables[b->type].free += part;
        n->tables[b->type].reserved -= part;
        size -= part;
    }
}

void memory_charge(struct memory_manager *m, const struct promise *p) {
    for (size_t i = 0; i < p->n; i++) charge(m, p->blocks[i].nodes, (size_t)p->blocks[i].type, p->blocks[i].size);
}

struct promise *memory_put(struct memory_manager *m, const char *uid, const char *container) {
    struct promise **at = &m->promises, *p = xcalloc(1, sizeof(*p));
    for (; *at; at = &(*at)->next) {
        int order = strcmp((*at)->uid, uid);
        if (order > 0 || (order == 0 && strcmp((*at)->container, container) > 0)) break;
    }
    *p = (struct promise){.next = *at, .uid = xstrdup(uid), .container = xstrdup(container)};
    *at = p;
    return p;
}

static struct memory_reuse *reuse_at(struct memory_manager *m, uint64_t nodes) {
    for (size_t i = 0; i < m->n_reuse; i++)
        if (m->reuse[i].nodes == nodes) return &m->reuse[i];
    if (m->n_reuse >= ARRAY_LEN(m->reuse)) return NULL;
    m->reuse[m->n_reuse] = (struct memory_reuse){.nodes = nodes};
    return &m->reuse[m->n_reuse++];
}

/* An init container leaves its memory to those that follow; any other takes of that first. */
static void note_reuse(struct memory_manager *m, const struct core_pod *p, const struct core_container *c,
                       const struct promise *have) {
    enum container_kind kind = CONTAINER_MAIN;
    if (!str_eq(m->reuse_uid, p->metadata.uid)) {
        free(m->reuse_uid);
        m->reuse_uid = xstrdup(p->metadata.uid);
        m->n_reuse = 0;
    }
    pod_container(p, c->name, &kind);
    bool leaves = kind == CONTAINER_INIT && !container_is_sidecar(c);
    for (size_t i = 0; i < have->n; i++) {
        struct memory_reuse *r = reuse_at(m, have->blocks[i].nodes);
        int64_t size = have->blocks[i].size;
        if (!r) continue;
        int64_t *amount = &r->amount[have->blocks[i].type];
        *amount = leaves ? MAX_OF(*amount, size) : MAX_OF(*amount - size, (int64_t)0);
    }
}

/* What a container took over is no longer its init containers': the sum stays what is really promised. */
static void take_over(struct memory_manager *m, const struct core_pod *p, const struct core_container *c,
                      const struct promise *new) {
    for (size_t b = 0; b < new->n; b++) {
        int64_t size = new->blocks[b].size;
        for (size_t i = 0; size && i < p->spec.init_containers.n; i++) {
            const struct core_container *init = &p->spec.init_containers.items[i];
            if (str_eq(init->name, c->name)) break;
            struct promise *old = container_is_sidecar(init) ? NULL : find(m, p->metadata.uid, init->name);
            for (size_t k = 0; old && k < old->n; k++) {
                struct promised *x = &old->blocks[k];
                if (x->type != new->blocks[b].type || x->nodes != new->blocks[b].nodes) continue;
                int64_t part = MIN_OF(size, x->size);
                x->size -= part;
                size -= part;
            }
        }
    }
}

/* The nodes to take it from: the hint's, if they can; else more of them. */
static int decide(struct memory_manager *m, struct arena *a, const struct core_pod *p, const struct request *rq,
                  struct numa_hint hint, uint64_t *nodes, struct err *e) {
    struct hint_list l = possible(m, a, p, rq);
    struct numa_hint best = hint;
    bool extend = hint.nodes && !enough(m, NULL, rq, hint.nodes, true);
    if (!hint.nodes && !l.n)
        return err_set(e, -EBUSY,
                       "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is "
                       "available");
    if ((!hint.nodes || extend) && !best_of(&l, hint.nodes, &best))
        return err_set(e, -EBUSY, "[memorymanager] failed to find NUMA nodes to extend the current topology hint");
    if ((!hint.nodes || extend) && hint.preferred && !best.preferred)
        return err_set(e, -EBUSY, "[memorymanager] failed to find the %s preferred hint",
                       extend ? "extended" : "default");
    if (!group_allows(m, best.nodes))
        return err_set(e, -EBUSY, "[memorymanager] preferred hint violates NUMA node allocation");
    *nodes = best.nodes;
    return 0;
}

int memory_manager_allocate(struct memory_manager *m, const struct core_pod *p, const struct core_container *c,
                            struct numa_hint hint, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct request rq;
    uint64_t nodes = 0;
    if (!memory_manager_pins(m, p)) return 0;
    struct promise *have = find(m, p->metadata.uid, c->name);
    if (have) {
        note_reuse(m, p, c, have);
        return 0;
    }
    request_of(m, c, &rq);
    int r = decide(m, a, p, &rq, hint, &nodes, e);
    if (r < 0) return r;
    have = memory_put(m, p->metadata.uid, c->name);
    for (size_t t = 0; t < m->n_types; t++) {
        if (!rq.asked[t]) continue;
        have->blocks[have->n++] = (struct promised){.nodes = nodes, .type = (int)t, .size = rq.amount[t]};
        charge(m, nodes, t, MAX_OF(rq.amount[t] - reusable(m, p, nodes, t), (int64_t)0));
    }
    note_reuse(m, p, c, have);
    take_over(m, p, c, have);
    memory_save(m);
    return 0;
}

bool memory_manager_release(struct memory_manager *m, const char *uid) {
    bool any = false;
    for (struct promise **at = &m->promises; *at;) {
        if (!str_eq((*at)->uid, uid)) {
            at = &(*at)->next;
            continue;
        }
        for (size_t i = 0; i < (*at)->n; i++) discharge(m, &(*at)->blocks[i]);
        *at = promise_free(*at);
        any = true;
    }
    if (any) memory_save(m);
    return any;
}

/* ---- looking ---- */

struct str_vec memory_manager_pods(const struct memory_manager *m, struct arena *a) {
    struct str_vec v = {0};
    size_t cap = 0;
    for (const struct promise *p = m->promises; p; p = p->next) {
        if (v.n && str_eq(v.items[v.n - 1], p->uid)) continue;
        ARENA_GROW(a, v.items, v.n, cap);
        v.items[v.n++] = arena_strdup(a, p->uid);
    }
    return v;
}

struct memory_block *memory_manager_blocks(const struct memory_manager *m, struct arena *a, const char *uid,
                                           const char *container, size_t *n) {
    const struct promise *p = find(m, uid, container);
    *n = p ? p->n : 0;
    struct memory_block *out = arena_alloc(a, (*n + 1) * sizeof(*out));
    for (size_t i = 0; i < *n; i++)
        out[i] = (struct memory_block){p->blocks[i].nodes, m->types[p->blocks[i].type], p->blocks[i].size};
    return out;
}

uint64_t memory_manager_nodes(const struct memory_manager *m, const char *uid, const char *container) {
    const struct promise *p = find(m, uid, container);
    uint64_t nodes = 0;
    for (size_t i = 0; p && i < p->n; i++) nodes |= p->blocks[i].nodes;
    return nodes;
}

struct memory_block *memory_manager_allocatable(const struct memory_manager *m, struct arena *a, size_t *n) {
    struct memory_block *out = NULL;
    size_t cap = 0;
    *n = 0;
    for (size_t i = 0; m->c.pinned && i < m->m->n_nodes; i++)
        for (size_t t = 0; t < m->n_types; t++) {
            const struct memory_table *x = &m->nodes[i].tables[t];
            if (!x->there || !x->allocatable) continue;
            ARENA_GROW(a, out, *n, cap);
            out[(*n)++] = (struct memory_block){UINT64_C(1) << m->nodes[i].id, m->types[t], x->allocatable};
        }
    return out;
}
