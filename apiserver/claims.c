#include "apiserver/claims.h"

#include <ctype.h>

#include "pkg/cel/cel.h"

enum { RULES_MAX = 64, VALUES_MAX = 1000 };

struct mapped { /* a claim with a prefix, or an expression; neither: not mapped */
    const char *claim, *prefix;
    const struct cel_prog *prog;
};
struct rule {
    const char *claim, *value; /* or: */
    const struct cel_prog *prog;
    const char *text, *message;
};
struct extra {
    const char *key;
    struct mapped value;
};
struct claim_map {
    struct arena *arena;
    struct cel_env *claims, *user;
    struct mapped username, groups, uid;
    struct extra *extra;
    struct rule *rules, *user_rules;
    size_t n_extra, n_rules, n_user_rules;
};

/* ---- reading ---- */

static const struct cel_type *user_type(struct arena *a) {
    struct cel_type *t = cel_type_object(a, "kubernetes.UserInfo");
    const struct cel_type *strings = cel_type_list(a, &cel_t_string);
    cel_type_add_field(a, t, "username", &cel_t_string);
    cel_type_add_field(a, t, "uid", &cel_t_string);
    cel_type_add_field(a, t, "groups", strings);
    cel_type_add_field(a, t, "extra", cel_type_map(a, &cel_t_string, strings));
    return t;
}

static const char *text_of(const struct json *o, const char *key) { return str_or_empty(json_get_str(o, key)); }

static int compile(struct claim_map *m, const struct cel_env *env, const char *src, bool want_bool, const char *field,
                   const struct cel_prog **out, struct err *e) {
    const char *issues = NULL;
    if (cel_compile(m->arena, env, src, out, &issues))
        return err_set(e, -EINVAL, "%s: Invalid value: \"%s\": compilation failed: %s", field, src,
                       str_or_empty(issues));
    if (want_bool && cel_type_kind(cel_prog_type(*out)) != CEL_BOOL)
        return err_set(e, -EINVAL, "%s: Invalid value: \"%s\": must evaluate to bool", field, src);
    return 0;
}

static int read_mapped(struct claim_map *m, const struct json *o, const char *field, bool prefixed, bool required,
                       struct mapped *out, struct err *e) {
    const char *claim = text_of(o, "claim"), *src = text_of(o, "expression"), *prefix = json_get_str(o, "prefix");
    if (*claim && *src) return err_set(e, -EINVAL, "%s: claim and expression can't both be set", field);
    if (!*claim && !*src)
        return required ? err_set(e, -EINVAL, "%s: Required value: claim or expression is required", field) : 0;
    *out = (struct mapped){.claim = *claim ? claim : NULL, .prefix = str_or_empty(prefix)};
    if (*claim && prefixed && !prefix)
        return err_set(e, -EINVAL,
                       "%s.prefix: Required value: prefix is required when claim is set. It can be set to an empty "
                       "string to disable prefixing",
                       field);
    if (*src && prefix) return err_set(e, -EINVAL, "%s.prefix: may not be specified when expression is set", field);
    if (!*src) return 0;
    return compile(m, m->claims, src, false, arena_printf(m->arena, "%s.expression", field), &out->prog, e);
}

static int read_rules(struct claim_map *m, const struct json *list, bool of_user, struct err *e) {
    const char *name = of_user ? "userValidationRules" : "claimValidationRules";
    struct rule *rules = arena_zalloc(m->arena, (json_len(list) + 1) * sizeof(*rules));
    const struct json *it;
    if (json_len(list) > RULES_MAX) return err_set(e, -EINVAL, "%s: must have at most %d items", name, RULES_MAX);
    JSON_FOREACH(it, list) {
        const char *claim = of_user ? "" : text_of(it, "claim"), *src = text_of(it, "expression");
        const char *field = arena_printf(m->arena, "%s[%zu]", name, it_i);
        struct rule *r = &rules[it_i];
        *r = (struct rule){.claim = *claim ? claim : NULL,
                           .value = text_of(it, "requiredValue"),
                           .text = src,
                           .message = text_of(it, "message")};
        if (*claim && *src) return err_set(e, -EINVAL, "%s: claim and expression can't both be set", field);
        if (!*claim && !*src) return err_set(e, -EINVAL, "%s: Required value: claim or expression is required", field);
        if (!*src) continue;
        int rc = compile(m, of_user ? m->user : m->claims, src, true, arena_printf(m->arena, "%s.expression", field),
                         &r->prog, e);
        if (rc) return rc;
    }
    *(of_user ? &m->user_rules : &m->rules) = rules;
    *(of_user ? &m->n_user_rules : &m->n_rules) = json_len(list);
    return 0;
}

static bool reserved_key(const char *key) {
    static const char *const domains[] = {"kubernetes.io", "k8s.io"};
    _cleanup_free_ char *domain = xstrndup(key, strcspn(key, "/"));
    for (size_t i = 0; i < ARRAY_LEN(domains); i++) {
        size_t n = strlen(domain), d = strlen(domains[i]);
        if (n >= d && strcmp(domain + n - d, domains[i]) == 0 && (n == d || domain[n - d - 1] == '.')) return true;
    }
    return false;
}

static int read_extra(struct claim_map *m, const struct json *list, struct err *e) {
    const struct json *it;
    m->extra = arena_zalloc(m->arena, (json_len(list) + 1) * sizeof(*m->extra));
    if (json_len(list) > RULES_MAX) return err_set(e, -EINVAL, "extra: must have at most %d items", RULES_MAX);
    JSON_FOREACH(it, list) {
        const char *field = arena_printf(m->arena, "claimMappings.extra[%zu]", it_i), *key = text_of(it, "key");
        struct extra *x = &m->extra[m->n_extra++];
        const char *slash = strchr(key, '/');
        if (!slash || slash == key || !slash[1])
            return err_set(e, -EINVAL, "%s.key: Invalid value: \"%s\": must be a domain-prefixed path", field, key);
        for (const char *p = key; *p; p++)
            if (isupper((unsigned char)*p)) return err_set(e, -EINVAL, "%s.key: must be lowercase", field);
        if (reserved_key(key))
            return err_set(e, -EINVAL,
                           "%s.key: k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use", field);
        for (size_t i = 0; i + 1 < m->n_extra; i++)
            if (str_eq(m->extra[i].key, key)) return err_set(e, -EINVAL, "%s.key: Duplicate value: \"%s\"", field, key);
        x->key = key;
        if (!*text_of(it, "valueExpression")) return err_set(e, -EINVAL, "%s.valueExpression: Required value", field);
        int rc = compile(m, m->claims, text_of(it, "valueExpression"), false,
                         arena_printf(m->arena, "%s.valueExpression", field), &x->value.prog, e);
        if (rc) return rc;
    }
    return 0;
}

/* Whether an expression reads claims.NAME. */
static bool reads_claim(const char *src, const char *name) {
    static const char *const forms[] = {"claims.", "claims.?"};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++)
        for (const char *p = src; (p = strstr(p, forms[i])); p++) {
            const char *at = p + strlen(forms[i]), *end = at + strlen(name);
            if (str_has_prefix(at, name) && !isalnum((unsigned char)*end) && *end != '_') return true;
        }
    return false;
}

/* Who uses the email must look at whether it is verified. */
static int check_email(struct claim_map *m, const struct json *jwt, struct err *e) {
    const struct json *map = json_get(jwt, "claimMappings"), *it;
    const char *name = text_of(json_get(map, "username"), "expression");
    bool verified = reads_claim(name, "email_verified");
    if (!reads_claim(name, "email")) return 0;
    JSON_FOREACH(it, json_get(map, "extra")) verified |= reads_claim(text_of(it, "valueExpression"), "email_verified");
    JSON_FOREACH(it, json_get(jwt, "claimValidationRules"))
        verified |= reads_claim(text_of(it, "expression"), "email_verified");
    if (verified) return 0;
    return err_set(e, -EINVAL,
                   "claimMappings.username.expression: claims.email_verified must be used in "
                   "claimMappings.username.expression or claimMappings.extra[*].valueExpression or "
                   "claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression");
}

int claim_map_new(const struct json *jwt, struct claim_map **out, struct err *e) {
    struct claim_map *m = xcalloc(1, sizeof(*m));
    m->arena = arena_new_sized(1024);
    const struct json *own = json_clone(m->arena, jwt), *map = json_get(own, "claimMappings");
    m->claims = cel_env_new(m->arena, CEL_LIB_K8S);
    m->user = cel_env_new(m->arena, CEL_LIB_K8S);
    cel_env_var(m->claims, "claims", cel_type_map(m->arena, &cel_t_string, &cel_t_dyn));
    cel_env_var(m->user, "user", user_type(m->arena));
    int rc = read_mapped(m, json_get(map, "username"), "claimMappings.username", true, true, &m->username, e);
    if (!rc) rc = read_mapped(m, json_get(map, "groups"), "claimMappings.groups", true, false, &m->groups, e);
    if (!rc) rc = read_mapped(m, json_get(map, "uid"), "claimMappings.uid", false, false, &m->uid, e);
    if (!rc) rc = read_extra(m, json_get(map, "extra"), e);
    if (!rc) rc = read_rules(m, json_get(own, "claimValidationRules"), false, e);
    if (!rc) rc = read_rules(m, json_get(own, "userValidationRules"), true, e);
    if (!rc) rc = check_email(m, own, e);
    if (rc) {
        claim_map_free(m);
        return rc;
    }
    *out = m;
    return 0;
}

void claim_map_free(struct claim_map *m) {
    if (!m) return;
    arena_free(m->arena);
    free(m);
}

/* ---- mapping ---- */

static int evaluate(struct arena *a, const struct cel_prog *p, const struct json *of, const char *what,
                    struct cel_val *out, struct err *e) {
    struct cel_val var = cel_json(a, of, NULL);
    struct cel_run run = {.arena = a, .vars = &var, .n_vars = 1};
    if (cel_eval(p, &run, out))
        return err_set(e, -EACCES, "oidc: %s: %s", what, out->kind == CEL_ERR ? out->s : "failed");
    return 0;
}

/* The value of a mapping as JSON; NULL: there is none. */
static int value_of(struct arena *a, const struct mapped *x, const struct json *claims, const char *what,
                    const struct json **out, struct err *e) {
    struct cel_val v;
    struct json *j = NULL;
    *out = x->claim ? json_get(claims, x->claim) : NULL;
    if (!x->prog) return 0;
    int rc = evaluate(a, x->prog, claims, what, &v, e);
    if (rc) return rc;
    if (v.kind != CEL_STRING && v.kind != CEL_LIST && v.kind != CEL_NULL)
        return err_set(e, -EACCES, "oidc: %s is neither a string nor a list of strings", what);
    if (v.kind != CEL_NULL && cel_to_json(a, v, &j, NULL)) return err_set(e, -EACCES, "oidc: %s is no JSON", what);
    *out = j;
    return 0;
}

static int text_value(struct arena *a, const struct mapped *x, const struct json *claims, const char *what,
                      const char **out, struct err *e) {
    const struct json *v;
    int rc = value_of(a, x, claims, what, &v, e);
    if (rc) return rc;
    *out = json_as_str(v) ? arena_printf(a, "%s%s", str_or_empty(x->prefix), json_as_str(v)) : NULL;
    if (str_empty(json_as_str(v))) *out = NULL;
    return 0;
}

/* A string or a list of them; empty ones are left out of what expressions give. */
static int list_value(struct arena *a, const struct mapped *x, const struct json *claims, const char *what,
                      const char ***out, size_t *n, struct err *e) {
    const struct json *v, *it;
    int rc = value_of(a, x, claims, what, &v, e);
    if (rc) return rc;
    *out = arena_alloc(a, (json_len(v) + 3) * sizeof(char *));
    *n = 0;
    if (!v || (json_as_str(v) && x->prog && !*json_as_str(v))) return 0;
    if (json_as_str(v)) (*out)[(*n)++] = arena_printf(a, "%s%s", str_or_empty(x->prefix), json_as_str(v));
    if (!json_as_str(v) && (!json_is(v, JSON_ARRAY) || json_len(v) > VALUES_MAX))
        return err_set(e, -EACCES, "oidc: %s is no list of strings", what);
    JSON_FOREACH(it, v) {
        const char *s = json_as_str(it);
        if (!s) return err_set(e, -EACCES, "oidc: %s is no list of strings", what);
        if (*s || !x->prog) (*out)[(*n)++] = arena_printf(a, "%s%s", str_or_empty(x->prefix), s);
    }
    return 0;
}

static int check_rules(struct arena *a, const struct rule *rules, size_t n, const struct json *of, struct err *e) {
    for (size_t i = 0; i < n; i++) {
        const struct rule *r = &rules[i];
        struct cel_val v;
        if (r->claim) {
            if (!str_eq(json_get_str(of, r->claim), r->value))
                return err_set(e, -EACCES, "oidc: claim %s is not what it must be", r->claim);
            continue;
        }
        int rc = evaluate(a, r->prog, of, "a validation rule", &v, e);
        if (rc) return rc;
        if (v.kind != CEL_BOOL || !v.b)
            return err_set(e, -EACCES, "oidc: %s",
                           *r->message ? r->message : arena_printf(a, "validation expression '%s' failed", r->text));
    }
    return 0;
}

static int add_extra(const struct claim_map *m, struct arena *a, const struct json *claims, struct user_info *u,
                     struct err *e) {
    u->extra = arena_alloc(a, (m->n_extra + 1) * sizeof(*u->extra));
    for (size_t i = 0; i < m->n_extra; i++) {
        struct user_extra x = {.key = m->extra[i].key};
        int rc = list_value(a, &m->extra[i].value, claims, x.key, &x.values, &x.n, e);
        if (rc) return rc;
        if (x.n) u->extra[u->n_extra++] = x;
    }
    return 0;
}

int claim_map_user(const struct claim_map *m, struct arena *a, const struct json *claims, struct user_info *out,
                   struct err *e) {
    struct user_info u = {.uid = ""};
    const char *uid = NULL;
    int rc = check_rules(a, m->rules, m->n_rules, claims, e);
    if (!rc) rc = text_value(a, &m->username, claims, "the user name", &u.name, e);
    if (!rc && !u.name)
        rc = err_set(e, -EACCES, "oidc: claim %s does not name a user",
                     m->username.claim ? m->username.claim : "mapping");
    if (!rc && str_eq(m->username.claim, "email") && !json_get_bool(claims, "email_verified", true))
        rc = err_set(e, -EACCES, "oidc: the email is not verified");
    if (!rc) rc = list_value(a, &m->groups, claims, "the groups", &u.groups, &u.n_groups, e);
    if (!rc) rc = text_value(a, &m->uid, claims, "the uid", &uid, e);
    if (!rc && uid) u.uid = uid;
    if (!rc) rc = add_extra(m, a, claims, &u, e);
    if (!rc && m->n_user_rules) rc = check_rules(a, m->user_rules, m->n_user_rules, user_to_json(a, &u), e);
    if (!rc) *out = u;
    return rc;
}
