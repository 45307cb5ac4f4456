/* Evaluation: a walk over the nodes. Errors are values and travel up; && || ?: and the folds decide what becomes of
 * them. What ends everything (cost, interruption) sets E->fatal, and whoever loops looks at it.
 *
 * The cost that is counted on the way is cel-go's: one for a name, a selection and an index, by size for calls,
 * nothing for constants. `memory` bounds what a cheap operation could pile up. Upstream:
 * interpreter/interpretable.go, interpreter/runtimecost.go. */
#include "pkg/cel/internal.h"

bool ev_charge(struct ev *E, uint64_t cost) {
    E->cost = cost > UINT64_MAX - E->cost ? UINT64_MAX : E->cost + cost;
    if (E->cost > E->limit || arena_used(E->a) - E->memory > CEL_MAX_MEMORY) E->fatal = -E2BIG;
    return !E->fatal;
}

static struct cel_val fatal_value(int code) {
    return (struct cel_val){
        .kind = CEL_ERR,
        .s = code == -E2BIG ? "operation cancelled: actual cost limit exceeded" : "operation interrupted"};
}

struct cel_val err_overload(struct ev *E, const char *fn, const struct cel_val *args, int n) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_printf(&b, "no such overload: %s(", fn);
    for (int i = 0; i < n; i++) {
        if (i) buf_adds(&b, ", ");
        buf_adds(&b, type_value_name(type_of_val(&args[i])));
    }
    return val_errf(E->a, "%s)", b.data);
}

static struct cel_val ev_ident(struct ev *E, const struct node *n) {
    ev_charge(E, 1);
    if (n->id.local >= 0) return E->locals[n->id.local];
    if (n->id.slot >= 0 && (size_t)n->id.slot < E->run->n_vars) return E->run->vars[n->id.slot];
    return val_errf(E->a, "no such attribute(s): %s", n->name);
}

static struct cel_val ev_logic(struct ev *E, const struct node *n, bool decides) {
    struct cel_val l = ev_node(E, n->call.args[0]);
    if (E->fatal || (l.kind == CEL_BOOL && l.b == decides)) return l;
    struct cel_val r = ev_node(E, n->call.args[1]);
    if (E->fatal || (r.kind == CEL_BOOL && r.b == decides)) return r;
    if (l.kind == CEL_BOOL && r.kind == CEL_BOOL) return r;
    if (is_err(&l)) return l;
    if (is_err(&r)) return r;
    return val_errf(E->a, "no such overload");
}

static struct cel_val ev_cond(struct ev *E, const struct node *n) {
    struct cel_val c = ev_node(E, n->call.args[0]);
    if (is_err(&c)) return c;
    if (c.kind != CEL_BOOL) return val_errf(E->a, "no such overload");
    return ev_node(E, n->call.args[c.b ? 1 : 2]);
}

static struct cel_val ev_equal(struct ev *E, const struct node *n, bool want) {
    struct cel_val l = ev_node(E, n->call.args[0]);
    if (is_err(&l)) return l;
    struct cel_val r = ev_node(E, n->call.args[1]);
    if (is_err(&r)) return r;
    if (!ev_charge(E, cost_equal(&l, &r))) return fatal_value(E->fatal);
    return cel_bool(cel_equal(l, r) == want);
}

/* optional.or(optional), optional.orValue(x): the other side is looked at only when it is needed. */
static struct cel_val ev_or_else(struct ev *E, const struct node *n, bool value) {
    struct cel_val l = ev_node(E, n->call.target);
    if (is_err(&l)) return l;
    if (l.kind != CEL_OPTIONAL) return err_overload(E, n->name, &l, 1);
    if (l.some) return value ? *l.some : l;
    struct cel_val r = ev_node(E, n->call.args[0]);
    if (!value && !is_err(&r) && r.kind != CEL_OPTIONAL) return err_overload(E, n->name, &r, 1);
    return r;
}

static struct cel_val ev_plain_call(struct ev *E, const struct node *n) {
    struct cel_val args[FN_MAX_ARGS + 1];
    int argc = 0;
    if (n->call.target) {
        args[argc++] = ev_node(E, n->call.target);
        if (is_err(&args[0])) return args[0];
    }
    for (uint32_t i = 0; i < n->n; i++) {
        args[argc++] = ev_node(E, n->call.args[i]);
        if (is_err(&args[argc - 1])) return args[argc - 1];
    }
    const struct cel_fn *f = NULL;
    for (uint32_t i = 0; i < n->call.n_fns && !f; i++)
        if (fn_accepts(n->call.fns[i], args, (size_t)argc)) f = n->call.fns[i];
    if (!f) return err_overload(E, n->name, args, argc);
    struct cel_val out;
    if (n->call.regex && args[0].kind == CEL_STRING)
        out = cel_bool(regex_find(E->a, n->call.regex, args[0].s, args[0].n, 0, NULL, NULL));
    else
        out = f->impl(E, args, argc);
    bool known_list = strcmp(n->name, FN_IN) == 0 && n->call.args[1]->kind == N_LIST && n->call.args[1]->list.done;
    if (!known_list && !is_err(&out)) ev_charge(E, cost_call(f, args, argc, &out));
    return E->fatal ? fatal_value(E->fatal) : out;
}

static struct cel_val ev_call(struct ev *E, const struct node *n) {
    switch (n->call.op) {
        case OP_AND: return ev_logic(E, n, false);
        case OP_OR: return ev_logic(E, n, true);
        case OP_COND: return ev_cond(E, n);
        case OP_EQ: return ev_equal(E, n, true);
        case OP_NE: return ev_equal(E, n, false);
        case OP_INDEX: return ev_index(E, n, false);
        case OP_OPT_INDEX: return ev_index(E, n, true);
        case OP_OPT_SELECT: return ev_opt_select(E, n);
        case OP_OR_OPT: return ev_or_else(E, n, false);
        case OP_OR_VALUE: return ev_or_else(E, n, true);
        case OP_NONE: return val_errf(E->a, "unbound function: %s", n->name);
        default: return ev_plain_call(E, n);
    }
}

struct cel_val ev_node(struct ev *E, const struct node *n) {
    if (stack_spent(E->stack)) E->fatal = -E2BIG;
    if (E->fatal) return fatal_value(E->fatal);
    switch (n->kind) {
        case N_LIT: return n->lit;
        case N_IDENT: return ev_ident(E, n);
        case N_SELECT: return ev_select(E, n);
        case N_CALL: return ev_call(E, n);
        case N_LIST: return n->list.done ? n->list.value : ev_make_list(E, n);
        case N_MAP: return n->map.done ? n->map.value : ev_make_map(E, n);
        case N_STRUCT: return ev_make_map(E, n);
        default: return ev_fold(E, n);
    }
}

int cel_eval(const struct cel_prog *p, struct cel_run *run, struct cel_val *out) {
    struct ev E = {.run = run, .a = run->arena, .prog = p, .limit = run->limit ? run->limit : CEL_PER_CALL_LIMIT};
    bool outermost = !run->stack;
    if (outermost) run->stack = stack_here();
    E.stack = run->stack;
    E.memory = arena_used(run->arena);
    E.locals = arena_zalloc(run->arena, (p->n_locals + 1) * sizeof(*E.locals));
    *out = ev_node(&E, p->root);
    run->cost = E.cost;
    if (outermost) run->stack = NULL;
    if (E.fatal) *out = fatal_value(E.fatal);
    if (E.fatal) return E.fatal;
    return is_err(out) ? -EINVAL : 0;
}

/* ---- compiling ---- */

static void fold_list(struct arena *a, struct node *n) {
    if (n->list.optional)
        for (uint32_t i = 0; i < n->n; i++)
            if (n->list.optional[i]) return;
    struct cel_val *v = arena_alloc(a, (n->n + 1) * sizeof(*v));
    for (uint32_t i = 0; i < n->n; i++) {
        const struct node *e = n->list.args[i];
        bool constant = e->kind == N_LIT || (e->kind == N_LIST && e->list.done) || (e->kind == N_MAP && e->map.done);
        if (!constant) return;
        v[i] = e->kind == N_LIT ? e->lit : e->kind == N_LIST ? e->list.value : e->map.value;
    }
    n->list.value = val_list(a, v, n->n);
    n->list.done = true;
}

static void fold_pattern(struct arena *a, struct node *n) {
    if (strcmp(n->name, "matches") != 0 || n->n == 0) return;
    const struct node *p = n->call.args[n->n - 1];
    const char *err;
    if (p->kind == N_LIT && p->lit.kind == CEL_STRING && (n->call.target ? n->n == 1 : n->n == 2))
        n->call.regex = regex_new(a, p->lit.s, p->lit.n, &err);
}

static void fold_node(struct node *n, void *arg) {
    struct arena *a = arg;
    if (n->kind == N_CALL) fold_pattern(a, n);
    if (n->kind != N_LIST) return;
    for (uint32_t i = 0; i < n->n; i++)
        if (n->list.args[i]->kind == N_LIST) node_walk(n->list.args[i], 3, fold_node, a); /* the inner ones first */
    fold_list(a, n);
}

void fold_constants(struct arena *a, struct node *n) { node_walk(n, 3, fold_node, a); }

static void note_use(struct node *n, void *arg) {
    struct cel_prog *p = arg;
    if (n->kind == N_IDENT && n->id.slot >= 0) p->uses[n->id.slot] = true;
}

int cel_compile(struct arena *a, const struct cel_env *env, const char *src, const struct cel_prog **out,
                const char **issues) {
    _cleanup_arena_ struct arena *scratch = arena_new();
    struct cel_prog *p = arena_zalloc(a, sizeof(*p));
    struct issues is = {.a = scratch, .len = strlen(src)};
    is.src = p->src = arena_strndup(a, src, is.len);
    p->env = env;
    struct node *root = NULL;
    if (!utf8_valid(src, is.len))
        issue_add(&is, 0, "invalid UTF-8");
    else if (is.len > CEL_MAX_EXPR_BYTES)
        issue_add(&is, 0, "expression code point size exceeds limit: size: %zu, limit %d", is.len, CEL_MAX_EXPR_BYTES);
    if (!is.seen) root = parse_expr(a, env, &is);
    if (!is.seen) check_prog(a, scratch, p, root, &is);
    if (!is.seen) validate_literals(env, root, &is);
    if (is.seen) {
        if (issues) *issues = arena_strdup(a, issues_text(&is));
        return -EINVAL;
    }
    p->root = root;
    p->type = type_keep(a, root->type);
    if (!(env->libs & CEL_NO_CHECK)) p->cost = cost_estimate(env, root);
    fold_constants(a, root);
    p->n_uses = env->n_vars;
    p->uses = arena_zalloc(a, p->n_uses + 1);
    node_walk(root, 4, note_use, p);
    *out = p;
    return 0;
}

const struct cel_type *cel_prog_type(const struct cel_prog *p) { return p->type; }
struct cel_range cel_prog_cost(const struct cel_prog *p) {
    return p->cost;
}

bool cel_prog_uses(const struct cel_prog *p, const char *var) {
    int slot = cel_env_slot(p->env, var);
    return slot >= 0 && (uint32_t)slot < p->n_uses && p->uses[slot];
}
