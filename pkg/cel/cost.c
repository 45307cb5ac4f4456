/* The estimate of what an expression costs at least and at most, from its types alone. It decides which rules a
 * CustomResourceDefinition may have, so it follows upstream's arithmetic to the digit, odd corners included.
 *
 * A node has a size (of its text, list or map), known from literals, from operations, or from the declared type its path
 * leads to ("self.spec.items[]": the `max` of that schema); an entry has sizes of key and value; sizes multiply into costs.
 * Upstream: checker/cost.go, k8s.io/apiserver/pkg/cel/library/cost.go (EstimateCallCost), ext/lists.go, ext/sets.go. */
#include <math.h>

#include "pkg/cel/internal.h"

typedef struct cel_range range; /* of a size or a cost */

struct node_cost {
    const struct cel_type *path; /* the declared type this node's path leads to; NULL: it has no path */
    bool done, sized, entries;
    range cost, size, key, val;
};

struct bound { /* a local variable */
    const char *name;
    const struct cel_type *path;
    bool sized, entries;
    range size, key, val;
};

struct coster {
    struct arena *a;
    const struct cel_type *root; /* of `self` */
    struct bound *locals;
    size_t n_locals, cap_locals;
};

struct estimate {
    range cost, size;
    bool sized;
};

static const range unknown = {0, UINT64_MAX};

static uint64_t add64(uint64_t x, uint64_t y) { return x > UINT64_MAX - y ? UINT64_MAX : x + y; }
static uint64_t mul64(uint64_t x, uint64_t y) {
    uint64_t r;
    return __builtin_mul_overflow(x, y, &r) ? UINT64_MAX : r;
}
static uint64_t factor64(uint64_t x, double f) {
    double d = ceil((double)x * f);
    return d >= 18446744073709551616.0 ? UINT64_MAX : (uint64_t)d;
}
static range fixed(uint64_t n) { return (range){n, n}; }
static range add(range x, range y) { return (range){add64(x.min, y.min), add64(x.max, y.max)}; }
static range mul(range x, range y) { return (range){mul64(x.min, y.min), mul64(x.max, y.max)}; }
static range by(range x, double f) { return (range){factor64(x.min, f), factor64(x.max, f)}; }
static range join(range x, range y) { return (range){MIN_OF(x.min, y.min), MAX_OF(x.max, y.max)}; }

static range cost_of(struct coster *c, struct node *n);

/* ---- paths and sizes ---- */

static struct node_cost *info(struct coster *c, struct node *n) {
    if (!n->cost) n->cost = arena_zalloc(c->a, sizeof(*n->cost));
    return n->cost;
}

static const struct bound *local(const struct coster *c, const struct node *n) {
    if (n->kind != N_IDENT || n->id.local < 0) return NULL;
    for (size_t i = c->n_locals; i > 0; i--)
        if (strcmp(c->locals[i - 1].name, n->name) == 0) return &c->locals[i - 1];
    return NULL;
}

static const struct cel_type *path_of(struct coster *c, struct node *n) {
    const struct bound *b = local(c, n);
    return b ? b->path : info(c, n)->path;
}

enum step { STEP_ITEMS, STEP_VALUES, STEP_KEYS, STEP_INDICES, STEP_FIELD };

/* Where no schema is known the type itself stands in; a path that begins with a step begins at the root, as upstream. */
static const struct cel_type *step(const struct coster *c, const struct cel_type *path, enum step s, const char *field) {
    if (!path) return c->root;
    switch (s) {
    case STEP_ITEMS: return path->kind == CEL_LIST ? path->p[0] : &cel_t_dyn;
    case STEP_VALUES: return path->kind == CEL_MAP ? path->p[1] : &cel_t_dyn;
    case STEP_KEYS: return path->kind == CEL_MAP ? path->p[0] : &cel_t_dyn;
    case STEP_FIELD: {
        const struct cel_field *f = path->kind == CEL_OBJECT ? type_field(path, field) : NULL;
        return f ? f->type : &type_error;
    }
    default: return &type_error;
    }
}

static bool path_size(const struct cel_type *path, range *out) {
    if (!path || path->is_error || path->max == CEL_NO_MAX) return false;
    *out = (range){0, (uint64_t)path->max};
    return true;
}

static bool scalar(const struct cel_type *t) {
    switch (t->kind) {
    case CEL_BOOL:
    case CEL_INT:
    case CEL_UINT:
    case CEL_DOUBLE:
    case CEL_DURATION:
    case CEL_TIMESTAMP: return true;
    case CEL_OPTIONAL: return scalar(t->p[0]);
    default: return false;
    }
}

static bool size_of(struct coster *c, struct node *n, range *out) {
    struct node_cost *i = info(c, n);
    if (i->sized) {
        *out = i->size;
        return true;
    }
    if (n->kind == N_LIT && n->lit.kind != CEL_TYPE) {
        *out = fixed(val_size(&n->lit));
        return true;
    }
    if (n->kind == N_LIST || n->kind == N_MAP) {
        *out = fixed(n->n);
        return true;
    }
    const struct bound *b = local(c, n);
    if (path_size(path_of(c, n), out)) {
        i->size = *out;
        i->sized = !b;
        return true;
    }
    *out = fixed(1);
    if (scalar(n->type)) return true;
    if (b && b->sized) *out = b->size;
    return b && b->sized;
}

static range size_or_unknown(struct coster *c, struct node *n) {
    range r;
    return size_of(c, n, &r) ? r : unknown;
}

static bool entries_of(struct coster *c, struct node *n, range *key, range *val) {
    struct node_cost *i = info(c, n);
    const struct bound *b = local(c, n);
    if (i->entries) {
        *key = i->key;
        *val = i->val;
        return true;
    }
    if (!b || !b->entries) return false;
    *key = b->key;
    *val = b->val;
    return true;
}

static void set_entries(struct coster *c, struct node *n, range key, range val) {
    struct node_cost *i = info(c, n);
    i->entries = true;
    i->key = key;
    i->val = val;
}

static void join_entries(struct coster *c, struct node *n, struct node *x, struct node *y) {
    range kx, vx, ky, vy;
    if (entries_of(c, x, &kx, &vx) && entries_of(c, y, &ky, &vy)) set_entries(c, n, join(kx, ky), join(vx, vy));
}

static void push(struct coster *c, struct bound b) {
    ARENA_GROW(c->a, c->locals, c->n_locals, c->cap_locals);
    c->locals[c->n_locals++] = b;
}

/* ---- calls ---- */

struct call {
    struct coster *c;
    struct node *n, *target, **args;
    uint32_t argc;
    range *arg_costs;
};

static range arg_sum(const struct call *k) {
    range sum = {0, 0};
    for (uint32_t i = 0; i < k->argc; i++) sum = add(sum, k->arg_costs[i]);
    return sum;
}

static range target_size(const struct call *k) { return k->target ? size_or_unknown(k->c, k->target) : unknown; }
static range arg_size(const struct call *k, uint32_t i) { return i < k->argc ? size_or_unknown(k->c, k->args[i]) : unknown; }

static range elem_size(const struct call *k, struct node *list) {
    const struct cel_type *path = path_of(k->c, list);
    range r;
    if (path && path_size(step(k->c, path, STEP_ITEMS, NULL), &r)) return r;
    return unknown;
}

static struct estimate cost_only(range cost) { return (struct estimate){.cost = cost}; }
static struct estimate with_size(range cost, range size) { return (struct estimate){cost, size, true}; }

static struct estimate est_traverse(const struct call *k) {
    range el = fixed(1);
    const struct cel_type *t = k->target->type;
    if (t->kind != CEL_LIST) return cost_only(by(target_size(k), 0.1));
    if (t->p[0]->kind == CEL_STRING || t->p[0]->kind == CEL_BYTES) el = add(el, by(elem_size(k, k->target), 0.1));
    return cost_only(mul(target_size(k), el));
}

static struct estimate est_replace(const struct call *k) {
    range sz = target_size(k), from = arg_size(k, 0), to = arg_size(k, 1), count = {0, 0}, kept = {0, 0};
    if (from.min == 0) {
        count.max = add64(sz.max, 1);
        kept.max = sz.max;
    } else if (to.max <= from.min) {
        kept.max = sz.max;
    } else {
        count.max = factor64(sz.max, 1.0 / (double)from.min);
    }
    if (from.max == 0) {
        count.min = add64(sz.min, 1);
        kept.min = sz.min;
    } else if (from.max <= to.min) {
        kept.min = sz.min;
    } else {
        count.min = factor64(sz.min, 1.0 / (double)from.max);
    }
    return with_size(by(sz, 0.2), add(mul(count, to), kept));
}

static struct estimate est_split(const struct call *k) {
    range sz = target_size(k);
    uint64_t max = sz.max;
    if (k->argc > 1 && k->args[1]->kind == N_LIT && k->args[1]->lit.kind == CEL_INT) max = (uint64_t)k->args[1]->lit.i;
    return with_size(by(sz, 0.2), (range){0, max});
}

static struct estimate est_join(const struct call *k) {
    range list = target_size(k), sz = mul(list, elem_size(k, k->target));
    if (k->argc > 0) sz = add(sz, mul(arg_size(k, 0), (range){list.min ? list.min - 1 : 0, list.max ? list.max - 1 : 0}));
    return with_size(by(sz, 0.1), sz);
}

static range regex_cost(range text, range pattern) { return mul(by(add(text, fixed(1)), 0.1), by(pattern, 0.25)); }

static struct estimate est_find(const struct call *k) {
    range sz = target_size(k);
    return with_size(regex_cost(sz, arg_size(k, 0)), (range){0, sz.max});
}

static struct estimate est_selector(const struct call *k) {
    range sz = arg_size(k, 0);
    return cost_only(add(fixed(10), add(by(sz, 0.1), by(by(sz, 0.5), 50))));
}

static struct estimate est_contains_ip(const struct call *k, bool text) {
    range cost = by((range){8, 32}, 0.1);
    if (text) cost = add(cost, by(arg_size(k, 0), 0.1));
    return cost_only(cost);
}
static struct estimate est_contains_cidr(const struct call *k, bool text) {
    range cost = add(add(by((range){8, 32}, 0.1), by((range){4, 16}, 0.1)), fixed(1));
    if (text) cost = add(cost, by(arg_size(k, 0), 0.1));
    return cost_only(cost);
}

/* A list of this size is made; `factor` for each element. */
static struct estimate est_list(double factor, range size) { return with_size(add(by(size, factor), fixed(11)), size); }

static uint64_t int_arg(const struct call *k, uint32_t i, uint64_t otherwise) {
    if (i >= k->argc || k->args[i]->kind != N_LIT || k->args[i]->lit.kind != CEL_INT || k->args[i]->lit.i < 0) return otherwise;
    return (uint64_t)k->args[i]->lit.i;
}

static struct estimate est_square(const struct call *k, struct node *keys) {
    range sz = size_or_unknown(k->c, keys);
    const struct cel_type *t = keys->type->kind == CEL_LIST ? keys->type->p[0] : &cel_t_dyn;
    bool text = strcmp(k->n->name, "distinct") != 0 && (t->kind == CEL_STRING || t->kind == CEL_BYTES);
    return est_list(text ? 2.1 : 2.0, mul(sz, sz));
}

enum rule { E_CHECK, E_ONE, E_SELECTOR, E_TRAVERSE, E_ARG_TEXT, E_TARGET_TEXT, E_REPLACE, E_SPLIT, E_JOIN, E_FIND, E_ARG, E_ARG_TWICE,
            E_CONTAINS_IP, E_CONTAINS_CIDR, E_VALIDATE, E_SLICE, E_RANGE, E_REVERSE, E_FLATTEN, E_SQUARE, E_SORT_BY, E_SETS, E_SETS_TWICE };

static const struct {
    const char *name;
    enum rule rule;
} rules[] = {
    {"check", E_CHECK}, {"serviceAccount", E_ONE}, {"path", E_ONE}, {"group", E_ONE}, {"resource", E_ONE}, {"subresource", E_ONE},
    {"namespace", E_ONE}, {"name", E_ONE}, {"allowed", E_ONE}, {"reason", E_ONE}, {"error", E_ONE}, {"errored", E_ONE},
    {"fieldSelector", E_SELECTOR}, {"labelSelector", E_SELECTOR}, {"isSorted", E_TRAVERSE}, {"sum", E_TRAVERSE},
    {"max", E_TRAVERSE}, {"min", E_TRAVERSE}, {"indexOf", E_TRAVERSE}, {"lastIndexOf", E_TRAVERSE}, {"url", E_ARG_TEXT},
    {"jsonpatch.escapeKey", E_ARG_TEXT}, {"lowerAscii", E_TARGET_TEXT}, {"upperAscii", E_TARGET_TEXT}, {"substring", E_TARGET_TEXT},
    {"trim", E_TARGET_TEXT}, {"replace", E_REPLACE}, {"split", E_SPLIT}, {"join", E_JOIN}, {"find", E_FIND}, {"findAll", E_FIND},
    {"cidr", E_ARG}, {"isIP", E_ARG}, {"isCIDR", E_ARG}, {"quantity", E_ARG}, {"isQuantity", E_ARG}, {"semver", E_ARG},
    {"isSemver", E_ARG}, {"ip.isCanonical", E_ARG_TWICE}, {"masked", E_ONE}, {"prefixLength", E_ONE}, {"family", E_ONE},
    {"isUnspecified", E_ONE}, {"isLoopback", E_ONE}, {"isLinkLocalMulticast", E_ONE}, {"isLinkLocalUnicast", E_ONE},
    {"isGlobalUnicast", E_ONE}, {"containsIP", E_CONTAINS_IP}, {"containsCIDR", E_CONTAINS_CIDR}, {"validate", E_VALIDATE},
    {"format.named", E_ONE}, {"slice", E_SLICE}, {"lists.range", E_RANGE}, {"reverse", E_REVERSE}, {"flatten", E_FLATTEN},
    {"distinct", E_SQUARE}, {"sort", E_SQUARE}, {"@sortByAssociatedKeys", E_SORT_BY}, {"sets.contains", E_SETS},
    {"sets.intersects", E_SETS}, {"sets.equivalent", E_SETS_TWICE},
};

static struct estimate apply_rule(const struct call *k, enum rule rule, const struct cel_fn *f) {
    bool text = str_has_suffix(f->id, "_string");
    range sz;
    switch (rule) {
    case E_CHECK: return cost_only(fixed(350000));
    case E_SELECTOR: return est_selector(k);
    case E_TRAVERSE: return est_traverse(k);
    case E_ARG_TEXT: return sz = arg_size(k, 0), with_size(by(sz, 0.1), sz);
    case E_TARGET_TEXT: return sz = target_size(k), with_size(by(sz, 0.1), sz);
    case E_REPLACE: return est_replace(k);
    case E_SPLIT: return est_split(k);
    case E_JOIN: return est_join(k);
    case E_FIND: return est_find(k);
    case E_ARG: return cost_only(by(arg_size(k, 0), 0.1));
    case E_ARG_TWICE: return cost_only(by(arg_size(k, 0), 0.2));
    case E_CONTAINS_IP: return est_contains_ip(k, text);
    case E_CONTAINS_CIDR: return est_contains_cidr(k, text);
    case E_VALIDATE: return cost_only(by(by(arg_size(k, 0), 0.1), 32));
    case E_SLICE: return est_list(1, fixed(int_arg(k, 1, target_size(k).max) - int_arg(k, 0, 0)));
    case E_RANGE: return est_list(1, fixed(int_arg(k, 0, UINT64_MAX)));
    case E_REVERSE: return est_list(1, k->target ? target_size(k) : unknown);
    case E_FLATTEN: return est_list(k->argc ? (double)int_arg(k, 0, UINT64_MAX) : 1, target_size(k));
    case E_SQUARE: return est_square(k, k->target);
    case E_SORT_BY: return est_square(k, k->args[0]);
    case E_SETS:
    case E_SETS_TWICE: return cost_only(add(by(mul(arg_size(k, 0), arg_size(k, 1)), rule == E_SETS ? 1 : 2), fixed(1)));
    default: return cost_only(fixed(1));
    }
}

/* Equality of Kubernetes' own values has a price of its own. */
static bool est_opaque_equal(const struct call *k, struct estimate *out) {
    if (strcmp(k->n->name, FN_EQ) != 0) return false;
    const struct cel_type *t = k->args[0]->type;
    if (t->kind != CEL_OPAQUE || !cel_type_eq(t, k->args[1]->type)) return false;
    *out = cost_only(fixed(1));
    if (t == &type_format) out->cost = by((range){1, 64}, 0.1);
    if (t == &type_url) out->cost = by((range){1, arg_size(k, 1).max}, 0.1);
    return true;
}

static bool is_order(const char *name) {
    return strcmp(name, FN_LT) == 0 || strcmp(name, FN_LE) == 0 || strcmp(name, FN_GT) == 0 || strcmp(name, FN_GE) == 0;
}

static struct estimate est_compare(const struct call *k) {
    range l = arg_size(k, 0), r = arg_size(k, 1);
    uint64_t smallest = MIN_OF(l.max, r.max);
    return cost_only(add(by((range){smallest > 0, smallest}, 0.1), arg_sum(k)));
}

static struct estimate est_add(const struct call *k, const struct cel_fn *f) {
    range size = add(arg_size(k, 0), arg_size(k, 1));
    join_entries(k->c, k->n, k->args[0], k->args[1]);
    bool list = strcmp(f->id, "add_list") == 0;
    return with_size(add(list ? fixed(1) : by(size, 0.1), arg_sum(k)), size);
}

static struct estimate est_cond(const struct call *k) {
    join_entries(k->c, k->n, k->args[1], k->args[2]);
    return with_size(add(k->arg_costs[0], join(k->arg_costs[1], k->arg_costs[2])), join(arg_size(k, 1), arg_size(k, 2)));
}

static struct estimate est_standard(const struct call *k, const struct cel_fn *f) {
    range sum = arg_sum(k), sz;
    if (f->op == OP_AND || f->op == OP_OR)
        return cost_only((range){k->arg_costs[0].min, add64(k->arg_costs[0].max, k->arg_costs[1].max)});
    if (f->op == OP_COND) return est_cond(k);
    if (f->op == OP_EQ || f->op == OP_NE) return est_compare(k);
    if (is_order(f->name) && (str_has_suffix(f->id, "_string") || str_has_suffix(f->id, "_bytes"))) return est_compare(k);
    if (strcmp(f->id, "add_string") == 0 || strcmp(f->id, "add_bytes") == 0 || strcmp(f->id, "add_list") == 0) return est_add(k, f);
    if (strcmp(f->id, "string_format") == 0) return cost_only(add(by(target_size(k), 0.1), sum));
    if (strcmp(f->id, "string_to_bytes") == 0)
        return sz = arg_size(k, 0), with_size(add(by(sz, 0.1), sum), (range){sz.min, mul64(sz.max, 4)});
    if (strcmp(f->id, "bytes_to_string") == 0) return sz = arg_size(k, 0), with_size(add(by(sz, 0.1), sum), (range){sz.min / 4, sz.max});
    if (strcmp(f->id, "strings_quote") == 0)
        return sz = arg_size(k, 0), with_size(add(by(sz, 0.1), sum), (range){add64(sz.min, 2), add64(mul64(sz.max, 2), 2)});
    if (strcmp(f->name, "startsWith") == 0 || strcmp(f->name, "endsWith") == 0) return cost_only(add(by(arg_size(k, 0), 0.1), sum));
    if (strcmp(f->id, "in_list") == 0) return cost_only(add(by(arg_size(k, 1), 1), sum));
    if (strcmp(f->id, "matches_string") == 0) return cost_only(add(regex_cost(target_size(k), arg_size(k, 0)), sum));
    if (strcmp(f->id, "contains_string") == 0) return cost_only(add(mul(by(target_size(k), 0.1), by(arg_size(k, 0), 0.1)), sum));
    return cost_only(add(fixed(1), sum));
}

static struct estimate est_function(const struct call *k, const struct cel_fn *f) {
    struct estimate e;
    if (est_opaque_equal(k, &e)) return e.cost = add(e.cost, arg_sum(k)), e;
    if (strcmp(f->id, "string_to_ip") == 0) return cost_only(add(by(arg_size(k, 0), 0.1), arg_sum(k)));
    for (size_t i = 0; i < ARRAY_LEN(rules); i++)
        if (strcmp(rules[i].name, f->name) == 0) {
            e = apply_rule(k, rules[i].rule, f);
            e.cost = add(e.cost, arg_sum(k));
            return e;
        }
    return est_standard(k, f);
}

/* An index leads to the element's declared type. */
static void index_path(struct coster *c, struct node *n, const struct cel_fn *f, struct estimate *e) {
    bool list = strcmp(f->id, "index_list") == 0;
    if (!list && strcmp(f->id, "index_map") != 0) return;
    range key, val;
    e->sized = entries_of(c, n->call.args[0], &key, &val);
    if (e->sized) e->size = val;
    info(c, n)->path = step(c, path_of(c, n->call.args[0]), list ? STEP_ITEMS : STEP_VALUES, NULL);
}

static range cost_call_node(struct coster *c, struct node *n) {
    range arg_costs[FN_MAX_ARGS + 1], sum = {0, 0}, cost = {UINT64_MAX, 0};
    struct call k = {c, n, n->call.target, n->call.args, n->n, arg_costs};
    if (strcmp(n->name, "dyn") == 0 && n->n == 1) {
        range arg = cost_of(c, n->call.args[0]), size;
        if (size_of(c, n->call.args[0], &size)) info(c, n)->size = size, info(c, n)->sized = true;
        return add(fixed(1), arg);
    }
    for (uint32_t i = 0; i < n->n; i++) arg_costs[i] = cost_of(c, n->call.args[i]);
    if (n->call.op == OP_OPT_SELECT) return add(fixed(1), arg_sum(&k));
    if (n->call.n_fns == 0) return (range){0, 0};
    if (n->call.target) sum = cost_of(c, n->call.target);
    struct estimate all = {0};
    for (uint32_t i = 0; i < n->call.n_fns; i++) {
        struct estimate e = est_function(&k, n->call.fns[i]);
        cost = join(cost, e.cost);
        if (e.sized) all.size = all.sized ? join(all.size, e.size) : e.size;
        all.sized |= e.sized;
        index_path(c, n, n->call.fns[i], &all);
        if (!all.sized) all.sized = size_of(c, n, &all.size);
    }
    if (all.sized) info(c, n)->size = all.size, info(c, n)->sized = true;
    return add(sum, cost);
}

/* ---- the other nodes ---- */

static range cost_list(struct coster *c, struct node *n) {
    range sum = fixed(10), item = {n->n ? UINT64_MAX : 0, 0};
    for (uint32_t i = 0; i < n->n; i++) {
        sum = add(sum, cost_of(c, n->list.args[i]));
        item = join(item, size_or_unknown(c, n->list.args[i]));
    }
    set_entries(c, n, fixed(1), item);
    return sum;
}

static range cost_map(struct coster *c, struct node *n) {
    bool object = n->kind == N_STRUCT;
    range sum = fixed(object ? 40 : 30), key = {n->n ? UINT64_MAX : 0, 0}, val = key;
    for (uint32_t i = 0; i < n->n; i++) {
        const struct entry *e = &n->map.entries[i];
        if (e->key) {
            sum = add(sum, cost_of(c, e->key));
            key = join(key, size_or_unknown(c, e->key));
        }
        sum = add(sum, cost_of(c, e->value));
        val = join(val, size_or_unknown(c, e->value));
    }
    if (!object) set_entries(c, n, key, val);
    return sum;
}

static range cost_select(struct coster *c, struct node *n) {
    range sum = cost_of(c, n->of);
    if (n->test) return sum;
    const struct cel_type *t = n->of->type;
    if (t->kind == CEL_MAP || t->kind == CEL_OBJECT) sum = add(sum, fixed(1));
    info(c, n)->path = step(c, path_of(c, n->of), path_of(c, n->of) && path_of(c, n->of)->kind == CEL_MAP ? STEP_INDICES : STEP_FIELD, n->name);
    return sum;
}

static void push_loop(struct coster *c, struct node *n, const char *name, enum step s, bool key_sized) {
    range key, val;
    struct bound b = {.name = name};
    if (entries_of(c, n->fold.range, &key, &val)) {
        b.sized = true;
        b.size = key_sized ? key : val;
    }
    b.path = step(c, path_of(c, n->fold.range), s, NULL);
    push(c, b);
}

static range cost_fold(struct coster *c, struct node *n) {
    range sum = add(cost_of(c, n->fold.range), cost_of(c, n->fold.init)), key, val;
    size_t outer = c->n_locals;
    struct bound accu = {.name = n->fold.accu, .path = path_of(c, n->fold.init)};
    accu.sized = size_of(c, n->fold.init, &accu.size);
    accu.entries = entries_of(c, n->fold.init, &accu.key, &accu.val);
    push(c, accu);
    if (n->fold_kind == FOLD_BIND) {
        sum = add(sum, cost_of(c, n->fold.result));
        if (size_of(c, n->fold.result, &key)) info(c, n)->size = key, info(c, n)->sized = true;
        if (entries_of(c, n->fold.result, &key, &val)) set_entries(c, n, key, val);
        c->n_locals = outer;
        return sum;
    }
    bool list = n->fold.range->type->kind == CEL_LIST, two = n->fold.var2 != NULL;
    push_loop(c, n, n->fold.var, list ? (two ? STEP_INDICES : STEP_ITEMS) : STEP_KEYS, !list || two);
    if (two) push_loop(c, n, n->fold.var2, list ? STEP_ITEMS : STEP_VALUES, false);
    range loop = cost_of(c, n->fold.cond), each = cost_of(c, n->fold.step);
    c->n_locals = outer + 1;
    sum = add(sum, cost_of(c, n->fold.result));
    c->n_locals = outer;
    range count = size_or_unknown(c, n->fold.range), size = count;
    sum = add(sum, mul(count, add(each, loop)));
    if (n->fold.init->kind == N_LIT) size_of(c, n->fold.init, &size);
    info(c, n)->size = size;
    info(c, n)->sized = true;
    if (n->fold.init->kind != N_LIT && entries_of(c, n->fold.step, &key, &val)) set_entries(c, n, key, val);
    return sum;
}

static range cost_of(struct coster *c, struct node *n) {
    struct node_cost *i = info(c, n);
    if (i->done) return i->cost;
    range r = {0, 0};
    switch (n->kind) {
    case N_LIT: r = fixed(n->lit.kind == CEL_TYPE ? 1 : 0); break;
    case N_IDENT:
        if (!local(c, n)) i->path = c->root;
        else i->path = local(c, n)->path;
        r = fixed(1);
        break;
    case N_SELECT: r = cost_select(c, n); break;
    case N_CALL: r = cost_call_node(c, n); break;
    case N_LIST: r = cost_list(c, n); break;
    case N_MAP:
    case N_STRUCT: r = cost_map(c, n); break;
    case N_FOLD: r = cost_fold(c, n); break;
    }
    i->cost = r;
    i->done = true;
    return r;
}

struct cel_range cost_estimate(const struct cel_env *env, struct node *root) {
    _cleanup_arena_ struct arena *a = arena_new();
    int self = cel_env_slot(env, "self");
    struct coster c = {.a = a, .root = self < 0 ? &type_error : env->vars[self].type};
    return cost_of(&c, root);
}
