/* See cpu_assign.h. */
#include "kubelet/cm/cpu_assign.h"

#include <math.h>

#include "pkg/base/util.h"

/* An allocation under way. */
struct taker {
    const struct machine *m;
    const struct cpu_options *o;
    struct cpuset free, taken;
    size_t need;
};

struct ids {
    int items[CPUSET_MAX];
    size_t n;
};

/* ---- the order in which things are looked at ---- */

static size_t free_in(const struct taker *t, enum level l, int id) {
    struct cpuset s = machine_cpus(t->m, l, id, &t->free);
    return cpuset_count(&s);
}

/* Appends the things of the level that have CPUs in `among`: those with the fewest free ones first. */
static void append_sorted(const struct taker *t, enum level l, const struct cpuset *among, struct ids *out) {
    struct cpuset ids = machine_ids(t->m, l, among);
    size_t first = out->n, sizes[CPUSET_MAX];
    CPUSET_EACH(id, &ids) {
        size_t size = free_in(t, l, id), at = out->n;
        for (; at > first && sizes[at - 1 - first] > size; at--) {
            out->items[at] = out->items[at - 1];
            sizes[at - first] = sizes[at - 1 - first];
        }
        out->items[at] = id;
        sizes[at - first] = size;
        out->n++;
    }
}

/* Things of a level, one larger thing after the other: the CPUs of `outer` in their order. */
static void within(const struct taker *t, enum level outer, const struct ids *order, enum level l, struct ids *out) {
    out->n = 0;
    for (size_t i = 0; i < order->n; i++) {
        struct cpuset among = machine_cpus(t->m, outer, order->items[i], &t->free);
        append_sorted(t, l, &among, out);
    }
}

/* A NUMA node that spans sockets is the larger thing; otherwise the socket is. */
static enum level largest(const struct taker *t) {
    return t->m->counts[LEVEL_SOCKET] >= t->m->counts[LEVEL_NUMA] ? LEVEL_NUMA : LEVEL_SOCKET;
}

static void in_order(const struct taker *t, enum level l, struct ids *out) {
    enum level first = largest(t), second = first == LEVEL_NUMA ? LEVEL_SOCKET : LEVEL_NUMA;
    struct ids outer = {.n = 0}, inner = {.n = 0};
    append_sorted(t, first, &t->free, &outer);
    if (l == first) {
        *out = outer;
        return;
    }
    within(t, first, &outer, second, &inner);
    if (l == second)
        *out = inner;
    else if (l == LEVEL_UNCORE)
        within(t, LEVEL_NUMA, first == LEVEL_NUMA ? &outer : &inner, LEVEL_UNCORE, out);
    else
        within(t, second, &inner, l, out);
}

/* ---- taking ---- */

static void take(struct taker *t, const struct cpuset *cpus) {
    t->taken = cpuset_union(&t->taken, cpus);
    t->free = cpuset_minus(&t->free, cpus);
    t->need -= cpuset_count(cpus);
}

/* Every thing of the level that is wholly free and not too large. */
static void take_whole(struct taker *t, enum level l) {
    struct ids order;
    in_order(t, l, &order);
    for (size_t i = 0; i < order.n && t->need; i++) {
        struct cpuset whole = machine_cpus(t->m, l, order.items[i], NULL);
        if (cpuset_count(&whole) <= t->need && cpuset_within(&whole, &t->free)) take(t, &whole);
    }
}

/* All that is still needed from one last-level cache, if it has that much: by cores, and of the last core a part. */
static void take_from_uncore(struct taker *t, int id) {
    size_t threads = machine_threads(t->m), cores = (t->need + threads - 1) / threads;
    struct cpuset there = machine_cpus(t->m, LEVEL_UNCORE, id, &t->free), ids = machine_ids(t->m, LEVEL_CORE, &there);
    struct cpuset some = {0};
    CPUSET_EACH(core, &ids) {
        if (!cores--) break;
        struct cpuset one = machine_cpus(t->m, LEVEL_CORE, core, &t->free);
        some = cpuset_union(&some, &one);
    }
    size_t n = cpuset_count(&some);
    if (t->need % 2 && threads > 1 && n > t->need) { /* the highest thread is left */
        int last = -1;
        CPUSET_EACH(cpu, &some) last = cpu;
        some.words[last / 64] &= ~(UINT64_C(1) << (last % 64));
        n--;
    }
    if (n == t->need) take(t, &some);
}

static void take_by_uncore(struct taker *t) {
    struct ids order;
    size_t usual = cpuset_count(&t->m->cpus) / t->m->counts[LEVEL_UNCORE];
    in_order(t, LEVEL_UNCORE, &order);
    for (size_t i = 0; i < order.n && t->need; i++) {
        if (t->need >= usual) take_whole(t, LEVEL_UNCORE);
        if (t->need) take_from_uncore(t, order.items[i]);
    }
}

static void take_single(struct taker *t) {
    enum level by = t->o->distribute_cores ? LEVEL_SOCKET : LEVEL_CORE;
    struct ids order;
    in_order(t, by, &order);
    for (size_t i = 0; i < order.n && t->need; i++) {
        struct cpuset there = machine_cpus(t->m, by, order.items[i], &t->free);
        CPUSET_EACH(cpu, &there) {
            struct cpuset one = {0};
            if (!t->need) return;
            cpuset_add(&one, cpu);
            take(t, &one);
        }
    }
}

static int not_enough(size_t wanted, size_t free, struct err *e) {
    return err_set(e, -EBUSY, "not enough cpus available to satisfy request: requested=%zu, available=%zu", wanted,
                   free);
}

static int packed(const struct machine *m, const struct cpu_options *o, const struct cpuset *free, size_t n,
                  bool by_uncore, struct cpuset *out, struct err *e) {
    struct taker t = {.m = m, .o = o, .free = *free, .need = n};
    if (n > cpuset_count(free)) return not_enough(n, cpuset_count(free), e);
    if (t.need) take_whole(&t, largest(&t));
    if (t.need) take_whole(&t, largest(&t) == LEVEL_NUMA ? LEVEL_SOCKET : LEVEL_NUMA);
    if (t.need && by_uncore) take_by_uncore(&t);
    if (t.need && !o->distribute_cores) take_whole(&t, LEVEL_CORE);
    if (t.need) take_single(&t);
    *out = t.taken;
    return 0;
}

/* ---- evenly over NUMA nodes ---- */

/* Nodes by their place in `order`; `left[i]` is what would be free on node i. */
struct spread {
    const struct machine *m;
    size_t n, group;          /* CPUs wanted; the smallest number that is taken together */
    int order[MACHINE_NODES]; /* nodes with free CPUs */
    size_t free[MACHINE_NODES], nodes;
    double best;                /* how uneven the best choice leaves the nodes; -1: there is none */
    uint64_t chosen, remainder; /* it: bits of places */
};

/* Standard deviation, in thousandths as upstream rounds it. */
static double unevenness(const size_t *left, size_t n) {
    double mean = 0, sum = 0;
    for (size_t i = 0; i < n; i++) mean += (double)left[i];
    mean = round(mean / (double)n * 1000) / 1000;
    for (size_t i = 0; i < n; i++) sum += ((double)left[i] - mean) * ((double)left[i] - mean);
    return round(sqrt(sum / (double)n) * 1000) / 1000;
}

/* Takes what is left to distribute from the nodes of `subset` in turns. False when they do not have it. */
static bool deal(const struct spread *s, uint64_t subset, size_t remainder, size_t *left) {
    size_t sum = 0;
    for (size_t i = 0; i < s->nodes; i++)
        if (subset >> i & 1) sum += left[i] / s->group * s->group;
    if (sum < remainder) return false;
    while (remainder)
        for (size_t i = 0; i < s->nodes && remainder; i++) {
            if (!(subset >> i & 1) || left[i] < s->group) continue;
            left[i] -= s->group;
            remainder -= s->group;
        }
    return true;
}

/* Choices of `k` of the places in `among`, the first places first: {0,1}, {0,2}, ... {1,2}, ... */
struct choice {
    int places[MACHINE_NODES], at[MACHINE_NODES];
    size_t n, k;
};

static void choice_init(struct choice *c, uint64_t among, size_t k) {
    c->n = 0;
    c->k = k;
    for (; among; among &= among - 1) c->places[c->n++] = __builtin_ctzll(among);
    for (size_t i = 0; i < k; i++) c->at[i] = (int)i;
}

static uint64_t choice_bits(const struct choice *c) {
    uint64_t bits = 0;
    for (size_t i = 0; i < c->k; i++) bits |= UINT64_C(1) << c->places[c->at[i]];
    return bits;
}

static bool choice_next(struct choice *c) {
    size_t i = c->k;
    while (i && (size_t)c->at[i - 1] == c->n - c->k + i - 1) i--;
    if (!i) return false;
    c->at[i - 1]++;
    for (; i < c->k; i++) c->at[i] = c->at[i - 1] + 1;
    return true;
}

static void judge(struct spread *s, uint64_t combo, uint64_t extra, size_t remainder, const size_t *left) {
    size_t after[MACHINE_NODES];
    memcpy(after, left, sizeof(after));
    if (remainder && !deal(s, extra, remainder, after)) return;
    double u = unevenness(after, s->nodes);
    if (s->best >= 0 && u >= s->best) return;
    s->best = u;
    s->chosen = combo;
    s->remainder = extra;
}

/* A choice of k nodes: each gives the same number, and what is left comes from as many of them as can. */
static void try_combo(struct spread *s, uint64_t combo, size_t k) {
    size_t total = 0, groups = 0, share = s->n / k / s->group * s->group, left[MACHINE_NODES], able = 0;
    uint64_t may = 0;
    for (size_t i = 0; i < s->nodes; i++) {
        left[i] = s->free[i];
        if (!(combo >> i & 1)) continue;
        total += s->free[i];
        groups += s->free[i] / s->group;
        if (s->free[i] < share) return;
        left[i] -= share;
        if (left[i] < s->group) continue;
        may |= UINT64_C(1) << i;
        able++;
    }
    if (total < s->n || groups * s->group < s->n) return;
    size_t remainder = s->n - share * k;
    if (!remainder) {
        judge(s, combo, 0, 0, left);
        return;
    }
    for (size_t some = able; some >= 1; some--) {
        struct choice c;
        choice_init(&c, may, some);
        do judge(s, combo, choice_bits(&c), remainder, left);
        while (choice_next(&c));
    }
}

static int take_from(struct taker *t, int node, size_t n, struct err *e) {
    struct cpuset there = machine_cpus(t->m, LEVEL_NUMA, node, &t->free), got;
    int r = packed(t->m, t->o, &there, n, false, &got, e);
    if (r == 0) take(t, &got);
    return r;
}

static int take_choice(const struct spread *s, struct taker *t, struct err *e) {
    size_t k = (size_t)__builtin_popcountll(s->chosen), share = s->n / k / s->group * s->group;
    int r = 0;
    for (size_t i = 0; r == 0 && i < s->nodes; i++)
        if (s->chosen >> i & 1) r = take_from(t, s->order[i], share, e);
    while (r == 0 && t->need)
        for (size_t i = 0; r == 0 && i < s->nodes && t->need; i++)
            if ((s->remainder >> i & 1) && free_in(t, LEVEL_NUMA, s->order[i]) >= s->group)
                r = take_from(t, s->order[i], s->group, e);
    return r;
}

enum { SPREAD_NODES = 16 }; /* with more, all choices would take too long: they are packed */

static int distributed(const struct machine *m, const struct cpu_options *o, const struct cpuset *free, size_t n,
                       struct cpuset *out, struct err *e) {
    struct taker t = {.m = m, .o = o, .free = *free, .need = n};
    struct spread s = {.m = m, .n = n, .group = o->full_cores ? machine_threads(m) : 1, .best = -1};
    if (n > cpuset_count(free)) return not_enough(n, cpuset_count(free), e);
    struct ids order;
    in_order(&t, LEVEL_NUMA, &order);
    if (n % s.group || order.n > SPREAD_NODES || !n) return packed(m, o, free, n, false, out, e);
    for (; s.nodes < order.n; s.nodes++) {
        s.order[s.nodes] = order.items[s.nodes];
        s.free[s.nodes] = free_in(&t, LEVEL_NUMA, s.order[s.nodes]);
    }
    size_t groups = (cpuset_count(&m->cpus) - 1) / s.group + 1, per_node = (groups - 1) / m->counts[LEVEL_NUMA] + 1;
    size_t wanted = (n - 1) / s.group + 1, most = MIN_OF(wanted, s.nodes);
    for (size_t k = (wanted - 1) / per_node + 1; k <= most && s.best < 0; k++) {
        struct choice c;
        choice_init(&c, (UINT64_C(1) << s.nodes) - 1, k);
        do try_combo(&s, choice_bits(&c), k);
        while (choice_next(&c));
    }
    if (s.best < 0) return packed(m, o, free, n, false, out, e);
    int r = take_choice(&s, &t, e);
    if (r == 0) *out = t.taken;
    return r;
}

int cpu_take(const struct machine *m, const struct cpu_options *o, const struct cpuset *free, size_t n,
             struct cpuset *out, struct err *e) {
    return o->distribute_nodes ? distributed(m, o, free, n, out, e) : packed(m, o, free, n, o->by_uncore, out, e);
}

bool cpu_aligned_by_uncore(const struct machine *m, const struct cpuset *cpus) {
    struct cpuset ids = machine_ids(m, LEVEL_UNCORE, cpus);
    return cpuset_count(&ids) == 1;
}
