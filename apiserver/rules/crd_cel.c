/* Compiling the rules of custom resources' schemas, and running them when an object is written. See crd_cel.h.
 *
 * A rule sees `self`, the value at its place, and may see `oldSelf`, the value that was there: then it is a
 * transition rule, which runs only where there is an old value that can be told to be the same thing's (members of
 * objects and maps, items of lists of type map by their keys), or, with optionalOldSelf, always. A finding of any
 * other rule about a part that did not change is a warning only, so that a schema can become stricter. All rules of
 * an object share one budget. */
#include "apiserver/rules/crd_cel.h"

enum { SELF, OLD_SELF, VARS };
enum { MESSAGE_MAX = 5 * 1024, MAX_DEPTH = 100 };

/* ---- compiling ---- */

const char *crd_cel_trim(struct arena *a, const char *s) {
    if (!s) return NULL;
    s += strspn(s, " \t\r\n\v\f");
    size_t n = strlen(s);
    while (n && strchr(" \t\r\n\v\f", s[n - 1])) n--;
    return arena_strndup(a, s, n);
}

static const struct cel_prog *compile(struct arena *a, const struct cel_env *env, const char *text, enum cel_kind want,
                                      const char *what, const char *otherwise, const char **error) {
    const struct cel_prog *p = NULL;
    const char *issues = NULL;
    if (cel_compile(a, env, text, &p, &issues))
        *error = arena_printf(a, "%s%s", what, issues);
    else if (cel_type_kind(cel_prog_type(p)) != want)
        *error = otherwise;
    return *error ? NULL : p;
}

void crd_cel_compile_rule(struct arena *a, const struct cel_type *self, const struct json *schema,
                          const struct json *rule, struct crd_rule *out) {
    struct cel_env *env = cel_env_new(a, CEL_LIB_K8S);
    const char *path = json_get_str(rule, "fieldPath");
    *out = (struct crd_rule){.text = crd_cel_trim(a, jstr(rule, "rule")),
                             .message = crd_cel_trim(a, json_get_str(rule, "message")),
                             .reason = json_get_str(rule, "reason"),
                             .message_text = json_get_str(rule, "messageExpression"),
                             .field_path = str_empty(path) ? NULL : crd_cel_field_path(a, schema, path),
                             .optional_old = json_get_bool(rule, "optionalOldSelf", false)};
    cel_env_var(env, "self", self);
    cel_env_var(env, "oldSelf", out->optional_old ? cel_type_optional(a, self) : self);
    if (!*out->text) return;
    out->prog = compile(a, env, jstr(rule, "rule"), CEL_BOOL,
                        "compilation failed: ", "cel expression must evaluate to a bool", &out->error);
    out->uses_old = out->prog && cel_prog_uses(out->prog, "oldSelf");
    if (out->prog && !str_empty(out->message_text))
        out->message_prog = compile(a, env, out->message_text, CEL_STRING, "messageExpression compilation failed: ",
                                    "messageExpression must evaluate to a string", &out->message_error);
}

static bool has_rules(const struct json *s, int depth) {
    if (!json_is(s, JSON_OBJECT) || depth > MAX_DEPTH) return false;
    if (json_len(json_get(s, "x-kubernetes-validations"))) return true;
    JSON_FOREACH_MEMBER(m, json_get(s, "properties"))
        if (has_rules(m->value, depth + 1)) return true;
    return has_rules(json_get(s, "items"), depth + 1) || has_rules(json_get(s, "additionalProperties"), depth + 1);
}

static const struct crd_cel *node_new(struct arena *a, const struct json *s, const struct cel_type *t, int depth);

static void add_property(struct arena *a, struct crd_cel *n, const char *key, const struct json *prop, int depth) {
    const char *name = cel_escape(a, key);
    const struct cel_type *t = name ? cel_type_field(n->type, name) : cel_type_of_schema(a, prop, "selfType", false);
    const struct crd_cel *sub = node_new(a, prop, t, depth);
    if (!sub) return;
    ARENA_GROW(a, n->props, n->n_props, n->cap_props);
    n->props[n->n_props++] = (struct crd_cel_prop){arena_strdup(a, key), sub};
}

static const struct crd_cel *node_new(struct arena *a, const struct json *s, const struct cel_type *t, int depth) {
    const struct json *rules = json_get(s, "x-kubernetes-validations"), *it;
    if (!t || !has_rules(s, depth)) return NULL;
    struct crd_cel *n = arena_zalloc(a, sizeof(*n));
    n->schema = s;
    n->type = t;
    n->rules = arena_alloc(a, (json_len(rules) + 1) * sizeof(*n->rules));
    JSON_FOREACH(it, rules) crd_cel_compile_rule(a, t, s, it, &n->rules[n->n_rules++]);
    JSON_FOREACH_MEMBER(m, json_get(s, "properties")) add_property(a, n, m->key, m->value, depth + 1);
    n->items = node_new(a, json_get(s, "items"), cel_type_elem(t), depth + 1);
    n->values = node_new(a, json_get(s, "additionalProperties"), cel_type_elem(t), depth + 1);
    return n;
}

const struct crd_cel *crd_cel_compile(struct arena *a, const struct json *schema) {
    if (!has_rules(schema, 0)) return NULL;
    return node_new(a, schema, cel_type_of_schema(a, schema, "selfType", true), 0);
}

/* ---- field paths ---- */

/* The next word of the path: a name, or what stands in quotes within brackets. */
static const char *path_word(struct arena *a, const char **p) {
    const char *s = *p;
    if (*s == '.') {
        size_t n = strcspn(++s, ".[]");
        *p = s + n;
        return n ? arena_strndup(a, s, n) : NULL;
    }
    if (s[0] != '[' || s[1] != '\'') return NULL;
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (s += 2; *s && *s != '\''; s++) {
        if (*s == '\\' && (s[1] == '\'' || s[1] == '\\')) s++;
        buf_addc(&b, *s);
    }
    if (s[0] != '\'' || s[1] != ']') return NULL;
    *p = s + 2;
    return arena_strndup(a, str_or_empty(b.data), b.len);
}

const char *crd_cel_field_path(struct arena *a, const struct json *schema, const char *path) {
    const char *out = "";
    while (*path) {
        const char *word = path_word(a, &path);
        const struct json *props = json_get(schema, "properties"), *more = json_get(schema, "additionalProperties");
        if (!word) return NULL;
        schema = json_len(props) ? json_get(props, word) : json_is(more, JSON_OBJECT) ? more : NULL;
        if (!schema) return NULL;
        if (!json_len(props))
            out = arena_printf(a, "%s[%s]", out, word);
        else
            out = arena_printf(a, "%s%s%s", out, *out ? "." : "", word);
    }
    return *out ? out : NULL;
}

/* ---- running ---- */

struct runner {
    struct vctx *v;
    int64_t budget;
    bool only_compiled; /* rules that do not compile are passed over */
};

/* What a finding's place is compared with, to see whether it changed. */
struct was {
    bool correlated; /* now and before are the same thing's */
    const struct json *now, *old;
    const struct json *parent_now, *parent_old; /* of the nearest place that is correlated; NULL: none */
};

static bool unchanged(const struct was *w) {
    const struct json *now = w->correlated ? w->now : w->parent_now, *old = w->correlated ? w->old : w->parent_old;
    return now && old && json_equal(now, old);
}

static const struct fp *or_root(const struct fp *p) {
    static const struct fp nil = {.name = "<nil>", .index = -1};
    return p ? p : &nil;
}

static struct json *type_value(struct runner *r, const struct crd_cel *n) {
    return json_str(r->v->a, jstr(n->schema, "type"));
}

static const char *rule_name(const struct crd_rule *rule) {
    return str_empty(rule->message) ? rule->text : rule->message;
}

static void evaluation_error(struct runner *r, const struct crd_cel *n, const struct crd_rule *rule, const struct fp *p,
                             const char *msg, int code) {
    struct json *t = type_value(r, n);
    if (code == -E2BIG) {
        v_invalid(r->v, p, t,
                  "'%s': no further validation rules will be run due to call cost exceeds limit for rule: %s", msg,
                  rule_name(rule));
        r->budget = -1;
    } else if (str_has_prefix(msg, "no such overload")) {
        v_invalid(r->v, p, t,
                  "'%s': call arguments did not match a supported operator, function or macro signature for rule: %s",
                  msg, rule_name(rule));
    } else {
        v_invalid(r->v, p, t, "%s evaluating rule: %s", msg, rule_name(rule));
    }
}

static bool spend(struct runner *r, uint64_t cost) {
    if (cost > (uint64_t)r->budget) return false;
    r->budget -= (int64_t)cost;
    return true;
}

/* What a rule that was broken says: its messageExpression when that gives something fit to print. False: the budget
 * is gone, which has been reported. */
static bool message_of(struct runner *r, const struct crd_cel *n, const struct crd_rule *rule, const struct fp *p,
                       struct cel_run *run, const char **out) {
    struct arena *a = r->v->a;
    *out = str_empty(rule->message) ? arena_printf(a, "failed rule: %s", rule->text) : rule->message;
    if (!rule->message_prog) return true;
    struct cel_val got;
    int code = cel_eval(rule->message_prog, run, &got);
    bool spent = spend(r, run->cost);
    if (code == -E2BIG || !spent) {
        v_invalid(r->v, p, type_value(r, n),
                  spent ? "no further validation rules will be run due to call cost exceeds limit for "
                          "messageExpression: \"%s\""
                        : "messageExpression evaluation failed due to running out of cost budget, no further "
                          "validation rules will be run",
                  rule->message_text);
        r->budget = -1;
        return false;
    }
    const char *text = code || got.kind != CEL_STRING ? "" : crd_cel_trim(a, got.s);
    if (*text && strlen(text) <= MESSAGE_MAX && !strchr(text, '\n')) *out = text;
    return true;
}

static void broken(struct runner *r, const struct crd_cel *n, const struct crd_rule *rule, const struct fp *p,
                   const struct json *x, const struct was *w, const char *detail) {
    bool whole = x->type == JSON_OBJECT || x->type == JSON_ARRAY;
    size_t before = r->v->n;
    const struct fp inner = {.up = p, .name = rule->field_path, .index = -1};
    p = rule->field_path ? &inner : or_root(p);
    if (str_eq(rule->reason, "FieldValueForbidden"))
        v_forbidden(r->v, p, "%s", detail);
    else if (str_eq(rule->reason, "FieldValueRequired"))
        v_required(r->v, p, detail);
    else if (str_eq(rule->reason, "FieldValueDuplicate"))
        v_duplicate(r->v, p, whole ? NULL : x);
    else if (whole)
        v_invalid_whole(r->v, p, "%s", detail);
    else
        v_invalid(r->v, p, x, "%s", detail);
    if (rule->uses_old || !unchanged(w) || r->v->n == before) return;
    const struct finding *f = &r->v->items[--r->v->n];
    rules_warn(r->v->c, "%s: %s", f->field, f->message);
}

static void run_rule(struct runner *r, const struct crd_cel *n, const struct crd_rule *rule, const struct fp *p,
                     const struct json *x, const struct json *old, const struct was *w) {
    struct arena *a = r->v->a;
    struct cel_val self = cel_json(a, x, n->type), before = old ? cel_json(a, old, n->type) : cel_null(), got;
    struct cel_val plain[VARS] = {self, before}, optional[VARS] = {self, cel_optional(a, old ? &before : NULL)};
    struct cel_run run = {.arena = a, .vars = rule->optional_old ? optional : plain, .n_vars = VARS};
    const struct fp *at = or_root(p);
    if (rule->error) {
        if (!r->only_compiled) v_invalid(r->v, at, type_value(r, n), "rule compile error: %s", rule->error);
        return;
    }
    if (!rule->prog || (rule->uses_old && !old && !rule->optional_old)) return;
    int code = cel_eval(rule->prog, &run, &got);
    if (code != -E2BIG && !spend(r, run.cost)) {
        v_invalid(r->v, at, type_value(r, n),
                  "validation failed due to running out of cost budget, no further validation rules will be run");
        r->budget = -1;
        return;
    }
    if (code) {
        evaluation_error(r, n, rule, at, got.s, code);
        return;
    }
    const char *detail;
    if (got.kind == CEL_BOOL && got.b) return;
    if (message_of(r, n, rule, at, &run, &detail)) broken(r, n, rule, p, x, w, detail);
}

static void run_node(struct runner *r, const struct crd_cel *n, const struct fp *p, const struct json *x,
                     const struct json *old, struct was w);

/* The place below: by key, or by index with the old item that has the same keys. */
static struct was below(const struct was *w, const struct json *now, const struct json *old) {
    if (!w->correlated) return *w;
    return (struct was){.correlated = old != NULL, .now = now, .old = old, .parent_now = w->now, .parent_old = w->old};
}

static const struct json *same_item(const struct json *schema, const struct json *list, const struct json *item) {
    const struct json *keys = json_get(schema, "x-kubernetes-list-map-keys"), *it, *k;
    if (!str_eq(json_get_str(schema, "x-kubernetes-list-type"), "map")) return NULL;
    JSON_FOREACH(it, list) {
        bool same = true;
        JSON_FOREACH(k, keys) {
            const struct json *x = json_get(it, str_or_empty(json_as_str(k))),
                              *y = json_get(item, str_or_empty(json_as_str(k)));
            same &= !x == !y && (!x || json_equal(x, y));
        }
        if (same) return it;
    }
    return NULL;
}

static void run_object(struct runner *r, const struct crd_cel *n, const struct fp *p, const struct json *x,
                       const struct json *old, const struct was *w) {
    JSON_FOREACH_MEMBER(m, x) {
        const struct json *was = json_get(old, m->key);
        const struct crd_cel *sub = n->values;
        for (uint32_t i = 0; i < n->n_props && !sub; i++)
            if (str_eq(n->props[i].key, m->key)) sub = n->props[i].node;
        if (sub && r->budget >= 0)
            run_node(r, sub, n->values ? FPK(p, m->key) : FP(p, m->key), m->value, was, below(w, m->value, was));
    }
}

static void run_node(struct runner *r, const struct crd_cel *n, const struct fp *p, const struct json *x,
                     const struct json *old, struct was w) {
    const struct json *it;
    if (x->type == JSON_NULL) return;
    if (old && old->type == JSON_NULL) old = NULL;
    if (n->n_rules && r->budget <= 0) {
        v_invalid(r->v, or_root(p), type_value(r, n),
                  "validation failed due to running out of cost budget, no further validation rules will be run");
        r->budget = -1;
    }
    for (uint32_t i = 0; i < n->n_rules && r->budget >= 0; i++) run_rule(r, n, &n->rules[i], p, x, old, &w);
    if (x->type == JSON_OBJECT) run_object(r, n, p, x, json_is(old, JSON_OBJECT) ? old : NULL, &w);
    if (x->type != JSON_ARRAY || !n->items) return;
    JSON_FOREACH(it, x) {
        const struct json *was = same_item(n->schema, json_is(old, JSON_ARRAY) ? old : NULL, it);
        if (r->budget >= 0) run_node(r, n->items, FPI(p, it_i), it, was, below(&w, it, was));
    }
}

/* Rules may rely on types and bounds: an object that breaks those is not shown to them. */
static bool blocked(const struct vctx *v) {
    for (size_t i = 0; i < v->n; i++)
        if (str_in(v->items[i].reason, ONE_OF("FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong",
                                              "FieldValueTooMany", "FieldValueTypeInvalid")))
            return true;
    return false;
}

void crd_cel_validate(struct vctx *v, const struct json *obj, const struct json *old) {
    struct runner r = {.v = v, .budget = (int64_t)CEL_RUNTIME_BUDGET};
    if (!v->c->crd_cel) return;
    if (blocked(v)) {
        v_invalid(v, FP(NULL, "<nil>"), json_null(v->a),
                  "some validation rules were not checked because the object was invalid; correct the existing "
                  "errors to complete validation");
        return;
    }
    run_node(&r, v->c->crd_cel, NULL, obj, old, (struct was){.correlated = old != NULL, .now = obj, .old = old});
}

void crd_cel_check_default(struct vctx *v, const struct json *schema, const struct json *dflt, const struct fp *p) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct runner r = {.v = v, .budget = (int64_t)CEL_RUNTIME_BUDGET, .only_compiled = true};
    if (!has_rules(schema, 0)) return;
    const struct crd_cel *n = node_new(a, schema, cel_type_of_schema(a, schema, "selfType", false), 0);
    if (n) run_node(&r, n, p, dflt, dflt, (struct was){.correlated = false});
}
