/* See cpu_manager.h. */
#include "kubelet/cm/cpu_manager.h"

#include "kubelet/cm/state_file.h"
#include "pkg/base/log.h"

/* What a container was given. */
struct given {
    struct given *next; /* by uid, then container */
    char *uid, *container;
    struct cpuset cpus;
};

struct cpu_manager {
    const struct machine *m;
    struct cpu_config c;
    char *file;
    struct cpuset reserved, reserved_cores; /* the latter: with all threads of their cores */
    struct cpuset shared;
    struct given *given;
    char *reuse_uid; /* of whose init containers CPUs may be used again */
    struct cpuset reuse;
};

/* ---- the file ---- */

static struct given *find(const struct cpu_manager *m, const char *uid, const char *container) {
    for (struct given *g = m->given; g; g = g->next)
        if (str_eq(g->uid, uid) && str_eq(g->container, container)) return g;
    return NULL;
}

static void put(struct cpu_manager *m, const char *uid, const char *container, const struct cpuset *cpus) {
    struct given **at = &m->given, *g = xcalloc(1, sizeof(*g));
    for (; *at; at = &(*at)->next) {
        int order = strcmp((*at)->uid, uid);
        if (order > 0 || (order == 0 && strcmp((*at)->container, container) > 0)) break;
    }
    *g = (struct given){.next = *at, .uid = xstrdup(uid), .container = xstrdup(container), .cpus = *cpus};
    *at = g;
}

static struct given *given_free(struct given *g) {
    struct given *next = g->next;
    free(g->uid);
    free(g->container);
    free(g);
    return next;
}

static const char *policy_name(const struct cpu_manager *m) { return m->c.exclusive ? "static" : "none"; }

/* The text that upstream's checksum is made of. */
static char *dump(struct arena *a, const char *policy, const char *shared, const struct json *entries) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_printf(&b,
               "(*state.CPUManagerCheckpoint){PolicyName:(string)%s DefaultCPUSet:(string)%s "
               "Entries:(map[string]map[string]string)map[",
               policy, shared);
    size_t pods = 0;
    JSON_FOREACH_MEMBER(p, entries) {
        size_t n = 0;
        buf_printf(&b, "%s%s:map[", pods++ ? " " : "", p->key);
        JSON_FOREACH_MEMBER(c, p->value)
            buf_printf(&b, "%s%s:%s", n++ ? " " : "", c->key, str_or_empty(json_as_str(c->value)));
        buf_addc(&b, ']');
    }
    buf_adds(&b, "] Checksum:(checksum.Checksum)0}");
    return arena_strndup(a, b.data, b.len);
}

static void save(struct cpu_manager *m) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct json *o = json_object(a), *entries = json_object(a), *pod = NULL;
    const char *uid = NULL, *shared = cpuset_text(a, &m->shared);
    if (!m->file) return;
    for (const struct given *g = m->given; g; g = g->next) {
        if (!str_eq(uid, g->uid)) pod = json_set(a, entries, uid = g->uid, json_object(a));
        json_set_str(a, pod, g->container, cpuset_text(a, &g->cpus));
    }
    json_set_str(a, o, "policyName", policy_name(m));
    json_set_str(a, o, "defaultCpuSet", shared);
    if (m->given) json_set(a, o, "entries", entries);
    if (state_file_write(a, m->file, o, dump(a, policy_name(m), shared, entries), &e) < 0)
        log_error("cannot write down which CPUs are given away", "error", e.msg, NULL);
}

static int take_entries(struct cpu_manager *m, const struct json *entries) {
    JSON_FOREACH_MEMBER(p, entries)
        JSON_FOREACH_MEMBER(c, p->value) {
            struct cpuset cpus;
            if (cpuset_parse(str_or_empty(json_as_str(c->value)), &cpus) < 0) {
                log_error("no list of CPUs in the CPU manager's file", "pod", p->key, "container", c->key, NULL);
                return -EINVAL;
            }
            put(m, p->key, c->key, &cpus);
        }
    return 0;
}

static int load(struct cpu_manager *m, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err why = {0};
    struct json *o;
    int r = state_file_read(a, m->file, &o, &why);
    if (r == -ENOENT) return 0;
    if (r < 0) return state_file_advise(e, "CPU", m->file, "could not restore state from checkpoint: %s", why.msg);
    const char *policy = str_or_empty(json_get_str(o, "policyName")), *shared = json_get_str(o, "defaultCpuSet");
    const struct json *entries = json_get(o, "entries");
    if (!shared) shared = str_or_empty(json_get_str(o, "defaultCPUSet"));
    if (!state_file_intact(o, dump(a, policy, shared, entries)))
        return state_file_advise(e, "CPU", m->file,
                                 "could not restore state from checkpoint: checkpoint is corrupted (checksum)");
    if (!str_eq(policy, policy_name(m)))
        return state_file_advise(e, "CPU", m->file,
                                 "could not restore state from checkpoint: configured policy \"%s\" differs from state "
                                 "checkpoint policy \"%s\"",
                                 policy_name(m), policy);
    if (cpuset_parse(shared, &m->shared) < 0 || take_entries(m, entries) < 0)
        return state_file_advise(e, "CPU", m->file,
                                 "could not restore state from checkpoint: a list of CPUs in it is none");
    return 0;
}

/* ---- the beginning ---- */

static int reserve(struct cpu_manager *m, struct err *e) {
    size_t n = (size_t)((m->c.reserved_milli + 999) / 1000);
    if (!m->c.reserved_milli)
        return err_set(e, -EINVAL,
                       "CPU manager: the static policy requires systemReserved.cpu + kubeReserved.cpu to be greater "
                       "than zero");
    m->reserved = m->c.reserved;
    if (cpuset_empty(&m->reserved) && cpu_take(m->m, &m->c.options, &m->m->cpus, n, &m->reserved, e) < 0)
        return err_wrap(e, "CPU manager: the reserved CPUs");
    if (cpuset_count(&m->reserved) != n || !cpuset_within(&m->reserved, &m->m->cpus))
        return err_set(e, -EINVAL, "CPU manager: unable to reserve the required amount of CPUs (%zu of this machine)",
                       n);
    CPUSET_EACH(cpu, &m->reserved) {
        struct cpuset core = machine_cpus(m->m, LEVEL_CORE, m->m->ids[LEVEL_CORE][cpu], NULL);
        m->reserved_cores = cpuset_union(&m->reserved_cores, &core);
    }
    return 0;
}

static int invalid(const struct cpu_manager *m, struct err *e, const char *why) {
    return state_file_advise(e, "CPU", m->file ? m->file : "", "invalid state: %s", why);
}

/* Whether what the file says can be on this machine with these settings. */
static int validate(struct cpu_manager *m, struct err *e) {
    struct cpuset all = m->m->cpus, known = m->shared, reserved_shared = cpuset_and(&m->reserved, &m->shared);
    if (cpuset_empty(&m->shared)) {
        if (m->given) return invalid(m, e, "default cpuset cannot be empty");
        m->shared = m->c.options.strict_reservation ? cpuset_minus(&all, &m->reserved) : all;
        return 0;
    }
    if (m->c.options.strict_reservation && !cpuset_empty(&reserved_shared))
        return invalid(m, e, "some of the strictly reserved CPUs are among the shared ones");
    if (!m->c.options.strict_reservation && !cpuset_equal(&reserved_shared, &m->reserved))
        return invalid(m, e, "not all reserved CPUs are among the shared ones");
    for (const struct given *g = m->given; g; g = g->next) {
        struct cpuset both = cpuset_and(&g->cpus, &m->shared);
        if (!cpuset_empty(&both)) return invalid(m, e, "a container's own CPUs are among the shared ones");
        known = cpuset_union(&known, &g->cpus);
    }
    if (m->c.options.strict_reservation) all = cpuset_minus(&all, &m->reserved);
    if (!cpuset_equal(&known, &all)) return invalid(m, e, "the machine's CPUs are not those of the state");
    return 0;
}

static int begin(struct cpu_manager *m, struct err *e) {
    int r = 0;
    if (m->c.exclusive && m->c.options.align_by_socket && m->m->counts[LEVEL_SOCKET] > m->m->counts[LEVEL_NUMA])
        return err_set(e, -EINVAL,
                       "CPU manager: align-by-socket is not compatible with hardware that has more sockets than NUMA "
                       "nodes");
    if (m->c.exclusive) r = reserve(m, e);
    if (r == 0 && m->file) r = load(m, e);
    if (r == 0 && m->c.exclusive) r = validate(m, e);
    if (r == 0) save(m);
    return r;
}

int cpu_manager_new(const struct machine *machine, const struct cpu_config *c, struct cpu_manager **out,
                    struct err *e) {
    struct cpu_manager *m = xcalloc(1, sizeof(*m));
    m->m = machine;
    m->c = *c;
    m->file = c->file ? xstrdup(c->file) : NULL;
    int r = begin(m, e);
    *out = r < 0 ? cpu_manager_free(m) : m;
    return r;
}

struct cpu_manager *cpu_manager_free(struct cpu_manager *m) {
    if (!m) return NULL;
    while (m->given) m->given = given_free(m->given);
    free(m->reuse_uid);
    free(m->file);
    free(m);
    return NULL;
}

/* ---- what is wanted ---- */

static size_t wanted_by(const struct core_container *c) {
    struct quantity q = container_resource(c, "cpu", false, NULL);
    return quantity_milli(q) % 1000 || quantity_milli(q) <= 0 ? 0 : (size_t)(quantity_milli(q) / 1000);
}

/* Init containers run one after the other, beside the sidecars before them. */
static size_t wanted_by_pod(const struct core_pod *p) {
    const struct core_container_vec *init = &p->spec.init_containers, *main = &p->spec.containers;
    size_t by_init = 0, by_sidecars = 0, by_main = 0;
    for (size_t i = 0; i < init->n; i++) {
        size_t n = wanted_by(&init->items[i]);
        if (container_is_sidecar(&init->items[i]))
            by_sidecars += n;
        else
            by_init = MAX_OF(by_init, by_sidecars + n);
    }
    for (size_t i = 0; i < main->n; i++) by_main += wanted_by(&main->items[i]);
    return MAX_OF(by_init, by_main + by_sidecars);
}

size_t cpu_manager_wanted(const struct cpu_manager *m, const struct core_pod *p, const struct core_container *c) {
    /* A pod with resources of its own is not taken apart: that is upstream's alpha feature PodLevelResourceManagers. */
    if (!m->c.exclusive || p->spec.resources || !str_eq(pod_qos_class(p), "Guaranteed")) return 0;
    return c ? wanted_by(c) : wanted_by_pod(p);
}

/* ---- hints ---- */

/* Whether the nodes are on no more sockets than so many nodes need. */
static bool socket_aligned(const struct cpu_manager *m, uint64_t nodes, size_t narrowest) {
    size_t per_socket = m->m->counts[LEVEL_NUMA] / m->m->counts[LEVEL_SOCKET];
    if (!per_socket) return false;
    struct cpuset cpus = machine_cpus_of_nodes(m->m, nodes, NULL), sockets = machine_ids(m->m, LEVEL_SOCKET, &cpus);
    return cpuset_count(&sockets) == (narrowest + per_socket - 1) / per_socket;
}

static void hints_for(const struct cpu_manager *m, struct arena *a, const struct cpuset *free,
                      const struct cpuset *reused, size_t n, struct hint_list *out) {
    uint64_t all = machine_nodes_with_cpus(m->m);
    size_t narrowest = node_count(all);
    NODE_SETS(nodes, all) {
        struct cpuset there = machine_cpus_of_nodes(m->m, nodes, NULL), could = cpuset_and(free, &there);
        if (cpuset_count(&there) >= n) narrowest = MIN_OF(narrowest, node_count(nodes));
        could = cpuset_union(&could, reused);
        if (cpuset_within(reused, &there) && cpuset_count(&could) >= n) hint_add(a, out, nodes);
    }
    hint_prefer(out, narrowest);
    for (size_t i = 0; m->c.options.align_by_socket && i < out->n; i++)
        out->items[i].preferred |= socket_aligned(m, out->items[i].nodes, narrowest);
}

/* CPUs that the pod's containers have (of one: that it has). False when a container has another number than it wants. */
static bool had(const struct cpu_manager *m, const struct core_pod *p, const struct core_container *c,
                struct cpuset *out) {
    *out = (struct cpuset){0};
    for (const struct given *g = m->given; g; g = g->next) {
        if (!str_eq(g->uid, p->metadata.uid) || (c && !str_eq(g->container, c->name))) continue;
        const struct core_container *of = pod_container(p, g->container, NULL);
        if (of && wanted_by(of) != cpuset_count(&g->cpus)) return false;
        *out = cpuset_union(out, &g->cpus);
    }
    return true;
}

static struct cpuset reusable(const struct cpu_manager *m, const struct core_pod *p) {
    return str_eq(m->reuse_uid, p->metadata.uid) ? m->reuse : (struct cpuset){0};
}

void cpu_manager_hints(const struct cpu_manager *m, struct arena *a, const struct core_pod *p,
                       const struct core_container *c, struct hint_set *out) {
    struct cpuset own, none = {0};
    size_t n = cpu_manager_wanted(m, p, c);
    if (!n) return;
    struct hint_list *l = hint_set_add(a, out);
    if (!had(m, p, c, &own)) return;
    if (cpuset_count(&own) == n) {
        hints_for(m, a, &own, &none, n, l);
        return;
    }
    struct cpuset free = cpu_manager_available(m), again = reusable(m, p);
    again = cpuset_union(&again, &own);
    hints_for(m, a, &free, &again, n, l);
}

/* ---- giving ---- */

static int whole_cores(const struct cpu_manager *m, size_t n, struct err *e) {
    size_t threads = machine_threads(m->m);
    struct cpuset free = cpuset_minus(&m->shared, &m->reserved_cores);
    int r = 0;
    if (n % threads)
        r = err_set(e, -EINVAL, "SMT Alignment Error: requested %zu cpus not multiple cpus per core = %zu", n, threads);
    else if (n > cpuset_count(&free))
        r = err_set(
            e, -EBUSY,
            "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = %zu, requested CPUs = "
            "%zu, CPUs per core = %zu",
            cpuset_count(&free), n, threads);
    if (r < 0 && e) e->reason = "SMTAlignmentError";
    return r;
}

/* Those near to the nodes first; by socket, those of the nodes' sockets. */
static struct cpuset aligned(const struct cpu_manager *m, uint64_t nodes, const struct cpuset *free) {
    struct cpuset there = machine_cpus_of_nodes(m->m, nodes, NULL);
    if (m->c.options.align_by_socket) {
        struct cpuset sockets = machine_ids(m->m, LEVEL_SOCKET, &there);
        CPUSET_EACH(id, &sockets) {
            struct cpuset one = machine_cpus(m->m, LEVEL_SOCKET, id, NULL);
            there = cpuset_union(&there, &one);
        }
    }
    return cpuset_and(&there, free);
}

static int pick(const struct cpu_manager *m, const struct core_pod *p, size_t n, uint64_t nodes, struct cpuset *out,
                struct err *e) {
    struct cpuset free = cpu_manager_available(m), again = reusable(m, p), near = {0}, rest = {0};
    free = cpuset_union(&free, &again);
    int r = 0;
    if (nodes) {
        struct cpuset best = aligned(m, nodes, &free);
        r = cpu_take(m->m, &m->c.options, &best, MIN_OF(n, cpuset_count(&best)), &near, e);
    }
    free = cpuset_minus(&free, &near);
    if (r == 0) r = cpu_take(m->m, &m->c.options, &free, n - cpuset_count(&near), &rest, e);
    *out = cpuset_union(&near, &rest);
    return r;
}

/* An init container leaves its CPUs to those that follow; any other keeps them. */
static void note_reuse(struct cpu_manager *m, const struct core_pod *p, const struct core_container *c,
                       const struct cpuset *cpus) {
    enum container_kind kind = CONTAINER_MAIN;
    if (!str_eq(m->reuse_uid, p->metadata.uid)) {
        free(m->reuse_uid);
        m->reuse_uid = xstrdup(p->metadata.uid);
        m->reuse = (struct cpuset){0};
    }
    pod_container(p, c->name, &kind);
    bool leaves = kind == CONTAINER_INIT && !container_is_sidecar(c);
    m->reuse = leaves ? cpuset_union(&m->reuse, cpus) : cpuset_minus(&m->reuse, cpus);
}

int cpu_manager_allocate(struct cpu_manager *m, const struct core_pod *p, const struct core_container *c,
                         uint64_t nodes, struct err *e) {
    size_t n = cpu_manager_wanted(m, p, c);
    const struct given *have = find(m, p->metadata.uid, c->name);
    struct cpuset cpus;
    if (!n) return 0;
    if (have) {
        note_reuse(m, p, c, &have->cpus);
        return 0;
    }
    int r = m->c.options.full_cores ? whole_cores(m, n, e) : 0;
    if (r == 0) r = pick(m, p, n, nodes, &cpus, e);
    if (r < 0) return r;
    m->shared = cpuset_minus(&m->shared, &cpus);
    put(m, p->metadata.uid, c->name, &cpus);
    note_reuse(m, p, c, &cpus);
    save(m);
    return 0;
}

bool cpu_manager_release(struct cpu_manager *m, const char *uid) {
    bool any = false;
    for (struct given **at = &m->given; *at;) {
        if (!str_eq((*at)->uid, uid)) {
            at = &(*at)->next;
            continue;
        }
        m->shared = cpuset_union(&m->shared, &(*at)->cpus);
        *at = given_free(*at);
        any = true;
    }
    if (any) save(m);
    return any;
}

struct str_vec cpu_manager_pods(const struct cpu_manager *m, struct arena *a) {
    struct str_vec v = {0};
    size_t cap = 0;
    for (const struct given *g = m->given; g; g = g->next) {
        if (v.n && str_eq(v.items[v.n - 1], g->uid)) continue;
        ARENA_GROW(a, v.items, v.n, cap);
        v.items[v.n++] = arena_strdup(a, g->uid);
    }
    return v;
}

/* ---- looking ---- */

struct cpuset cpu_manager_cpus(const struct cpu_manager *m, const char *uid, const char *container) {
    const struct given *g = container && m->c.exclusive ? find(m, uid, container) : NULL;
    return g ? g->cpus : m->c.exclusive ? m->shared : (struct cpuset){0};
}

struct cpuset cpu_manager_own(const struct cpu_manager *m, const char *uid, const char *container) {
    struct cpuset s = {0};
    for (const struct given *g = m->given; g; g = g->next)
        if (str_eq(g->uid, uid) && (!container || str_eq(g->container, container))) s = cpuset_union(&s, &g->cpus);
    return s;
}

struct cpuset cpu_manager_allocatable(const struct cpu_manager *m) {
    return m->c.exclusive ? cpuset_minus(&m->m->cpus, &m->reserved) : (struct cpuset){0};
}

struct cpuset cpu_manager_available(const struct cpu_manager *m) {
    return cpuset_minus(&m->shared, &m->reserved);
}

struct cpuset cpu_manager_given(const struct cpu_manager *m) {
    struct cpuset s = {0};
    for (const struct given *g = m->given; g; g = g->next) s = cpuset_union(&s, &g->cpus);
    return s;
}
