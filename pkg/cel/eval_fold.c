/* Evaluation of the loops that macros make. Each kind does what cel-go's expansion would do, and charges what that
 * would charge: the accumulator's reads, the condition, the step's calls. Upstream: parser/macro.go,
 * interpreter/interpretable.go (evalFold). */
#include "pkg/cel/internal.h"

/* What is looped over: the values of the loop's variables at step i. */
struct range {
    struct cel_val of;
    size_t n;
};

static bool range_of(struct ev *E, const struct node *n, struct range *r, struct cel_val *err) {
    r->of = ev_node(E, n->fold.range);
    *err = r->of;
    if (is_err(&r->of)) return false;
    if (r->of.kind == CEL_LIST)
        r->n = list_len(&r->of);
    else if (r->of.kind == CEL_MAP || r->of.kind == CEL_OBJECT)
        r->n = map_len(&r->of);
    else {
        *err = val_errf(E->a, "got '%s', expected iterable type", type_value_name(type_of_val(&r->of)));
        return false;
    }
    return true;
}

static void set_vars(struct ev *E, const struct node *n, const struct range *r, size_t i) {
    struct cel_val *l = E->locals + n->fold.base;
    bool list = r->of.kind == CEL_LIST;
    if (!n->fold.var2) {
        l[1] = list ? list_at(E->a, &r->of, i) : map_key_at(E->a, &r->of, i);
        return;
    }
    l[1] = list ? cel_int((int64_t)i) : map_key_at(E->a, &r->of, i);
    l[2] = list ? list_at(E->a, &r->of, i) : map_val_at(E->a, &r->of, i);
}

static bool go_on(struct ev *E, uint64_t cost) {
    if (++E->ticks % CEL_CHECK_EVERY == 0 && E->run->interrupted && E->run->interrupted(E->run->interrupted_arg))
        E->fatal = -ECANCELED;
    return !E->fatal && ev_charge(E, cost);
}

/* all (decides: false) and exists (decides: true) */
static struct cel_val fold_decide(struct ev *E, const struct node *n, const struct range *r, bool decides) {
    struct cel_val acc = cel_bool(!decides);
    for (size_t i = 0; i < r->n && go_on(E, decides ? 4 : 3); i++) {
        set_vars(E, n, r, i);
        struct cel_val v = ev_node(E, n->fold.body);
        if (E->fatal) return v;
        if (v.kind == CEL_BOOL && v.b == decides) {
            acc = v;
            break;
        }
        if (v.kind != CEL_BOOL && !is_err(&acc)) acc = is_err(&v) ? v : val_errf(E->a, "no such overload");
    }
    ev_charge(E, 1);
    return acc;
}

/* Does the filter let this step through? An error or non-bool ends the loop, in *err. */
static bool passes(struct ev *E, const struct node *filter, struct cel_val *err) {
    *err = cel_null();
    if (!filter) return true;
    struct cel_val v = ev_node(E, filter);
    if (v.kind == CEL_BOOL) return v.b;
    *err = is_err(&v) ? v : val_errf(E->a, "no such overload");
    return false;
}

static struct cel_val fold_one(struct ev *E, const struct node *n, const struct range *r) {
    int64_t count = 0;
    struct cel_val err;
    for (size_t i = 0; i < r->n && go_on(E, 1); i++) {
        set_vars(E, n, r, i);
        if (passes(E, n->fold.body, &err)) {
            ev_charge(E, 1);
            count++;
        }
        if (is_err(&err)) return err;
    }
    ev_charge(E, 2);
    return cel_bool(count == 1);
}

static struct cel_val fold_list(struct ev *E, const struct node *n, const struct range *r) {
    struct cel_val *v = NULL, err;
    size_t len = 0, cap = 0;
    for (size_t i = 0; i < r->n && go_on(E, 1); i++) {
        set_vars(E, n, r, i);
        bool pass = passes(E, n->fold.filter, &err);
        if (is_err(&err)) return err;
        if (!pass) continue;
        struct cel_val e = ev_node(E, n->fold.body);
        if (is_err(&e)) return e;
        ev_charge(E, 11);
        ARENA_GROW(E->a, v, len, cap);
        v[len++] = e;
    }
    ev_charge(E, 1);
    return val_list(E->a, v, len);
}

static struct cel_val put_entries(struct ev *E, struct cel_map *m, const struct cel_val *from) {
    for (size_t i = 0; i < map_len(from); i++) {
        struct cel_val k = map_key_at(E->a, from, i);
        if (!map_put_val(E->a, m, k, map_val_at(E->a, from, i)))
            return val_errf(E->a, "insert failed: key %s already exists", cel_val_text(E->a, k));
    }
    return cel_null();
}

static struct cel_val fold_map(struct ev *E, const struct node *n, const struct range *r) {
    struct cel_map *m = map_new(E->a, r->n);
    struct cel_val err;
    for (size_t i = 0; i < r->n && go_on(E, 1); i++) {
        set_vars(E, n, r, i);
        bool pass = passes(E, n->fold.filter, &err);
        if (is_err(&err)) return err;
        if (!pass) continue;
        struct cel_val e = ev_node(E, n->fold.body), key = E->locals[n->fold.base + 1];
        if (is_err(&e)) return e;
        ev_charge(E, n->fold_kind == FOLD_MAP ? 2 : 1);
        if (n->fold_kind == FOLD_MAP) {
            if (!map_put_val(E->a, m, key, e))
                return val_errf(E->a, "insert failed: key %s already exists", cel_val_text(E->a, key));
            continue;
        }
        if (e.kind != CEL_MAP) return err_overload(E, FN_MAP_INSERT, &e, 1);
        err = put_entries(E, m, &e);
        if (is_err(&err)) return err;
    }
    ev_charge(E, 1);
    return val_map(m);
}

struct cel_val ev_fold(struct ev *E, const struct node *n) {
    struct range r = {0};
    struct cel_val out;
    if (n->fold_kind == FOLD_BIND) {
        out = ev_node(E, n->fold.init);
        if (is_err(&out)) return out;
        E->locals[n->fold.base] = out;
        return ev_node(E, n->fold.body);
    }
    if (!range_of(E, n, &r, &out)) return out;
    switch (n->fold_kind) {
        case FOLD_ALL: return fold_decide(E, n, &r, false);
        case FOLD_EXISTS: return fold_decide(E, n, &r, true);
        case FOLD_EXISTS_ONE: return fold_one(E, n, &r);
        case FOLD_LIST: return fold_list(E, n, &r);
        default: return fold_map(E, n, &r);
    }
}
