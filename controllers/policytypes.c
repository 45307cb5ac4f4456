/* What a policy's expressions are held against: for each kind that its rules name, the expressions are compiled once more
 * with object, oldObject and params declared as what they will be. Nothing is evaluated, and nothing is refused: what does
 * not fit becomes a warning in the policy's status.
 *
 * Upstream: apiserver/pkg/admission/plugin/policy/validating/typechecking.go. Unlike there, quantities are strings rather
 * than invisible, and `authorizer.requestResource` is declared: both stand in working policies, and a warning about them
 * would be wrong. */
#include "policytypes.h"

#include "pkg/cel/policy_env.h"

typedef struct admissionregistration_validating_admission_policy policy_t;

/* ---- which kinds ---- */

static int by_text(const void *x, const void *y) {
    const char *const *a = x, *const *b = y;
    return strcmp(*a, *b);
}

/* The names without those that hold one of `bad`, sorted; *any: one was left out. */
static struct str_vec plain_names(struct arena *a, const struct str_vec *v, const char *bad, bool *any) {
    struct str_vec out = {arena_alloc(a, (v->n + 1) * sizeof(*out.items)), 0};
    *any = false;
    for (size_t i = 0; i < v->n; i++)
        if (strpbrk(v->items[i], bad))
            *any = true;
        else
            out.items[out.n++] = v->items[i];
    if (out.n > 1) qsort(out.items, out.n, sizeof(*out.items), by_text);
    return out;
}

static int by_kind(const void *x, const void *y) {
    const struct policy_kind *a = x, *b = y;
    int c = strcmp(a->group, b->group);
    if (!c) c = strcmp(a->version, b->version);
    return c ? c : strcmp(a->kind, b->kind);
}

struct collect {
    const struct policy_source *from;
    struct policy_kind *out;
    size_t n;
};

static void add_kind(struct collect *c, const char *group, const char *version, const char *resource) {
    struct policy_kind k = {.group = group, .version = version};
    if (!c->from->kind_of(c->from->arg, group, version, resource, &k.kind)) return;
    for (size_t i = 0; i < c->n; i++)
        if (by_kind(&c->out[i], &k) == 0) return;
    c->out[c->n++] = k;
}

static void add_rule(struct arena *a, struct collect *c, const struct admissionregistration_rule *r) {
    bool any_group, any_version, any_resource;
    struct str_vec groups = plain_names(a, &r->api_groups, "*", &any_group),
                   versions = plain_names(a, &r->api_versions, "*", &any_version),
                   resources = plain_names(a, &r->resources, "*/", &any_resource);
    if (any_group || any_version) return;
    for (size_t g = 0; g < groups.n; g++)
        for (size_t v = 0; v < versions.n; v++)
            for (size_t i = 0; i < resources.n && c->n < POLICY_TYPES_MAX; i++)
                add_kind(c, groups.items[g], versions.items[v], resources.items[i]);
}

size_t policy_kinds(struct arena *a, const policy_t *p, const struct policy_source *from,
                    struct policy_kind out[POLICY_TYPES_MAX]) {
    struct collect c = {from, out, 0};
    const struct admissionregistration_match_resources *m = p->spec.match_constraints;
    for (size_t i = 0; m && i < m->resource_rules.n && c.n < POLICY_TYPES_MAX; i++)
        add_rule(a, &c, &m->resource_rules.items[i].rule);
    size_t n = 0;
    for (size_t i = 0; i < c.n; i++) {
        out[i].type = from->type_of(from->arg, out[i].group, out[i].version, out[i].kind);
        if (out[i].type) out[n++] = out[i];
    }
    if (n > 1) qsort(out, n, sizeof(*out), by_kind);
    return n;
}

/* ---- checking ---- */

/* A kind with the environment that the policy's expressions have for it. */
struct checked_kind {
    const struct policy_kind *k;
    struct cel_policy_env *env;
};

static struct cel_policy_env *kind_env(struct arena *a, const policy_t *p, const struct policy_kind *k,
                                       const struct cel_type *params) {
    struct cel_type *variables = cel_type_object(a, "kubernetes.variables");
    struct cel_policy_env *env = cel_policy_env_new(a, CEL_DECL_AUTHORIZER | (p->spec.param_kind ? CEL_DECL_PARAMS : 0),
                                                    variables, k->type, params);
    for (size_t i = 0; i < p->spec.variables.n; i++) {
        const struct admissionregistration_variable *v = &p->spec.variables.items[i];
        const struct cel_prog *prog = NULL;
        if (cel_compile(a, env->env, str_or_empty(v->expression), &prog, NULL)) prog = NULL;
        cel_type_add_field(a, variables, str_or_empty(v->name), prog ? cel_prog_type(prog) : &cel_t_dyn);
    }
    return env;
}

static void check_expression(struct arena *a, const struct checked_kind *kinds, size_t n, const char *src,
                             const char *field, struct admissionregistration_expression_warning_vec *out) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < n; i++) {
        const struct policy_kind *k = kinds[i].k;
        const struct cel_prog *prog;
        const char *issues = NULL;
        if (cel_compile(a, kinds[i].env->env, src, &prog, &issues) == 0) continue;
        buf_printf(&b, "%s%s/%s, Kind=%s: %s\n", b.len ? "\n" : "", k->group, k->version, k->kind,
                   str_or_empty(issues));
    }
    if (!b.len) return;
    out->items[out->n++] = (struct admissionregistration_expression_warning){field, arena_strndup(a, b.data, b.len)};
}

static const struct cel_type *params_type(struct arena *a, const policy_t *p, const struct policy_source *from) {
    const struct admissionregistration_param_kind *k = p->spec.param_kind;
    if (!k) return NULL;
    const char *gv = str_or_empty(k->api_version), *slash = strchr(gv, '/');
    const char *group = slash ? arena_strndup(a, gv, (size_t)(slash - gv)) : "";
    return from->type_of(from->arg, group, slash ? slash + 1 : gv, str_or_empty(k->kind));
}

void policy_warnings(struct arena *a, const policy_t *p, const struct policy_source *from,
                     struct admissionregistration_expression_warning_vec *out) {
    struct policy_kind kinds[POLICY_TYPES_MAX];
    struct checked_kind checked[POLICY_TYPES_MAX];
    size_t n = policy_kinds(a, p, from, kinds);
    const struct cel_type *params = params_type(a, p, from);
    for (size_t i = 0; i < n; i++) checked[i] = (struct checked_kind){&kinds[i], kind_env(a, p, &kinds[i], params)};
    *out = (typeof(*out)){arena_zalloc(a, (2 * p->spec.validations.n + 1) * sizeof(*out->items)), 0};
    for (size_t i = 0; i < p->spec.validations.n; i++) {
        const struct admissionregistration_validation *v = &p->spec.validations.items[i];
        check_expression(a, checked, n, str_or_empty(v->expression),
                         arena_printf(a, "spec.validations[%zu].expression", i), out);
        if (!str_empty(v->message_expression))
            check_expression(a, checked, n, v->message_expression,
                             arena_printf(a, "spec.validations[%zu].messageExpression", i), out);
    }
}

/* ---- schemas from OpenAPI ---- */

enum { SCHEMA_DEPTH_MAX = 64, SCHEMA_NODES_MAX = 200000 };

struct resolver {
    struct arena *a;
    const struct json *schemas;
    const char *open[SCHEMA_DEPTH_MAX]; /* references being resolved: one that comes again ends as an empty object */
    size_t n_open, nodes;
};

static const char *reference(const struct json *s) {
    const char *ref = json_get_str(s, "$ref");
    const struct json *it;
    JSON_FOREACH(it, json_get(s, "allOf"))
        if (!ref) ref = json_get_str(it, "$ref");
    return ref && str_has_prefix(ref, "#/components/schemas/") ? ref + strlen("#/components/schemas/") : NULL;
}

static struct json *resolved(struct resolver *r, const struct json *s);

static struct json *resolved_members(struct resolver *r, const struct json *properties) {
    struct json *out = json_object(r->a);
    JSON_FOREACH_MEMBER(m, properties) json_set(r->a, out, m->key, resolved(r, m->value));
    return out;
}

static struct json *resolved_parts(struct resolver *r, const struct json *s) {
    struct json *out = json_object(r->a);
    JSON_FOREACH_MEMBER(m, s) {
        struct json *v = m->value;
        if (strcmp(m->key, "properties") == 0)
            v = resolved_members(r, v);
        else if (strcmp(m->key, "items") == 0 || strcmp(m->key, "additionalProperties") == 0)
            v = resolved(r, v);
        json_set(r->a, out, m->key, v);
    }
    if (str_eq(json_get_str(s, "format"), "int-or-string"))
        json_set_bool(r->a, out, "x-kubernetes-int-or-string", true);
    return out;
}

static struct json *resolved(struct resolver *r, const struct json *s) {
    if (!json_is(s, JSON_OBJECT)) return (struct json *)s;
    struct json *nothing = json_object(r->a);
    json_set_str(r->a, nothing, "type", "object");
    const char *ref = reference(s);
    if (r->n_open == SCHEMA_DEPTH_MAX || ++r->nodes > SCHEMA_NODES_MAX) return nothing;
    for (size_t i = 0; ref && i < r->n_open; i++)
        if (str_eq(r->open[i], ref)) return nothing;
    r->open[r->n_open++] = ref;
    struct json *out = resolved_parts(r, ref ? json_get(r->schemas, ref) : s);
    r->n_open--;
    return out;
}

struct json *policy_schema(struct arena *a, const struct json *openapi, const char *group, const char *version,
                           const char *kind) {
    struct resolver r = {.a = a, .schemas = json_at(openapi, "components", "schemas", NULL)};
    JSON_FOREACH_MEMBER(m, r.schemas) {
        const struct json *it;
        JSON_FOREACH(it, json_get(m->value, "x-kubernetes-group-version-kind"))
            if (str_eq(json_get_str(it, "group"), group) && str_eq(json_get_str(it, "version"), version) &&
                str_eq(json_get_str(it, "kind"), kind))
                return resolved(&r, m->value);
    }
    return NULL;
}
