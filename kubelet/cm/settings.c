/* See settings.h. */
#include "kubelet/cm/settings.h"

#include "pkg/api/quantity.h"
#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/base/util.h"

/* Calls fn with every "key=value" of a list. */
typedef int pair_fn(void *arg, const char *key, const char *value, struct err *e);
static int each_pair(const char *text, pair_fn *fn, void *arg, struct err *e) {
    for (const char *s = str_or_empty(text); *s;) {
        size_t n = strcspn(s, ","), key = strcspn(s, "=");
        if (key >= n) return err_set(e, -EINVAL, "\"%.*s\" is not key=value", (int)n, s);
        _cleanup_free_ char *k = xstrndup(s, key), *v = xstrndup(s + key + 1, n - key - 1);
        int r = fn(arg, k, v, e);
        if (r < 0) return r;
        s += n + (s[n] == ',');
    }
    return 0;
}

/* As Go's strconv.ParseBool. */
static int yes_no(const char *key, const char *text, bool *out, struct err *e) {
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"}, *const no[] = {"0",     "f",     "F",
                                                                                             "false", "FALSE", "False"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (!str_eq(text, yes[i]) && !str_eq(text, no[i])) continue;
        *out = str_eq(text, yes[i]);
        return 0;
    }
    return err_set(e, -EINVAL, "bad value for option \"%s\": \"%s\" is neither true nor false", key, text);
}

/* ---- CPU manager ---- */

struct cpu_option_list {
    struct cpu_options *out;
    bool alpha;
};

static int cpu_option(void *arg, const char *key, const char *value, struct err *e) {
    static const struct {
        const char *name;
        bool alpha;
        size_t offset;
    } rows[] = {
        {"full-pcpus-only", false, offsetof(struct cpu_options, full_cores)},
        {"distribute-cpus-across-numa", false, offsetof(struct cpu_options, distribute_nodes)},
        {"align-by-socket", true, offsetof(struct cpu_options, align_by_socket)},
        {"distribute-cpus-across-cores", true, offsetof(struct cpu_options, distribute_cores)},
        {"strict-cpu-reservation", false, offsetof(struct cpu_options, strict_reservation)},
        {"prefer-align-cpus-by-uncorecache", false, offsetof(struct cpu_options, by_uncore)},
    };
    struct cpu_option_list *l = arg;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (!str_eq(key, rows[i].name)) continue;
        if (rows[i].alpha && !l->alpha)
            return err_set(
                e, -EINVAL,
                "CPU Manager Policy Alpha-level Options not enabled, but option \"%s\" provided (it needs the "
                "feature gate CPUManagerPolicyAlphaOptions)",
                key);
        return yes_no(key, value, (bool *)((char *)l->out + rows[i].offset), e);
    }
    return err_set(e, -EINVAL, "unknown CPU Manager Policy option: \"%s\"", key);
}

int settings_cpu_options(const char *text, bool alpha, struct cpu_options *out, struct err *e) {
    struct cpu_options o = {0};
    struct cpu_option_list l = {&o, alpha};
    int r = each_pair(text, cpu_option, &l, e);
    if (r < 0) return err_wrap(e, "cpuManagerPolicyOptions");
    const struct {
        bool both;
        const char *one, *other;
    } rows[] = {
        {o.full_cores && o.distribute_cores, "full-pcpus-only", "distribute-cpus-across-cores"},
        {o.distribute_nodes && o.distribute_cores, "distribute-cpus-across-numa", "distribute-cpus-across-cores"},
        {o.by_uncore && o.distribute_cores, "prefer-align-cpus-by-uncorecache", "distribute-cpus-across-cores"},
        {o.by_uncore && o.distribute_nodes, "prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].both)
            return err_set(e, -EINVAL,
                           "cpuManagerPolicyOptions: static policy options %s and %s can not be used at the same time",
                           rows[i].one, rows[i].other);
    *out = o;
    return 0;
}

/* ---- topology manager ---- */

struct topology_options {
    bool closest;
    int64_t max_nodes;
};

static int topology_option(void *arg, const char *key, const char *value, struct err *e) {
    struct topology_options *o = arg;
    if (str_eq(key, "prefer-closest-numa-nodes")) return yes_no(key, value, &o->closest, e);
    if (!str_eq(key, "max-allowable-numa-nodes"))
        return err_set(e, -EINVAL, "unknown Topology Manager Policy option: \"%s\"", key);
    if (str_to_i64(value, &o->max_nodes) < 0)
        return err_set(e, -EINVAL, "unable to convert policy option to integer \"%s\": %s", key, value);
    if (o->max_nodes < ALIGN_NODES)
        return err_set(e, -EINVAL, "the minimum value of \"%s\" should not be less than %d", key, ALIGN_NODES);
    if (o->max_nodes > ALIGN_NODES_MAX)
        return err_set(e, -EINVAL, "\"%s\": more than %d NUMA nodes are not supported", key, ALIGN_NODES_MAX);
    return 0;
}

int settings_topology_options(const char *text, bool *closest, int64_t *max_nodes, struct err *e) {
    struct topology_options o = {.max_nodes = ALIGN_NODES};
    if (each_pair(text, topology_option, &o, e) < 0) return err_wrap(e, "topologyManagerPolicyOptions");
    *closest = o.closest;
    *max_nodes = o.max_nodes;
    return 0;
}

int settings_topology_policy(const char *text, enum topology_policy *out, struct err *e) {
    static const char *const names[] = {[TOPOLOGY_NONE] = "none",
                                        [TOPOLOGY_BEST_EFFORT] = "best-effort",
                                        [TOPOLOGY_RESTRICTED] = "restricted",
                                        [TOPOLOGY_SINGLE_NODE] = "single-numa-node"};
    *out = TOPOLOGY_NONE;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!str_eq(text, names[i]) && !(i == 0 && str_empty(text))) continue;
        *out = (enum topology_policy)i;
        return 0;
    }
    return err_set(e, -EINVAL,
                   "topologyManagerPolicy: \"%s\" must be one of: none, best-effort, restricted, single-numa-node",
                   text);
}

/* ---- memory manager ---- */

struct reservation_list {
    struct arena *a;
    struct memory_reservation *items;
    size_t n, cap;
    int64_t node;
};

static int reservation(void *arg, const char *key, const char *value, struct err *e) {
    struct reservation_list *l = arg;
    struct quantity q = {0};
    if (!str_eq(key, "memory") && !str_has_prefix(key, "hugepages-"))
        return err_set(e, -EINVAL, "\"%s\" cannot be reserved: only memory and huge pages can", key);
    if (quantity_parse(value, &q) < 0 || quantity_value(q) < 0)
        return err_set(e, -EINVAL, "\"%s\" is no amount", value);
    if (!quantity_value(q)) return err_set(e, -EINVAL, "the reserved amount of %s cannot be zero", key);
    for (size_t i = 0; i < l->n; i++)
        if (l->items[i].node == l->node && str_eq(l->items[i].type, key))
            return err_set(e, -EINVAL, "the reservation of %s on NUMA node %lld is given twice", key,
                           (long long)l->node);
    if (l->n >= RESERVATIONS_MAX) return err_set(e, -E2BIG, "more than %d reservations", RESERVATIONS_MAX);
    ARENA_GROW(l->a, l->items, l->n, l->cap);
    l->items[l->n++] = (struct memory_reservation){(int)l->node, arena_strdup(l->a, key), quantity_value(q)};
    return 0;
}

int settings_reserved_memory(struct arena *a, const char *text, struct memory_reservation **out, size_t *n,
                             struct err *e) {
    struct reservation_list l = {.a = a};
    for (const char *s = str_or_empty(text); *s;) {
        size_t len = strcspn(s, ";"), colon = strcspn(s, ":");
        _cleanup_free_ char *node = xstrndup(s, MIN_OF(colon, len));
        if (colon >= len || str_to_i64(node, &l.node) < 0 || l.node < 0 || l.node >= MACHINE_NODES)
            return err_set(e, -EINVAL, "reservedMemory: \"%.*s\" names no NUMA node", (int)len, s);
        _cleanup_free_ char *limits = xstrndup(s + colon + 1, len - colon - 1);
        if (each_pair(limits, reservation, &l, e) < 0) return err_wrap(e, "reservedMemory");
        s += len + (s[len] == ';');
    }
    *out = l.items;
    *n = l.n;
    return 0;
}

char *settings_without(const char *text, const char *key) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    size_t len = strlen(key);
    for (const char *s = str_or_empty(text); *s;) {
        size_t n = strcspn(s, ",");
        if (n <= len || strncmp(s, key, len) != 0 || s[len] != '=')
            buf_printf(&b, "%s%.*s", b.len ? "," : "", (int)n, s);
        s += n + (s[n] == ',');
    }
    return buf_take(&b);
}

/* ---- gates ---- */

struct gate {
    const char *name;
    bool on;
};

static int look_at_gate(void *arg, const char *key, const char *value, struct err *e) {
    struct gate *g = arg;
    return str_eq(key, g->name) ? yes_no(key, value, &g->on, e) : 0;
}

bool settings_gate(const char *text, const char *gate, bool dflt) {
    struct gate g = {gate, dflt};
    each_pair(text, look_at_gate, &g, NULL);
    return g.on;
}
