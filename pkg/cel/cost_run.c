/* What calls cost while an expression runs: by the sizes of what they touch. A tenth for a character, a quarter for a
 * character of a pattern, one for anything of fixed size.
 * Upstream: interpreter/runtimecost.go, k8s.io/apiserver/pkg/cel/library/cost.go (CallCost), ext/lists.go. */
#include <math.h>

#include "pkg/cel/opaque.h"

enum cost_rule {
    C_ONE,
    C_CHECK,
    C_SELECTOR,
    C_TRAVERSE,
    C_TEXT,
    C_TEXT_TWICE,
    C_JOIN,
    C_REGEX,
    C_CIDR_IP,
    C_CIDR_CIDR,
    C_FORMAT,
    C_ARG0,
    C_LIST,
    C_BOTH,
    C_CONTAINS,
    C_ORDER,
    C_SIZE,
    C_SQUARE,
    C_FLATTEN,
    C_SORT,
    C_PRODUCT,
};

static const struct {
    const char *name;
    enum cost_rule rule;
} by_name[] = {
    {"check", C_CHECK},
    {"fieldSelector", C_SELECTOR},
    {"labelSelector", C_SELECTOR},
    {"isSorted", C_TRAVERSE},
    {"sum", C_TRAVERSE},
    {"max", C_TRAVERSE},
    {"min", C_TRAVERSE},
    {"indexOf", C_TRAVERSE},
    {"lastIndexOf", C_TRAVERSE},
    {"url", C_TEXT},
    {"lowerAscii", C_TEXT},
    {"upperAscii", C_TEXT},
    {"substring", C_TEXT},
    {"trim", C_TEXT},
    {"jsonpatch.escapeKey", C_TEXT},
    {"replace", C_TEXT_TWICE},
    {"split", C_TEXT_TWICE},
    {"join", C_JOIN},
    {"find", C_REGEX},
    {"findAll", C_REGEX},
    {"matches", C_REGEX},
    {"cidr", C_TEXT},
    {"isIP", C_TEXT},
    {"isCIDR", C_TEXT},
    {"ip.isCanonical", C_TEXT_TWICE},
    {"containsIP", C_CIDR_IP},
    {"containsCIDR", C_CIDR_CIDR},
    {"quantity", C_TEXT},
    {"isQuantity", C_TEXT},
    {"semver", C_TEXT},
    {"isSemver", C_TEXT},
    {"validate", C_FORMAT},
    {"startsWith", C_ARG0},
    {"endsWith", C_ARG0},
    {"strings.quote", C_ARG0},
    {"format", C_ARG0},
    {"contains", C_CONTAINS},
    {"lists.range", C_SIZE},
    {"slice", C_SIZE},
    {"reverse", C_SIZE},
    {"flatten", C_FLATTEN},
    {"distinct", C_SQUARE},
    {"sort", C_SORT},
    {"@sortByAssociatedKeys", C_SORT},
    {"sets.contains", C_PRODUCT},
    {"sets.intersects", C_PRODUCT},
    {"sets.equivalent", C_PRODUCT},
};

static uint64_t times(uint64_t size, double factor) {
    double d = ceil((double)size * factor);
    return d >= 18446744073709551615.0 ? UINT64_MAX : (uint64_t)d;
}

static uint64_t sat_mul(uint64_t x, uint64_t y) {
    uint64_t r;
    return __builtin_mul_overflow(x, y, &r) ? UINT64_MAX : r;
}

static uint64_t traversal(const struct cel_val *v) {
    uint64_t cost = 0;
    if (v->kind == CEL_STRING || v->kind == CEL_BYTES) return v->n / 10;
    if (v->kind == CEL_LIST && v->form == FORM_BUILT) {
        for (uint32_t i = 0; i < v->list->n; i++) cost += traversal(&v->list->v[i]);
        return cost;
    }
    if (v->kind != CEL_LIST) return 1;
    struct json *it;
    JSON_FOREACH(it, v->json) cost += it->type == JSON_STRING ? it->n / 10 : 1;
    return cost;
}

static uint64_t cidr_cost(const struct cel_val *args, bool network) {
    uint64_t size = val_size(&args[0]), cost = times(2 * size, 0.1);
    if (network) cost += times(size, 0.1) + 1;
    if (args[1].kind == CEL_STRING) cost += times(val_size(&args[1]), 0.1);
    return cost;
}

/* Everything in the list against everything. */
static uint64_t square_cost(const struct cel_val *l) {
    uint64_t n = val_size(l);
    double factor = 2;
    if (n) {
        struct cel_val first = l->form == FORM_BUILT ? l->list->v[0] : cel_null();
        bool json_text_item = l->form == FORM_JSON && l->json->items[0]->type == JSON_STRING;
        if (first.kind == CEL_STRING || first.kind == CEL_BYTES || json_text_item) factor += 0.1;
    }
    return 11 + times(sat_mul(n, n), factor);
}

static uint64_t rule_cost(enum cost_rule rule, const struct cel_val *args, int n, const struct cel_val *result) {
    switch (rule) {
        case C_CHECK: return 350000;
        case C_SELECTOR: return 10 + times(val_size(&args[1]), 0.1) + times(times(val_size(&args[1]), 0.5), 50);
        case C_TRAVERSE: return traversal(&args[0]);
        case C_TEXT: return times(val_size(&args[0]), 0.1);
        case C_ARG0: return times(val_size(&args[0]), 0.1);
        case C_TEXT_TWICE: return times(val_size(&args[0]), 0.2);
        case C_JOIN: return times(val_size(result), 0.2);
        case C_REGEX: return sat_mul(times(val_size(&args[0]) + 1, 0.1), times(val_size(&args[1]), 0.25));
        case C_CIDR_IP: return cidr_cost(args, false);
        case C_CIDR_CIDR: return cidr_cost(args, true);
        case C_FORMAT:
            return sat_mul(times(val_size(&args[1]) + 1, 0.1),
                           times(((const struct op_format *)args[0].opaque)->format->regex_size, 0.25));
        case C_CONTAINS: return sat_mul(times(val_size(&args[0]), 0.1), times(val_size(&args[1]), 0.1));
        case C_SIZE: return 11 + val_size(result);
        case C_FLATTEN: return 11 + sat_mul(val_size(&args[0]), n > 1 && args[1].i > 0 ? (uint64_t)args[1].i : 1);
        case C_SQUARE: return square_cost(&args[0]);
        case C_SORT: return square_cost(&args[n - 1]);
        case C_PRODUCT: return 1 + sat_mul(val_size(&args[0]), val_size(&args[1]));
        default: return 1;
    }
}

uint64_t cost_equal(const struct cel_val *x, const struct cel_val *y) {
    if (x->kind == CEL_OPAQUE) return 1;
    return times(MIN_OF(val_size(x), val_size(y)), 0.1);
}

uint64_t cost_call(const struct cel_fn *f, const struct cel_val *args, int n, const struct cel_val *result) {
    if (strcmp(f->id, "in_list") == 0) return val_size(&args[1]);
    if (strcmp(f->id, "add_string") == 0 || strcmp(f->id, "add_bytes") == 0)
        return times(val_size(&args[0]) + val_size(&args[1]), 0.1);
    if (strcmp(f->id, "string_to_bytes") == 0 || strcmp(f->id, "bytes_to_string") == 0 ||
        strcmp(f->id, "string_to_ip") == 0)
        return times(val_size(&args[0]), 0.1);
    bool text = n == 2 && (args[0].kind == CEL_STRING || args[0].kind == CEL_BYTES);
    if (text && (strcmp(f->name, FN_LT) == 0 || strcmp(f->name, FN_LE) == 0 || strcmp(f->name, FN_GT) == 0 ||
                 strcmp(f->name, FN_GE) == 0))
        return cost_equal(&args[0], &args[1]);
    for (size_t i = 0; i < ARRAY_LEN(by_name); i++)
        if (strcmp(by_name[i].name, f->name) == 0) return rule_cost(by_name[i].rule, args, n, result);
    return 1;
}
