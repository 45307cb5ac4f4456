/* Macros: has(), the loops over lists and maps, and the optionals' maps. A loop becomes a fold: the nodes cel-go
 * makes of it (start value, condition, step, result) are made for the checker and the estimate, which walk those;
 * evaluation uses the fold's kind, filter and body instead, so that collecting into a list is not quadratic.
 * Upstream: parser/macro.go, ext/comprehensions.go, cel/library.go. */
#include "pkg/cel/internal.h"

enum macro {
    M_HAS,
    M_ALL,
    M_EXISTS,
    M_EXISTS_ONE,
    M_MAP,
    M_FILTER,
    M_OPT_MAP,
    M_OPT_FLAT_MAP,
    M_LIST,
    M_MAP_VALUES,
    M_ENTRIES,
    M_BIND,
    M_SORT_BY,
    M_GREATEST,
    M_LEAST,
};

static const struct macro_row {
    const char *name;
    int8_t args; /* -1: one or more */
    bool member;
    enum macro what;
    uint8_t vars; /* loop variables */
    uint32_t libs;
} macros[] = {
    {"has", 1, false, M_HAS, 0, 0},
    {"all", 2, true, M_ALL, 1, 0},
    {"exists", 2, true, M_EXISTS, 1, 0},
    {"exists_one", 2, true, M_EXISTS_ONE, 1, 0},
    {"existsOne", 2, true, M_EXISTS_ONE, 1, 0},
    {"map", 2, true, M_MAP, 1, 0},
    {"map", 3, true, M_MAP, 1, 0},
    {"filter", 2, true, M_FILTER, 1, 0},
    {"all", 3, true, M_ALL, 2, CEL_LIB_K8S},
    {"exists", 3, true, M_EXISTS, 2, CEL_LIB_K8S},
    {"exists_one", 3, true, M_EXISTS_ONE, 2, CEL_LIB_K8S},
    {"existsOne", 3, true, M_EXISTS_ONE, 2, CEL_LIB_K8S},
    {"transformList", 3, true, M_LIST, 2, CEL_LIB_K8S},
    {"transformList", 4, true, M_LIST, 2, CEL_LIB_K8S},
    {"transformMap", 3, true, M_MAP_VALUES, 2, CEL_LIB_K8S},
    {"transformMap", 4, true, M_MAP_VALUES, 2, CEL_LIB_K8S},
    {"transformMapEntry", 3, true, M_ENTRIES, 2, CEL_LIB_K8S},
    {"transformMapEntry", 4, true, M_ENTRIES, 2, CEL_LIB_K8S},
    {"optMap", 2, true, M_OPT_MAP, 0, CEL_LIB_K8S},
    {"optFlatMap", 2, true, M_OPT_FLAT_MAP, 0, CEL_LIB_K8S},
    {"sortBy", 2, true, M_SORT_BY, 0, CEL_LIB_K8S},
    {"bind", 3, true, M_BIND, 0, CEL_LIB_EXTRA},
    {"greatest", -1, true, M_GREATEST, 0, CEL_LIB_EXTRA},
    {"least", -1, true, M_LEAST, 0, CEL_LIB_EXTRA},
};

static struct node *fail(struct parser_call *c, const struct node *at, const char *msg) {
    issue_add(c->is, at->pos, "%s", msg);
    struct node *n = node_lit(c->a, at->pos, cel_null());
    n->failed = true;
    return n;
}

static struct node **args_of(struct arena *a, struct node *x, struct node *y, struct node *z) {
    struct node **args = arena_alloc(a, 3 * sizeof(*args));
    args[0] = x;
    args[1] = y;
    args[2] = z;
    return args;
}

static struct node *call(struct parser_call *c, const char *fn, struct node *x, struct node *y, struct node *z) {
    return node_call(c->a, c->pos, fn, NULL, args_of(c->a, x, y, z), z ? 3 : y ? 2 : x ? 1 : 0);
}

static struct node *accu(struct parser_call *c) { return node_ident(c->a, c->pos, ACCU); }
static struct node *literal(struct parser_call *c, struct cel_val v) { return node_lit(c->a, c->pos, v); }

static struct node *list_node(struct parser_call *c, struct node *item) {
    struct node *l = node_new(c->a, N_LIST, c->pos);
    if (item) {
        l->list.args = args_of(c->a, item, NULL, NULL);
        l->n = 1;
        l->depth = item->depth + 1;
    }
    return l;
}

static struct node *fold_node(struct parser_call *c, enum fold_kind kind, struct node *range, const char *var,
                              const char *var2) {
    struct node *f = node_new(c->a, N_FOLD, c->pos);
    f->fold_kind = kind;
    f->fold.range = range;
    f->fold.var = var;
    f->fold.var2 = var2;
    f->fold.accu = ACCU;
    return f;
}

/* all, exists, exists_one */
static void make_quantifier(struct parser_call *c, struct node *f, struct node *pred) {
    f->fold.body = pred;
    switch (f->fold_kind) {
        case FOLD_ALL:
            f->fold.init = literal(c, cel_bool(true));
            f->fold.cond = call(c, FN_NOT_FALSE, accu(c), NULL, NULL);
            f->fold.step = call(c, FN_AND, accu(c), pred, NULL);
            f->fold.result = accu(c);
            break;
        case FOLD_EXISTS:
            f->fold.init = literal(c, cel_bool(false));
            f->fold.cond = call(c, FN_NOT_FALSE, call(c, FN_NOT, accu(c), NULL, NULL), NULL, NULL);
            f->fold.step = call(c, FN_OR, accu(c), pred, NULL);
            f->fold.result = accu(c);
            break;
        default:
            f->fold.init = literal(c, cel_int(0));
            f->fold.cond = literal(c, cel_bool(true));
            f->fold.step = call(c, FN_COND, pred, call(c, FN_ADD, accu(c), literal(c, cel_int(1)), NULL), accu(c));
            f->fold.result = call(c, FN_EQ, accu(c), literal(c, cel_int(1)), NULL);
    }
}

/* map, filter, transformList, transformMap, transformMapEntry */
static void make_collector(struct parser_call *c, struct node *f, struct node *filter, struct node *body) {
    struct node *step;
    f->fold.filter = filter;
    f->fold.body = body;
    if (f->fold_kind == FOLD_LIST) {
        f->fold.init = list_node(c, NULL);
        step = call(c, FN_ADD, accu(c), list_node(c, body), NULL);
    } else {
        f->fold.init = node_new(c->a, N_MAP, c->pos);
        step = f->fold_kind == FOLD_MAP ? call(c, FN_MAP_INSERT, accu(c), node_ident(c->a, c->pos, f->fold.var), body)
                                        : call(c, FN_MAP_INSERT, accu(c), body, NULL);
    }
    f->fold.cond = literal(c, cel_bool(true));
    f->fold.step = filter ? call(c, FN_COND, filter, step, accu(c)) : step;
    f->fold.result = accu(c);
}

static struct node *bad_vars(struct parser_call *c, const struct macro_row *m) {
    static const char *const one[] = {[M_ALL] = "argument must be a simple name",
                                      [M_EXISTS] = "argument must be a simple name",
                                      [M_EXISTS_ONE] = "argument must be a simple name",
                                      [M_MAP] = "argument is not an identifier",
                                      [M_FILTER] = "argument is not an identifier"};
    for (uint32_t i = 0; i < m->vars; i++) {
        const struct node *v = c->args[i];
        if (v->kind != N_IDENT) return fail(c, v, m->vars == 1 ? one[m->what] : "argument must be a simple name");
        if (strcmp(v->name, "__result__") == 0) return fail(c, v, "iteration variable overwrites accumulator variable");
    }
    if (m->vars == 2 && strcmp(c->args[0]->name, c->args[1]->name) == 0)
        return fail(c, c->args[1], arena_printf(c->a, "duplicate variable name: %s", c->args[0]->name));
    return NULL;
}

static struct node *make_loop(struct parser_call *c, const struct macro_row *m) {
    static const uint8_t kinds[] = {
        [M_ALL] = FOLD_ALL,     [M_EXISTS] = FOLD_EXISTS, [M_EXISTS_ONE] = FOLD_EXISTS_ONE, [M_MAP] = FOLD_LIST,
        [M_FILTER] = FOLD_LIST, [M_LIST] = FOLD_LIST,     [M_MAP_VALUES] = FOLD_MAP,        [M_ENTRIES] = FOLD_ENTRY};
    struct node *bad = bad_vars(c, m);
    if (bad) return bad;
    struct node *f = fold_node(c, kinds[m->what], c->target, c->args[0]->name, m->vars == 2 ? c->args[1]->name : NULL);
    uint32_t rest = c->n - m->vars;
    struct node **args = c->args + m->vars;
    if (f->fold_kind <= FOLD_EXISTS_ONE)
        make_quantifier(c, f, args[0]);
    else if (m->what == M_FILTER)
        make_collector(c, f, args[0], node_ident(c->a, c->args[0]->pos, c->args[0]->name));
    else
        make_collector(c, f, rest == 2 ? args[0] : NULL, args[rest - 1]);
    return f;
}

static struct node *make_bind(struct parser_call *c, const char *var, struct node *value, struct node *body) {
    struct node *f = fold_node(c, FOLD_BIND, list_node(c, NULL), "#unused", NULL);
    f->fold.accu = var;
    f->fold.init = value;
    f->fold.cond = literal(c, cel_bool(false));
    f->fold.step = node_ident(c->a, c->pos, var);
    f->fold.result = f->fold.body = body;
    return f;
}

static struct node *make_opt(struct parser_call *c, bool flat) {
    struct node *var = c->args[0];
    if (var->kind != N_IDENT)
        return fail(c, var,
                    flat ? "optFlatMap() variable name must be a simple identifier"
                         : "optMap() variable name must be a simple identifier");
    struct node *value = node_call(c->a, c->pos, "value", c->target, NULL, 0);
    struct node *then = make_bind(c, var->name, value, c->args[1]);
    then->depth = MAX_OF(value->depth, c->args[1]->depth) + 1;
    if (!flat) then = call(c, "optional.of", then, NULL, NULL);
    return call(c, FN_COND, node_call(c->a, c->pos, "hasValue", c->target, NULL, 0), then,
                call(c, "optional.none", NULL, NULL, NULL));
}

/* list.sortBy(x, key): the list, sorted by the keys that map gives. */
static struct node *make_sort_by(struct parser_call *c) {
    if (c->args[0]->kind != N_IDENT) return fail(c, c->args[0], "argument must be a simple name");
    struct node *var = node_ident(c->a, c->pos, "@__sortBy_input__");
    struct parser_call map = *c;
    map.target = node_ident(c->a, c->pos, "@__sortBy_input__");
    map.n = 2;
    static const struct macro_row row = {"map", 2, true, M_MAP, 1, 0};
    struct node *keys = make_loop(&map, &row);
    if (keys->failed) return keys;
    keys->depth = c->args[1]->depth + 3;
    struct node *sort = node_call(c->a, c->pos, "@sortByAssociatedKeys", var, args_of(c->a, keys, NULL, NULL), 1);
    return make_bind(c, "@__sortBy_input__", c->target, sort);
}

static bool is_name(const struct node *n, const char *name) {
    return n && n->kind == N_IDENT && strcmp(n->name, name) == 0;
}

/* math.greatest(...): of one argument, two, or a list. */
static struct node *make_extreme(struct parser_call *c, const char *fn) {
    if (!is_name(c->target, "math")) return NULL;
    for (uint32_t i = 0; i < c->n; i++) {
        const struct node *a = c->args[i];
        bool bad = a->kind == N_MAP || a->kind == N_STRUCT ||
                   (a->kind == N_LIT && a->lit.kind != CEL_INT && a->lit.kind != CEL_UINT && a->lit.kind != CEL_DOUBLE);
        if (!bad && c->n == 1 && a->kind == N_LIST) {
            bad = a->n == 0;
            for (uint32_t k = 0; k < a->n; k++)
                bad |= a->list.args[k]->kind == N_LIT && a->list.args[k]->lit.kind != CEL_INT &&
                       a->list.args[k]->lit.kind != CEL_UINT && a->list.args[k]->lit.kind != CEL_DOUBLE;
            if (bad) return fail(c, a, arena_printf(c->a, "math.%s() invalid single argument value", fn));
        }
        if (bad) return fail(c, a, arena_printf(c->a, "math.%s() invalid argument value", fn));
    }
    const char *name = arena_printf(c->a, "math.@%s", strcmp(fn, "greatest") == 0 ? "max" : "min");
    if (c->n <= 2) return node_call(c->a, c->pos, name, NULL, c->args, c->n);
    struct node *l = node_new(c->a, N_LIST, c->pos);
    l->list.args = c->args;
    l->n = c->n;
    return call(c, name, l, NULL, NULL);
}

struct node *macro_expand(struct parser_call *c, const char *fn) {
    for (size_t i = 0; i < ARRAY_LEN(macros); i++) {
        const struct macro_row *m = &macros[i];
        if (strcmp(m->name, fn) != 0 || m->member != (c->target != NULL) || (m->libs && !(m->libs & c->libs))) continue;
        if (m->args >= 0 ? (uint32_t)m->args != c->n : c->n == 0) continue;
        switch (m->what) {
            case M_HAS:
                if (c->args[0]->kind != N_SELECT) return fail(c, c->args[0], "invalid argument to has() macro");
                c->args[0]->test = true;
                c->args[0]->pos = c->pos;
                return c->args[0];
            case M_OPT_MAP: return make_opt(c, false);
            case M_OPT_FLAT_MAP: return make_opt(c, true);
            case M_SORT_BY: return make_sort_by(c);
            case M_BIND:
                if (!is_name(c->target, "cel")) return NULL;
                if (c->args[0]->kind != N_IDENT)
                    return fail(c, c->args[0], "cel.bind() variable names must be simple identifiers");
                return make_bind(c, c->args[0]->name, c->args[1], c->args[2]);
            case M_GREATEST:
            case M_LEAST: return make_extreme(c, m->name);
            default: return make_loop(c, m);
        }
    }
    return NULL;
}

void node_walk(struct node *n, uint8_t mark, node_visit *visit, void *arg) {
    if (!n || n->walked == mark) return;
    n->walked = mark;
    visit(n, arg);
    switch (n->kind) {
        case N_SELECT: node_walk(n->of, mark, visit, arg); break;
        case N_CALL:
            node_walk(n->call.target, mark, visit, arg);
            for (uint32_t i = 0; i < n->n; i++) node_walk(n->call.args[i], mark, visit, arg);
            break;
        case N_LIST:
            for (uint32_t i = 0; i < n->n; i++) node_walk(n->list.args[i], mark, visit, arg);
            break;
        case N_MAP:
        case N_STRUCT:
            for (uint32_t i = 0; i < n->n; i++) {
                node_walk(n->map.entries[i].key, mark, visit, arg);
                node_walk(n->map.entries[i].value, mark, visit, arg);
            }
            break;
        case N_FOLD:
            node_walk(n->fold.range, mark, visit, arg);
            node_walk(n->fold.init, mark, visit, arg);
            node_walk(n->fold.filter, mark, visit, arg);
            node_walk(n->fold.body, mark, visit, arg);
            break;
    }
}
