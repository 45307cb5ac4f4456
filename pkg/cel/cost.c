/* The estimate of what an expression costs at least and at most, from its types alone. It decides which rules a
 * CustomResourceDefinition may have, so it follows upstream's arithmetic to the digit, odd corners included.
 *
 * A node has a size (of its text, list or map), known from literals, from operations, or from the declared type its
 * path leads to ("self.spec.items[]": the `max` of that schema); an entry has sizes of key and value; sizes multiply
 * into costs. Upstream: checker/cost.go, k8s.io/apiserver/pkg/cel/library/cost.go (EstimateCallCost), ext/lists.go,
 * ext/sets.go. */
#include "pkg/cel/cost.h"

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

const struct cel_type *cost_path(struct coster *c, struct node *n) {
    const struct bound *b = local(c, n);
    return b ? b->path : info(c, n)->path;
}

/* Where no schema is known the type itself stands in; a path that begins with a step begins at the root, as upstream.
 */
const struct cel_type *cost_step(const struct coster *c, const struct cel_type *path, enum cost_step s,
                                 const char *field) {
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

bool cost_path_size(const struct cel_type *path, range *out) {
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
    if (cost_path_size(cost_path(c, n), out)) {
        i->size = *out;
        i->sized = !b;
        return true;
    }
    *out = fixed(1);
    if (scalar(n->type)) return true;
    if (b && b->sized) *out = b->size;
    return b && b->sized;
}

range cost_size(struct coster *c, struct node *n) {
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

void cost_join_entries(struct coster *c, struct node *n, struct node *x, struct node *y) {
    range kx, vx, ky, vy;
    if (entries_of(c, x, &kx, &vx) && entries_of(c, y, &ky, &vy)) set_entries(c, n, join(kx, ky), join(vx, vy));
}

static void push(struct coster *c, struct bound b) {
    ARENA_GROW(c->a, c->locals, c->n_locals, c->cap_locals);
    c->locals[c->n_locals++] = b;
}

/* ---- calls ---- */

/* An index leads to the element's declared type. */
static void index_path(struct coster *c, struct node *n, const struct cel_fn *f, struct cost_estimate *e) {
    bool list = strcmp(f->id, "index_list") == 0;
    if (!list && strcmp(f->id, "index_map") != 0) return;
    range key, val;
    e->sized = entries_of(c, n->call.args[0], &key, &val);
    if (e->sized) e->size = val;
    info(c, n)->path = cost_step(c, cost_path(c, n->call.args[0]), list ? STEP_ITEMS : STEP_VALUES, NULL);
}

static range cost_call_node(struct coster *c, struct node *n) {
    range arg_costs[FN_MAX_ARGS + 1], sum = {0, 0}, cost = {UINT64_MAX, 0};
    struct cost_call k = {c, n, n->call.target, n->call.args, n->n, arg_costs};
    if (strcmp(n->name, "dyn") == 0 && n->n == 1) {
        range arg = cost_of(c, n->call.args[0]), size;
        if (size_of(c, n->call.args[0], &size)) info(c, n)->size = size, info(c, n)->sized = true;
        return add(fixed(1), arg);
    }
    for (uint32_t i = 0; i < n->n; i++) arg_costs[i] = cost_of(c, n->call.args[i]);
    if (n->call.op == OP_OPT_SELECT) return add(fixed(1), cost_arg_sum(&k));
    if (n->call.n_fns == 0) return (range){0, 0};
    if (n->call.target) sum = cost_of(c, n->call.target);
    struct cost_estimate all = {0};
    for (uint32_t i = 0; i < n->call.n_fns; i++) {
        struct cost_estimate e = cost_function(&k, n->call.fns[i]);
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
        item = join(item, cost_size(c, n->list.args[i]));
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
            key = join(key, cost_size(c, e->key));
        }
        sum = add(sum, cost_of(c, e->value));
        val = join(val, cost_size(c, e->value));
    }
    if (!object) set_entries(c, n, key, val);
    return sum;
}

static range cost_select(struct coster *c, struct node *n) {
    range sum = cost_of(c, n->of);
    if (n->test) return sum;
    const struct cel_type *t = n->of->type;
    if (t->kind == CEL_MAP || t->kind == CEL_OBJECT) sum = add(sum, fixed(1));
    info(c, n)->path =
        cost_step(c, cost_path(c, n->of),
                  cost_path(c, n->of) && cost_path(c, n->of)->kind == CEL_MAP ? STEP_INDICES : STEP_FIELD, n->name);
    return sum;
}

static void push_loop(struct coster *c, struct node *n, const char *name, enum cost_step s, bool key_sized) {
    range key, val;
    struct bound b = {.name = name};
    if (entries_of(c, n->fold.range, &key, &val)) {
        b.sized = true;
        b.size = key_sized ? key : val;
    }
    b.path = cost_step(c, cost_path(c, n->fold.range), s, NULL);
    push(c, b);
}

static range cost_fold(struct coster *c, struct node *n) {
    range sum = add(cost_of(c, n->fold.range), cost_of(c, n->fold.init)), key, val;
    size_t outer = c->n_locals;
    struct bound accu = {.name = n->fold.accu, .path = cost_path(c, n->fold.init)};
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
    range count = cost_size(c, n->fold.range), size = count;
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
    if (stack_spent(c->stack)) return unknown;
    range r = {0, 0};
    switch (n->kind) {
        case N_LIT: r = fixed(n->lit.kind == CEL_TYPE ? 1 : 0); break;
        case N_IDENT:
            if (!local(c, n))
                i->path = c->root;
            else
                i->path = local(c, n)->path;
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
    struct coster c = {.a = a, .stack = stack_here(), .root = self < 0 ? &type_error : env->vars[self].type};
    return cost_of(&c, root);
}
