/* The checker: resolves names to slots, locals, types and functions, and works out every node's type.
 *
 * A name is looked up in the container and outwards ("x" in container a.b: a.b.x, a.x, x), and a chain of selections
 * is first tried as one qualified name. Overloads that fit the argument types become the candidates of a call; with
 * several of different results its type is dyn. An environment that does not check (CEL_NO_CHECK) resolves names
 * only: what is unknown then fails when it is evaluated. Upstream: checker/checker.go, checker/env.go,
 * cel/validator.go. */
#include "pkg/cel/internal.h"

struct local {
    const char *name;
    const struct cel_type *type;
    int32_t place;
};

struct checker {
    struct arena *a;     /* the program's */
    struct arena *types; /* what types are made of while the check lasts: evaluation needs none */
    const struct cel_env *env;
    struct issues *is;
    struct type_map map;
    struct local *locals;
    uint32_t n_locals, cap_locals;
    uint32_t places, max_places;
    unsigned vars;
    bool lax;
    const char *stack;
};

static void check(struct checker *c, struct node *n);

static const char *text(struct checker *c, const struct cel_type *t) { return cel_type_text(c->types, t); }

static const struct cel_type *sub(struct checker *c, const struct cel_type *t) {
    return type_substitute(&c->map, t, false);
}

static bool fits(struct checker *c, const struct cel_type *t1, const struct cel_type *t2) {
    return c->lax || type_assignable(&c->map, t1, t2);
}

static const struct cel_type *fresh(struct checker *c) {
    return c->lax ? &cel_t_dyn : type_param(c->types, arena_printf(c->types, "_var%u", c->vars++));
}

/* ---- names ---- */

static int32_t push_local(struct checker *c, const char *name, const struct cel_type *t) {
    ARENA_GROW(c->types, c->locals, c->n_locals, c->cap_locals);
    int32_t place = (int32_t)c->places++;
    c->max_places = MAX_OF(c->max_places, c->places);
    c->locals[c->n_locals++] = (struct local){name, t, place};
    return place;
}

static bool resolve_exact(struct checker *c, struct node *n, const char *name) {
    int slot = cel_env_slot(c->env, name);
    if (slot >= 0) {
        n->kind = N_IDENT;
        n->name = c->env->vars[slot].name;
        n->id.slot = slot;
        n->id.local = -1;
        n->type = c->lax ? &cel_t_dyn : c->env->vars[slot].type;
        return true;
    }
    const struct cel_type *t = env_type_ident(c->env, name);
    if (!t) return false;
    n->kind = N_LIT;
    n->lit = val_type(t);
    n->type = type_of_type(c->types, t);
    return true;
}

/* The next candidate of `name` in the container; *at starts at SIZE_MAX and NULL ends. */
static const char *candidate(struct checker *c, const char *name, size_t *at) {
    if (*at == 0) return NULL;
    if (name[0] == '.') {
        *at = 0;
        return name + 1;
    }
    size_t n = *at == SIZE_MAX ? strlen(c->env->container) + 1 : *at - 1;
    if (*at == SIZE_MAX) {
        *at = n;
        if (n == 1) {
            *at = 0;
            return name;
        }
        return arena_printf(c->types, "%s.%s", c->env->container, name);
    }
    while (n > 0 && c->env->container[n - 1] != '.') n--;
    *at = n;
    return n == 0 ? name : arena_printf(c->types, "%.*s.%s", (int)n - 1, c->env->container, name);
}

/* The variable of a loop goes before whatever is declared outside; a qualified name that begins with one is none. */
static const struct local *find_local(const struct checker *c, const char *name, size_t n) {
    for (uint32_t i = c->n_locals; i > 0; i--)
        if (strlen(c->locals[i - 1].name) == n && memcmp(c->locals[i - 1].name, name, n) == 0) return &c->locals[i - 1];
    return NULL;
}

static bool resolve(struct checker *c, struct node *n, const char *name) {
    size_t at = SIZE_MAX, first = strcspn(name, ".");
    const struct local *l = first ? find_local(c, name, first) : NULL;
    if (l && name[first]) return false;
    if (l) {
        n->kind = N_IDENT;
        n->name = l->name;
        n->id.local = l->place;
        n->id.slot = -1;
        n->type = l->type;
        return true;
    }
    for (const char *s; (s = candidate(c, name, &at));)
        if (resolve_exact(c, n, s)) return true;
    return false;
}

/* "a.b.c" when the node is names joined by dots; NULL otherwise. */
static const char *qualified(struct checker *c, const struct node *n) {
    if (n->kind == N_IDENT) return n->name;
    if (n->kind != N_SELECT || n->test) return NULL;
    const char *of = qualified(c, n->of);
    return of ? arena_printf(c->types, "%s.%s", of, n->name) : NULL;
}

static void undeclared(struct checker *c, const struct node *n, const char *name) {
    if (!c->lax) issue_add(c->is, n->pos, "undeclared reference to '%s' (in container '%s')", name, c->env->container);
}

static void check_ident(struct checker *c, struct node *n) {
    if (resolve(c, n, n->name)) return;
    n->type = c->lax ? &cel_t_dyn : &type_error;
    undeclared(c, n, n->name);
}

/* ---- selection ---- */

static const struct cel_type *select_type(struct checker *c, struct node *n, struct node *of, const char *field,
                                          bool optional) {
    check(c, of);
    const struct cel_type *t = sub(c, of->type), *result = &type_error;
    bool was_optional = t->kind == CEL_OPTIONAL;
    if (was_optional) t = t->p[0];
    switch (t->kind) {
        case CEL_MAP: result = t->p[1]; break;
        case CEL_OBJECT: {
            const struct cel_field *f = type_field(t, field);
            if (f)
                result = f->type;
            else if (t->open)
                result = &cel_t_dyn;
            else
                issue_add(c->is, n->pos, "undefined field '%s'", field);
            break;
        }
        case CEL_PARAM:
            fits(c, &cel_t_dyn, t);
            result = &cel_t_dyn;
            break;
        default:
            if (!type_is_dyn(t)) issue_add(c->is, n->pos, "type '%s' does not support field selection", text(c, t));
            result = &cel_t_dyn;
    }
    return was_optional || optional ? cel_type_optional(c->types, result) : result;
}

static void check_select(struct checker *c, struct node *n) {
    const char *name = qualified(c, n);
    if (name && resolve(c, n, name)) return;
    const struct cel_type *t = select_type(c, n, n->of, n->name, false);
    n->type = n->test ? &cel_t_bool : sub(c, t);
}

/* ---- calls ---- */

static const char *signature_text(struct checker *c, const struct cel_type *const *args, size_t n, bool member) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    size_t i = 0;
    if (member) {
        buf_adds(&b, text(c, args[0]));
        buf_addc(&b, '.');
        i = 1;
    }
    buf_addc(&b, '(');
    for (size_t k = i; k < n; k++) {
        if (k > i) buf_adds(&b, ", ");
        buf_adds(&b, text(c, args[k]));
    }
    buf_addc(&b, ')');
    return arena_strndup(c->types, b.data, b.len);
}

static void check_logic(struct checker *c, struct node *n) {
    n->type = &cel_t_bool;
    for (uint32_t i = 0; i < n->n; i++)
        if (!fits(c, n->call.args[i]->type, &cel_t_bool)) {
            issue_add(c->is, n->call.args[i]->pos, "expected type 'bool' but found '%s'",
                      text(c, sub(c, n->call.args[i]->type)));
            n->type = &type_error;
        }
}

static void add_candidate(struct checker *c, struct node *n, const struct cel_fn *f) {
    n->call.fns = arena_realloc(c->a, n->call.fns, n->call.n_fns * sizeof(*n->call.fns),
                                (n->call.n_fns + 1) * sizeof(*n->call.fns));
    n->call.fns[n->call.n_fns++] = f;
    n->call.op = f->op;
}

static void resolve_overload(struct checker *c, struct node *n, const struct cel_fn **fns, size_t n_fns) {
    bool member = n->call.target != NULL;
    size_t argc = 0;
    const struct cel_type *args[FN_MAX_ARGS + 1], *want[FN_MAX_ARGS + 1], *result = NULL;
    if (member) args[argc++] = n->call.target->type;
    for (uint32_t i = 0; i < n->n && argc <= FN_MAX_ARGS; i++) args[argc++] = n->call.args[i]->type;
    for (size_t i = 0; i < n_fns; i++) {
        const struct cel_fn *f = fns[i];
        if (f->member != member || fn_arity(f) != argc) continue;
        if (f->op == OP_AND || f->op == OP_OR) {
            add_candidate(c, n, f);
            check_logic(c, n);
            return;
        }
        const struct cel_type *r;
        fn_types(c->types, f, &c->vars, want, &r);
        if (!c->lax && !type_assignable_list(&c->map, args, want, argc)) continue;
        add_candidate(c, n, f);
        r = c->lax ? &cel_t_dyn : sub(c, r);
        if (!result)
            result = r;
        else if (!type_is_dyn(result) && !cel_type_eq(r, result))
            result = &cel_t_dyn;
    }
    n->type = result ? result : &type_error;
    if (result || c->lax) return;
    for (size_t i = 0; i < argc; i++) args[i] = type_substitute(&c->map, args[i], true);
    issue_add(c->is, n->pos, "found no matching overload for '%s' applied to '%s'", n->name,
              signature_text(c, args, argc, member));
}

static size_t find_fns(struct checker *c, const char *name, const struct cel_fn **fns, const char **resolved) {
    size_t at = SIZE_MAX;
    for (const char *s; (s = candidate(c, name, &at));) {
        size_t n = env_fns(c->env, s, fns, FN_MAX_OVERLOADS);
        *resolved = s;
        if (n) return n;
    }
    return 0;
}

static void check_opt_select(struct checker *c, struct node *n) {
    const struct node *field = n->call.args[1];
    const struct cel_type *t = select_type(c, n, n->call.args[0], field->lit.s, true);
    n->type = sub(c, t);
    n->call.args[1]->type = &cel_t_string;
    n->call.op = OP_OPT_SELECT;
}

static void check_call(struct checker *c, struct node *n) {
    const struct cel_fn *fns[FN_MAX_OVERLOADS];
    const char *name;
    if (strcmp(n->name, FN_OPT_SELECT) == 0) {
        check_opt_select(c, n);
        return;
    }
    for (uint32_t i = 0; i < n->n; i++) check(c, n->call.args[i]);
    size_t n_fns = 0;
    const char *prefix = n->call.target ? qualified(c, n->call.target) : NULL;
    if (prefix) n_fns = find_fns(c, arena_printf(c->types, "%s.%s", prefix, n->name), fns, &name);
    if (n_fns) n->call.target = NULL;
    if (!n_fns) {
        if (n->call.target) check(c, n->call.target);
        n_fns =
            n->call.target ? env_fns(c->env, name = n->name, fns, FN_MAX_OVERLOADS) : find_fns(c, n->name, fns, &name);
    }
    if (!n_fns) {
        n->type = c->lax ? &cel_t_dyn : &type_error;
        n->call.op = OP_NONE;
        undeclared(c, n, n->name);
        return;
    }
    n->name = fns[0]->name;
    resolve_overload(c, n, fns, n_fns);
}

/* ---- literals of lists, maps, objects ---- */

static const struct cel_type *join(struct checker *c, const struct node *at, const struct cel_type *before,
                                   const struct cel_type *now) {
    if (!before) return now;
    if (fits(c, before, now)) return type_most_general(before, now);
    if (c->env->libs & CEL_MIXED_LITERALS) return &cel_t_dyn;
    issue_add(c->is, at->pos, "expected type '%s' but found '%s'", text(c, sub(c, before)), text(c, sub(c, now)));
    return &type_error;
}

static const struct cel_type *unwrap(struct checker *c, const struct node *n) {
    const struct cel_type *t = sub(c, n->type);
    if (t->kind == CEL_OPTIONAL) return t->p[0];
    if (!type_is_dyn(t))
        issue_add(c->is, n->pos, "expected type '%s' but found '%s'", text(c, cel_type_optional(c->types, t)),
                  text(c, t));
    return t;
}

static void check_list(struct checker *c, struct node *n) {
    const struct cel_type *elem = NULL;
    for (uint32_t i = 0; i < n->n; i++) {
        struct node *e = n->list.args[i];
        check(c, e);
        const struct cel_type *t = n->list.optional && n->list.optional[i] ? unwrap(c, e) : e->type;
        elem = join(c, e, elem, t);
    }
    n->type = cel_type_list(c->types, elem ? elem : fresh(c));
}

static void check_map(struct checker *c, struct node *n) {
    const struct cel_type *key = NULL, *value = NULL;
    for (uint32_t i = 0; i < n->n; i++) {
        struct entry *e = &n->map.entries[i];
        check(c, e->key);
        key = join(c, e->key, key, e->key->type);
        check(c, e->value);
        value = join(c, e->value, value, e->optional ? unwrap(c, e->value) : e->value->type);
    }
    if (!key) {
        key = fresh(c);
        value = fresh(c);
    }
    n->type = cel_type_map(c->types, key, value);
}

static void check_struct(struct checker *c, struct node *n) {
    size_t at = SIZE_MAX;
    const struct cel_type *t = NULL;
    for (const char *s; !t && (s = candidate(c, n->name, &at));) t = env_struct(c->a, c->env, s);
    if (!t) {
        n->type = &type_error;
        undeclared(c, n, n->name);
        return;
    }
    n->type = n->map.obj = t;
    for (uint32_t i = 0; i < n->n; i++) {
        struct entry *e = &n->map.entries[i];
        check(c, e->value);
        const struct cel_field *f = type_field(t, e->field);
        const struct cel_type *want = f ? f->type : &cel_t_dyn,
                              *have = e->optional ? unwrap(c, e->value) : e->value->type;
        if (!f && !t->open) issue_add(c->is, e->pos, "undefined field '%s'", e->field);
        if (!fits(c, want, have))
            issue_add(c->is, e->pos, "expected type of field '%s' is '%s' but provided type is '%s'", e->field,
                      text(c, want), text(c, sub(c, have)));
    }
}

/* ---- folds ---- */

static void loop_types(struct checker *c, struct node *n, const struct cel_type **var, const struct cel_type **var2) {
    const struct cel_type *range = sub(c, n->fold.range->type);
    bool two = n->fold.var2 != NULL;
    *var = *var2 = &cel_t_dyn;
    switch (range->kind) {
        case CEL_LIST:
            *var = two ? &cel_t_int : range->p[0];
            *var2 = range->p[0];
            break;
        case CEL_MAP:
            *var = range->p[0];
            *var2 = range->p[1];
            break;
        case CEL_DYN:
        case CEL_PARAM: fits(c, &cel_t_dyn, range); break;
        default:
            issue_add(c->is, n->fold.range->pos,
                      "expression of type '%s' cannot be range of a comprehension (must be list, map, or dynamic)",
                      text(c, range));
            *var = *var2 = &type_error;
    }
}

static void assert_type(struct checker *c, struct node *n, const struct cel_type *t) {
    if (!fits(c, t, n->type))
        issue_add(c->is, n->pos, "expected type '%s' but found '%s'", text(c, sub(c, t)), text(c, sub(c, n->type)));
}

static void check_fold(struct checker *c, struct node *n) {
    check(c, n->fold.range);
    check(c, n->fold.init);
    const struct cel_type *var, *var2, *accu = n->fold.init->type;
    loop_types(c, n, &var, &var2);
    uint32_t outer = c->n_locals, places = c->places;
    n->fold.base = push_local(c, n->fold.accu, accu);
    push_local(c, n->fold.var, var);
    if (n->fold.var2) push_local(c, n->fold.var2, var2);
    check(c, n->fold.cond);
    assert_type(c, n->fold.cond, &cel_t_bool);
    check(c, n->fold.step);
    assert_type(c, n->fold.step, accu);
    if (n->fold.filter) check(c, n->fold.filter); /* within the step already, but for types' sake cheap */
    c->n_locals = outer + 1;
    check(c, n->fold.result);
    c->n_locals = outer;
    c->places = places;
    n->type = sub(c, n->fold.result->type);
}

static const struct cel_type *literal_type(const struct cel_val *v) {
    static const struct cel_type *const of[] = {
        [CEL_NULL] = &cel_t_null,     [CEL_BOOL] = &cel_t_bool,     [CEL_INT] = &cel_t_int,    [CEL_UINT] = &cel_t_uint,
        [CEL_DOUBLE] = &cel_t_double, [CEL_STRING] = &cel_t_string, [CEL_BYTES] = &cel_t_bytes};
    return of[v->kind];
}

/* Nodes that macros share are checked once: where they stand twice, it is in the same scope. */
static void check(struct checker *c, struct node *n) {
    if (n->type) return;
    if (stack_spent(c->stack)) {
        issue_add(c->is, n->pos, "expression is nested too deeply");
        n->type = &type_error;
        return;
    }
    switch (n->kind) {
        case N_LIT: n->type = literal_type(&n->lit); break;
        case N_IDENT: check_ident(c, n); break;
        case N_SELECT: check_select(c, n); break;
        case N_CALL: check_call(c, n); break;
        case N_LIST: check_list(c, n); break;
        case N_MAP: check_map(c, n); break;
        case N_STRUCT: check_struct(c, n); break;
        case N_FOLD: check_fold(c, n); break;
    }
    if (c->lax) n->type = &cel_t_dyn;
}

static void settle(struct node *n, void *arg) {
    struct checker *c = arg;
    if (n->type) n->type = type_substitute(&c->map, n->type, true);
    if (n->kind == N_FOLD) {
        struct node *hidden[] = {n->fold.cond, n->fold.step, n->fold.result};
        for (size_t i = 0; i < ARRAY_LEN(hidden); i++) node_walk(hidden[i], 1, settle, c);
    }
}

void check_prog(struct arena *a, struct arena *types, struct cel_prog *p, struct node *root, struct issues *is) {
    struct checker c = {
        .a = a, .types = types, .env = p->env, .is = is, .lax = p->env->libs & CEL_NO_CHECK, .stack = stack_here()};
    c.map.a = types;
    check(&c, root);
    node_walk(root, 1, settle, &c);
    p->n_locals = c.max_places;
}

/* ---- literals that must make sense ---- */

static void same_types(struct issues *is, const struct node *n, const struct cel_type **want,
                       const struct cel_type *have) {
    if (!*want)
        *want = have;
    else if (!cel_type_eq(*want, have))
        issue_add(is, n->pos, "expected type '%s' but found '%s'", cel_type_text(is->a, *want),
                  cel_type_text(is->a, have));
}

static const struct cel_type *inner(const struct cel_type *t, bool optional) {
    return optional && t->kind == CEL_OPTIONAL ? t->p[0] : t;
}

static void validate_call(struct node *n, struct issues *is) {
    if (n->n == 0 || n->call.args[0]->kind != N_LIT || n->call.args[0]->lit.kind != CEL_STRING) return;
    const struct cel_val *v = &n->call.args[0]->lit;
    int64_t i;
    uint32_t u;
    const char *err = NULL;
    bool ok = true;
    if (strcmp(n->name, "duration") == 0)
        ok = duration_parse_n(v->s, v->n, &i);
    else if (strcmp(n->name, "timestamp") == 0)
        ok = time_parse(v->s, v->n, &i, &u);
    else if (strcmp(n->name, "matches") == 0)
        ok = regex_new(is->a, v->s, v->n, &err) != NULL;
    if (!ok) issue_add(is, n->call.args[0]->pos, "invalid %s argument", n->name);
}

static void validate(struct node *n, void *arg) {
    struct issues *is = arg;
    const struct cel_type *key = NULL, *value = NULL;
    if (n->kind == N_CALL) validate_call(n, is);
    uint32_t seen = is->seen;
    for (uint32_t i = 0; n->kind == N_LIST && i < n->n && is->seen == seen; i++)
        same_types(is, n->list.args[i], &value, inner(n->list.args[i]->type, n->list.optional && n->list.optional[i]));
    for (uint32_t i = 0; n->kind == N_MAP && i < n->n; i++) {
        const struct entry *e = &n->map.entries[i];
        same_types(is, e->key, &key, e->key->type);
        same_types(is, e->value, &value, inner(e->value->type, e->optional));
    }
}

void validate_literals(const struct cel_env *env, struct node *root, struct issues *is) {
    if ((env->libs & CEL_LIB_K8S) && !(env->libs & (CEL_MIXED_LITERALS | CEL_NO_CHECK)))
        node_walk(root, 2, validate, is);
}
