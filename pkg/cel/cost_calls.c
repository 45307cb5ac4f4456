/* What calls are estimated to cost: a row for each function of Kubernetes' and cel-go's libraries, and the standard
 * functions whose cost grows with their arguments.
 * Upstream: k8s.io/apiserver/pkg/cel/library/cost.go (EstimateCallCost), checker/cost.go (functionCost),
 * ext/lists.go, ext/sets.go. */
#include "pkg/cel/cost.h"

range cost_arg_sum(const struct cost_call *k) {
    range sum = {0, 0};
    for (uint32_t i = 0; i < k->argc; i++) sum = add(sum, k->arg_costs[i]);
    return sum;
}

static range target_size(const struct cost_call *k) { return k->target ? cost_size(k->c, k->target) : unknown; }
static range arg_size(const struct cost_call *k, uint32_t i) {
    return i < k->argc ? cost_size(k->c, k->args[i]) : unknown;
}

static range elem_size(const struct cost_call *k, struct node *list) {
    const struct cel_type *path = cost_path(k->c, list);
    range r;
    if (path && cost_path_size(cost_step(k->c, path, STEP_ITEMS, NULL), &r)) return r;
    return unknown;
}

static struct cost_estimate cost_only(range cost) { return (struct cost_estimate){.cost = cost}; }
static struct cost_estimate with_size(range cost, range size) { return (struct cost_estimate){cost, size, true}; }

static struct cost_estimate est_traverse(const struct cost_call *k) {
    range el = fixed(1);
    const struct cel_type *t = k->target->type;
    if (t->kind != CEL_LIST) return cost_only(by(target_size(k), 0.1));
    if (t->p[0]->kind == CEL_STRING || t->p[0]->kind == CEL_BYTES) el = add(el, by(elem_size(k, k->target), 0.1));
    return cost_only(mul(target_size(k), el));
}

static struct cost_estimate est_replace(const struct cost_call *k) {
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

static struct cost_estimate est_split(const struct cost_call *k) {
    range sz = target_size(k);
    uint64_t max = sz.max;
    if (k->argc > 1 && k->args[1]->kind == N_LIT && k->args[1]->lit.kind == CEL_INT) max = (uint64_t)k->args[1]->lit.i;
    return with_size(by(sz, 0.2), (range){0, max});
}

static struct cost_estimate est_join(const struct cost_call *k) {
    range list = target_size(k), sz = mul(list, elem_size(k, k->target));
    if (k->argc > 0)
        sz = add(sz, mul(arg_size(k, 0), (range){list.min ? list.min - 1 : 0, list.max ? list.max - 1 : 0}));
    return with_size(by(sz, 0.1), sz);
}

static range regex_cost(range text, range pattern) { return mul(by(add(text, fixed(1)), 0.1), by(pattern, 0.25)); }

static struct cost_estimate est_find(const struct cost_call *k) {
    range sz = target_size(k);
    return with_size(regex_cost(sz, arg_size(k, 0)), (range){0, sz.max});
}

static struct cost_estimate est_selector(const struct cost_call *k) {
    range sz = arg_size(k, 0);
    return cost_only(add(fixed(10), add(by(sz, 0.1), by(by(sz, 0.5), 50))));
}

static struct cost_estimate est_contains_ip(const struct cost_call *k, bool text) {
    range cost = by((range){8, 32}, 0.1);
    if (text) cost = add(cost, by(arg_size(k, 0), 0.1));
    return cost_only(cost);
}
static struct cost_estimate est_contains_cidr(const struct cost_call *k, bool text) {
    range cost = add(add(by((range){8, 32}, 0.1), by((range){4, 16}, 0.1)), fixed(1));
    if (text) cost = add(cost, by(arg_size(k, 0), 0.1));
    return cost_only(cost);
}

/* A list of this size is made; `factor` for each element. */
static struct cost_estimate est_list(double factor, range size) {
    return with_size(add(by(size, factor), fixed(11)), size);
}

static uint64_t int_arg(const struct cost_call *k, uint32_t i, uint64_t otherwise) {
    if (i >= k->argc || k->args[i]->kind != N_LIT || k->args[i]->lit.kind != CEL_INT || k->args[i]->lit.i < 0)
        return otherwise;
    return (uint64_t)k->args[i]->lit.i;
}

static struct cost_estimate est_square(const struct cost_call *k, struct node *keys) {
    range sz = cost_size(k->c, keys);
    const struct cel_type *t = keys->type->kind == CEL_LIST ? keys->type->p[0] : &cel_t_dyn;
    bool text = strcmp(k->n->name, "distinct") != 0 && (t->kind == CEL_STRING || t->kind == CEL_BYTES);
    return est_list(text ? 2.1 : 2.0, mul(sz, sz));
}

enum rule {
    E_CHECK,
    E_ONE,
    E_SELECTOR,
    E_TRAVERSE,
    E_ARG_TEXT,
    E_TARGET_TEXT,
    E_REPLACE,
    E_SPLIT,
    E_JOIN,
    E_FIND,
    E_ARG,
    E_ARG_TWICE,
    E_CONTAINS_IP,
    E_CONTAINS_CIDR,
    E_VALIDATE,
    E_SLICE,
    E_RANGE,
    E_REVERSE,
    E_FLATTEN,
    E_SQUARE,
    E_SORT_BY,
    E_SETS,
    E_SETS_TWICE
};

static const struct {
    const char *name;
    enum rule rule;
} rules[] = {
    {"check", E_CHECK},
    {"serviceAccount", E_ONE},
    {"path", E_ONE},
    {"group", E_ONE},
    {"resource", E_ONE},
    {"subresource", E_ONE},
    {"namespace", E_ONE},
    {"name", E_ONE},
    {"allowed", E_ONE},
    {"reason", E_ONE},
    {"error", E_ONE},
    {"errored", E_ONE},
    {"fieldSelector", E_SELECTOR},
    {"labelSelector", E_SELECTOR},
    {"isSorted", E_TRAVERSE},
    {"sum", E_TRAVERSE},
    {"max", E_TRAVERSE},
    {"min", E_TRAVERSE},
    {"indexOf", E_TRAVERSE},
    {"lastIndexOf", E_TRAVERSE},
    {"url", E_ARG_TEXT},
    {"jsonpatch.escapeKey", E_ARG_TEXT},
    {"lowerAscii", E_TARGET_TEXT},
    {"upperAscii", E_TARGET_TEXT},
    {"substring", E_TARGET_TEXT},
    {"trim", E_TARGET_TEXT},
    {"replace", E_REPLACE},
    {"split", E_SPLIT},
    {"join", E_JOIN},
    {"find", E_FIND},
    {"findAll", E_FIND},
    {"cidr", E_ARG},
    {"isIP", E_ARG},
    {"isCIDR", E_ARG},
    {"quantity", E_ARG},
    {"isQuantity", E_ARG},
    {"semver", E_ARG},
    {"isSemver", E_ARG},
    {"ip.isCanonical", E_ARG_TWICE},
    {"masked", E_ONE},
    {"prefixLength", E_ONE},
    {"family", E_ONE},
    {"isUnspecified", E_ONE},
    {"isLoopback", E_ONE},
    {"isLinkLocalMulticast", E_ONE},
    {"isLinkLocalUnicast", E_ONE},
    {"isGlobalUnicast", E_ONE},
    {"containsIP", E_CONTAINS_IP},
    {"containsCIDR", E_CONTAINS_CIDR},
    {"validate", E_VALIDATE},
    {"format.named", E_ONE},
    {"slice", E_SLICE},
    {"lists.range", E_RANGE},
    {"reverse", E_REVERSE},
    {"flatten", E_FLATTEN},
    {"distinct", E_SQUARE},
    {"sort", E_SQUARE},
    {"@sortByAssociatedKeys", E_SORT_BY},
    {"sets.contains", E_SETS},
    {"sets.intersects", E_SETS},
    {"sets.equivalent", E_SETS_TWICE},
};

static struct cost_estimate apply_rule(const struct cost_call *k, enum rule rule, const struct cel_fn *f) {
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
        case E_SETS_TWICE:
            return cost_only(add(by(mul(arg_size(k, 0), arg_size(k, 1)), rule == E_SETS ? 1 : 2), fixed(1)));
        default: return cost_only(fixed(1));
    }
}

/* Equality of Kubernetes' own values has a price of its own. */
static bool est_opaque_equal(const struct cost_call *k, struct cost_estimate *out) {
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

static struct cost_estimate est_compare(const struct cost_call *k) {
    range l = arg_size(k, 0), r = arg_size(k, 1);
    uint64_t smallest = MIN_OF(l.max, r.max);
    return cost_only(add(by((range){smallest > 0, smallest}, 0.1), cost_arg_sum(k)));
}

static struct cost_estimate est_add(const struct cost_call *k, const struct cel_fn *f) {
    range size = add(arg_size(k, 0), arg_size(k, 1));
    cost_join_entries(k->c, k->n, k->args[0], k->args[1]);
    bool list = strcmp(f->id, "add_list") == 0;
    return with_size(add(list ? fixed(1) : by(size, 0.1), cost_arg_sum(k)), size);
}

static struct cost_estimate est_cond(const struct cost_call *k) {
    cost_join_entries(k->c, k->n, k->args[1], k->args[2]);
    return with_size(add(k->arg_costs[0], join(k->arg_costs[1], k->arg_costs[2])),
                     join(arg_size(k, 1), arg_size(k, 2)));
}

static struct cost_estimate est_standard(const struct cost_call *k, const struct cel_fn *f) {
    range sum = cost_arg_sum(k), sz;
    if (f->op == OP_AND || f->op == OP_OR)
        return cost_only((range){k->arg_costs[0].min, add64(k->arg_costs[0].max, k->arg_costs[1].max)});
    if (f->op == OP_COND) return est_cond(k);
    if (f->op == OP_EQ || f->op == OP_NE) return est_compare(k);
    if (is_order(f->name) && (str_has_suffix(f->id, "_string") || str_has_suffix(f->id, "_bytes")))
        return est_compare(k);
    if (strcmp(f->id, "add_string") == 0 || strcmp(f->id, "add_bytes") == 0 || strcmp(f->id, "add_list") == 0)
        return est_add(k, f);
    if (strcmp(f->id, "string_format") == 0) return cost_only(add(by(target_size(k), 0.1), sum));
    if (strcmp(f->id, "string_to_bytes") == 0)
        return sz = arg_size(k, 0), with_size(add(by(sz, 0.1), sum), (range){sz.min, mul64(sz.max, 4)});
    if (strcmp(f->id, "bytes_to_string") == 0)
        return sz = arg_size(k, 0), with_size(add(by(sz, 0.1), sum), (range){sz.min / 4, sz.max});
    if (strcmp(f->id, "strings_quote") == 0)
        return sz = arg_size(k, 0),
               with_size(add(by(sz, 0.1), sum), (range){add64(sz.min, 2), add64(mul64(sz.max, 2), 2)});
    if (strcmp(f->name, "startsWith") == 0 || strcmp(f->name, "endsWith") == 0)
        return cost_only(add(by(arg_size(k, 0), 0.1), sum));
    if (strcmp(f->id, "in_list") == 0) return cost_only(add(by(arg_size(k, 1), 1), sum));
    if (strcmp(f->id, "matches_string") == 0) return cost_only(add(regex_cost(target_size(k), arg_size(k, 0)), sum));
    if (strcmp(f->id, "contains_string") == 0)
        return cost_only(add(mul(by(target_size(k), 0.1), by(arg_size(k, 0), 0.1)), sum));
    return cost_only(add(fixed(1), sum));
}

struct cost_estimate cost_function(const struct cost_call *k, const struct cel_fn *f) {
    struct cost_estimate e;
    if (est_opaque_equal(k, &e)) return e.cost = add(e.cost, cost_arg_sum(k)), e;
    if (strcmp(f->id, "string_to_ip") == 0) return cost_only(add(by(arg_size(k, 0), 0.1), cost_arg_sum(k)));
    for (size_t i = 0; i < ARRAY_LEN(rules); i++)
        if (strcmp(rules[i].name, f->name) == 0) {
            e = apply_rule(k, rules[i].rule, f);
            e.cost = add(e.cost, cost_arg_sum(k));
            return e;
        }
    return est_standard(k, f);
}
