/* Evaluation of what looks into values and what makes them: selection, has(), indices, optional forms of these, and
 * the literals of lists, maps and objects; and `variables`, whose fields are programs. Upstream:
 * interpreter/attributes.go, common/types/map.go, k8s.io/apiserver/pkg/cel/lazy. */
#include <math.h>

#include "pkg/cel/internal.h"

static bool is_map(const struct cel_val *v) { return v->kind == CEL_MAP || v->kind == CEL_OBJECT; }

/* The value under a key or index. 0: found, -ENOENT: absent, -EINVAL: *out is another error. */
static int look_up(struct ev *E, const struct cel_val *of, const struct cel_val *key, struct cel_val *out) {
    if (is_map(of)) {
        if (map_find(E, of, key, out)) return is_err(out) ? -EINVAL : 0;
        if (of->form != FORM_BUILT && of->form != FORM_JSON && is_err(out)) return -EINVAL;
        if (key->kind == CEL_LIST || is_map(key)) {
            *out = val_errf(E->a, "unsupported key type: %s", type_value_name(type_of_val(key)));
            return -EINVAL;
        }
        *out = val_errf(E->a, "no such key: %s", cel_val_text(E->a, *key));
        return -ENOENT;
    }
    if (of->kind != CEL_LIST) {
        *out = val_errf(E->a, "no such overload");
        return -EINVAL;
    }
    int64_t i;
    if (key->kind == CEL_INT)
        i = key->i;
    else if (key->kind == CEL_UINT && key->u <= INT64_MAX)
        i = (int64_t)key->u;
    else if (key->kind == CEL_DOUBLE && key->d == trunc(key->d) && double_to_i64(key->d, &i))
        (void)i;
    else {
        *out = val_errf(E->a, "unsupported index type '%s' in list", type_value_name(type_of_val(key)));
        return -EINVAL;
    }
    if (i < 0 || (uint64_t)i >= list_len(of)) {
        *out = val_errf(E->a, "index out of bounds: %lld", (long long)i);
        return -ENOENT;
    }
    *out = list_at(E->a, of, (size_t)i);
    return is_err(out) ? -EINVAL : 0;
}

/* As look_up, through optionals: of an optional the result is an optional; `optional` makes it one anyway. */
static struct cel_val access_value(struct ev *E, struct cel_val of, const struct cel_val *key, bool optional) {
    struct cel_val out;
    if (of.kind == CEL_OPTIONAL) {
        if (!of.some) return val_none();
        of = *of.some;
        optional = true;
    }
    int r = look_up(E, &of, key, &out);
    if (!optional || r == -EINVAL) return out;
    return r == 0 ? val_some(E->a, out) : val_none();
}

/* Names, selections and indices are one attribute; on anything else a chain begins anew, at a cost of one. */
static bool in_chain(const struct node *of) {
    return of->kind == N_IDENT || of->kind == N_SELECT ||
           (of->kind == N_CALL &&
            (of->call.op == OP_INDEX || of->call.op == OP_OPT_INDEX || of->call.op == OP_OPT_SELECT));
}

static struct cel_val test_field(struct ev *E, struct cel_val of, const char *field) {
    struct cel_val out;
    if (of.kind == CEL_OPTIONAL) {
        if (!of.some) return cel_bool(false);
        of = *of.some;
    }
    if (!is_map(&of)) return val_errf(E->a, "no such overload");
    return cel_bool(map_find_str(E, &of, field, &out));
}

struct cel_val ev_select(struct ev *E, const struct node *n) {
    struct cel_val of = ev_node(E, n->of);
    if (is_err(&of)) return of;
    if (n->test) return test_field(E, of, n->name);
    ev_charge(E, in_chain(n->of) ? 1 : 2);
    struct cel_val key = cel_str(n->name);
    return access_value(E, of, &key, false);
}

struct cel_val ev_opt_select(struct ev *E, const struct node *n) {
    struct cel_val of = ev_node(E, n->call.args[0]);
    if (is_err(&of)) return of;
    ev_charge(E, in_chain(n->call.args[0]) ? 1 : 2);
    return access_value(E, of, &n->call.args[1]->lit, true);
}

struct cel_val ev_index(struct ev *E, const struct node *n, bool optional) {
    struct cel_val of = ev_node(E, n->call.args[0]);
    if (is_err(&of)) return of;
    struct cel_val key = ev_node(E, n->call.args[1]);
    if (is_err(&key)) return key;
    ev_charge(E, in_chain(n->call.args[0]) ? 1 : 2);
    return access_value(E, of, &key, optional);
}

/* ---- making ---- */

/* An optional element: false when it is left out. */
static bool present(struct ev *E, bool optional, struct cel_val *v) {
    if (!optional || is_err(v)) return true;
    if (v->kind != CEL_OPTIONAL)
        *v = val_errf(E->a, "cannot initialize optional entry from non-optional value %s", cel_val_text(E->a, *v));
    else if (!v->some)
        return false;
    else
        *v = *v->some;
    return true;
}

struct cel_val ev_make_list(struct ev *E, const struct node *n) {
    struct cel_val *v = arena_alloc(E->a, (n->n + 1) * sizeof(*v));
    size_t len = 0;
    for (uint32_t i = 0; i < n->n; i++) {
        struct cel_val e = ev_node(E, n->list.args[i]);
        if (!present(E, n->list.optional && n->list.optional[i], &e)) continue;
        if (is_err(&e)) return e;
        v[len++] = e;
    }
    ev_charge(E, 10);
    return val_list(E->a, v, len);
}

static bool good_key(const struct cel_val *k) {
    return k->kind == CEL_STRING || k->kind == CEL_INT || k->kind == CEL_UINT || k->kind == CEL_BOOL;
}

struct cel_val ev_make_map(struct ev *E, const struct node *n) {
    bool object = n->kind == N_STRUCT, constant = !object;
    if (object && !n->map.obj) return val_errf(E->a, "unknown type: %s", n->name);
    struct cel_map *m = map_new(E->a, n->n);
    for (uint32_t i = 0; i < n->n; i++) {
        const struct entry *e = &n->map.entries[i];
        struct cel_val k = object ? cel_str(e->field) : ev_node(E, e->key);
        if (is_err(&k)) return k;
        struct cel_val v = ev_node(E, e->value);
        constant &= e->key && e->key->kind == N_LIT && e->value->kind == N_LIT && !e->optional;
        if (!present(E, e->optional, &v)) continue;
        if (is_err(&v)) return v;
        if (!good_key(&k)) return val_errf(E->a, "unsupported key type: %s", type_value_name(type_of_val(&k)));
        if (!map_put_val(E->a, m, k, v) && !object)
            return val_errf(E->a, "Failed with repeated key: %s", cel_val_text(E->a, k));
    }
    if (!constant) ev_charge(E, object ? 40 : 30);
    struct cel_val out = val_map(m);
    if (object) {
        out.kind = CEL_OBJECT;
        out.type = n->map.obj;
    }
    return out;
}

/* ---- variables ---- */

struct cel_lazy {
    struct cel_opaque head; /* so that two can be told apart */
    struct arena *a;
    const struct cel_type *type;
    struct cel_run *run;
    uint64_t cost;
    struct lazy_var {
        const char *name, *failed;
        const struct cel_prog *prog;
        bool done, busy;
        struct cel_val value;
    } * vars;
    uint32_t n, cap;
};

struct cel_lazy *cel_lazy_new(struct arena *a, const struct cel_type *t, struct cel_run *run) {
    struct cel_lazy *l = arena_zalloc(a, sizeof(*l));
    l->a = a;
    l->type = l->head.type = t;
    l->run = run;
    return l;
}

void cel_lazy_add(struct cel_lazy *l, const char *name, const struct cel_prog *p, const char *failed) {
    ARENA_GROW(l->a, l->vars, l->n, l->cap);
    l->vars[l->n++] = (struct lazy_var){.name = arena_strdup(l->a, name), .failed = failed, .prog = p};
}

struct cel_val cel_lazy_value(struct cel_lazy *l) {
    return (struct cel_val){.kind = CEL_OBJECT, .form = FORM_LAZY, .opaque = &l->head, .type = l->type};
}

uint64_t cel_lazy_take_cost(struct cel_lazy *l) {
    uint64_t c = l->cost;
    l->cost = 0;
    return c;
}

static void lazy_run(struct cel_lazy *l, struct lazy_var *v) {
    struct cel_run run = *l->run;
    v->busy = true;
    int r = cel_eval(v->prog, &run, &v->value);
    v->busy = false;
    v->done = true;
    l->cost = run.cost > UINT64_MAX - l->cost ? UINT64_MAX : l->cost + run.cost;
    if (r) v->value = val_errf(run.arena, "composited variable \"%s\" fails to evaluate: %s", v->name, v->value.s);
}

/* False with an error in *out too: a variable that fails is there, but reading it is an error. */
bool lazy_value_find(struct ev *E, const struct cel_val *m, const char *key, struct cel_val *out) {
    struct cel_lazy *l = (struct cel_lazy *)CONTAINER_OF(m->opaque, struct cel_lazy, head);
    for (uint32_t i = l->n; i > 0; i--) {
        struct lazy_var *v = &l->vars[i - 1];
        if (strcmp(v->name, key) != 0) continue;
        if (!v->prog)
            *out = val_errf(E->a, "composited variable \"%s\" fails to compile: %s", key, str_or_empty(v->failed));
        else if (v->busy)
            *out = val_errf(E->a, "variable \"%s\" refers to itself", key);
        else {
            if (!v->done) lazy_run(l, v);
            *out = v->value;
        }
        return true;
    }
    return false;
}
