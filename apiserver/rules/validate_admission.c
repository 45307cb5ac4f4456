/* Webhook configurations and admission policies. Their expressions are compiled as they will be when a write is looked at;
 * what does not compile is refused with the compiler's words. Upstream: pkg/apis/admissionregistration/validation. */
#include <ctype.h>

#include "apiserver/rules/kinds.h"
#include "apiserver/rules/policy.h"

enum { MATCH_CONDITIONS_MAX = 64, AUDIT_ANNOTATIONS_MAX = 20, VALUE_EXPRESSION_MAX = 5 * 1024 };

static bool list_has(const struct json *list, const char *s) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(json_as_str(it), s)) return true;
    return false;
}

static const char *trimmed(struct arena *a, const char *s) {
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) n--;
    return arena_strndup(a, s, n);
}

/* An expression is there, and compiles. */
static void expression(struct vctx *v, const struct fp *p, const struct json *value, const char *missing,
                       const struct expr *x) {
    if (!*trimmed(v->a, str_or_empty(json_as_str(value)))) {
        v_required(v, p, missing);
    } else if (x->error) {
        const struct json *shown = str_eq(x->src, json_as_str(value)) ? value : json_str(v->a, x->src);
        v_invalid(v, p, shown, "%s", x->error);
    }
}

/* ---- webhooks ---- */

static void rule_list(struct vctx *v, const struct json *rule, const char *key, const struct fp *p) {
    const struct json *list = json_get(rule, key), *it;
    if (!json_len(list)) v_required(v, FP(p, key), NULL);
    if (json_len(list) > 1 && list_has(list, "*"))
        v_invalid(v, FP(p, key), list, "if '*' is present, must not specify other %s",
                  str_eq(key, "apiGroups") ? "API groups" : "API versions");
    JSON_FOREACH(it, list)
        if (!*str_or_empty(json_as_str(it)) && !str_eq(key, "apiGroups")) v_required(v, FPI(FP(p, key), it_i), NULL);
}

static void webhook_rule(struct vctx *v, const struct json *r, const struct fp *p) {
    static const char *const operations[] = {"*", "CONNECT", "CREATE", "DELETE", "UPDATE", NULL};
    const struct json *it, *ops = json_get(r, "operations"), *res = json_get(r, "resources");
    if (!json_len(ops)) v_required(v, FP(p, "operations"), NULL);
    if (json_len(ops) > 1 && list_has(ops, "*"))
        v_invalid(v, FP(p, "operations"), ops, "if '*' is present, must not specify other operations");
    JSON_FOREACH(it, ops)
        if (!str_in(str_or_empty(json_as_str(it)), operations))
            v_not_supported(v, FPI(FP(p, "operations"), it_i), it, operations);
    rule_list(v, r, "apiGroups", p);
    rule_list(v, r, "apiVersions", p);
    if (!json_len(res)) v_required(v, FP(p, "resources"), NULL);
    JSON_FOREACH(it, res)
        if (!*str_or_empty(json_as_str(it))) v_required(v, FPI(FP(p, "resources"), it_i), NULL);
    if (json_len(res) > 1 && list_has(res, "*/*"))
        v_invalid(v, FP(p, "resources"), res, "if '*/*' is present, must not specify other resources");
    v_enum(v, FP(p, "scope"), json_get(r, "scope"), ONE_OF("*", "Cluster", "Namespaced"), false);
}

/* As Go's url.Parse: no control characters, whole escapes, a scheme or no colon in the first segment. */
static bool url_parses(const char *s) {
    size_t n = strcspn(s, ":/?#");
    for (const char *q = s; *q; q++)
        if ((unsigned char)*q < ' ' || *q == 0x7f ||
            (*q == '%' && !(isxdigit((unsigned char)q[1]) && isxdigit((unsigned char)q[2]))))
            return false;
    if (s[n] != ':') return true;
    if (!n) return false;
    return is_absolute_uri(s);
}

static void webhook_url(struct vctx *v, const struct json *value, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(value)), *host = strstr(s, "://");
    size_t scheme = strcspn(s, ":/?#");
    if (!url_parses(s)) {
        v_required(v, p, "url must be a valid URL");
        return;
    }
    host = host && host == s + scheme ? host + 3 : str_has_prefix(s, "//") ? s + 2 : "";
    size_t n = strcspn(host, "/?#");
    const char *at = memrchr(host, '@', n), *query = strchr(s, '?'), *fragment = strchr(s, '#');
    if (scheme != 5 || strncasecmp(s, "https:", 6) != 0)
        v_invalid(v, p, value, "'https' is the only allowed URL scheme");
    if (at ? at + 1 == host + n : !n) v_invalid(v, p, value, "host must be specified");
    if (at) v_invalid(v, p, value, "user information is not permitted in the URL");
    if (fragment && fragment[1]) v_invalid(v, p, value, "fragments are not permitted in the URL");
    if (query && (!fragment || query < fragment) && query[1] && query[1] != '#')
        v_invalid(v, p, value, "query parameters are not permitted in the URL");
}

/* "/a/b": of DNS subdomains. */
static void service_path(struct vctx *v, const struct json *value, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(value));
    if (!*s || str_eq(s, "/")) return;
    if (str_eq(s, "//")) {
        v_invalid(v, p, value, "segment[0] may not be empty");
        return;
    }
    if (*s != '/') v_invalid(v, p, value, "must start with a '/'");
    size_t len = strlen(++s);
    if (len && s[len - 1] == '/') len--;
    s = arena_strndup(v->a, s, len);
    for (const char *end; s; s = *end ? end + 1 : NULL) {
        end = strchrnul(s, '/');
        if (end == s)
            v_invalid(v, p, value, "a segment may not be empty");
        else
            v_subdomain(v, p, json_str(v->a, arena_strndup(v->a, s, (size_t)(end - s))));
    }
}

void validate_webhook_client(struct vctx *v, const struct json *cc, const struct fp *p) {
    const struct json *svc = jget(cc, "service"), *url = jget(cc, "url");
    const struct fp *sp = FP(p, "service");
    if (!url == !svc) {
        v_required(v, p, "exactly one of url or service is required");
    } else if (url) {
        webhook_url(v, url, FP(p, "url"));
    } else {
        int64_t port = json_get_int(svc, "port", 443);
        /* upstream hands the two names over in the wrong order, so that each is missed where the other is */
        if (!*jstr(svc, "namespace")) v_required(v, FP(sp, "name"), NULL);
        if (!*jstr(svc, "name")) v_required(v, FP(sp, "namespace"), NULL);
        if (port < 1 || port > 65535) v_invalid(v, FP(sp, "port"), json_get(svc, "port"), "port is not valid");
        service_path(v, json_get(svc, "path"), FP(sp, "path"));
    }
}

void validate_review_versions(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    bool known = false;
    if (!json_len(list)) v_required(v, p, "must specify one of v1, v1beta1");
    JSON_FOREACH(it, list) {
        bool again = false;
        for (size_t j = 0; j < it_i; j++) again |= json_equal(json_item(list, j), it);
        if (again) {
            v_invalid(v, FPI(p, it_i), it, "duplicate version");
            continue;
        }
        v_label1035(v, FPI(p, it_i), it);
        known |= str_in(str_or_empty(json_as_str(it)), ONE_OF("v1", "v1beta1"));
    }
    if (json_len(list) && !known) v_invalid(v, p, list, "must include at least one of v1, v1beta1");
}

/* "a.b.c": a DNS subdomain of at least three labels. */
static void qualified_domain(struct vctx *v, const struct fp *p, const struct json *x) {
    const char *s = str_or_empty(json_as_str(x)), *dot = strchr(s, '.');
    if (!*s)
        v_required(v, p, NULL);
    else if (is_dns1123_subdomain(s))
        v_invalid(v, p, x, "%s", is_dns1123_subdomain(s));
    else if (!dot || !strchr(dot + 1, '.'))
        v_invalid(v, p, x, "should be a domain with at least three segments separated by dots");
}

/* `compiled`: what became of their expressions, in order. */
static void match_conditions(struct vctx *v, const struct json *list, const struct expr *compiled, const struct fp *p) {
    const struct json *it;
    if (json_len(list) > MATCH_CONDITIONS_MAX) v_too_many(v, p, json_len(list), MATCH_CONDITIONS_MAX);
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(p, it_i), *name = FP(at, "name");
        expression(v, FP(at, "expression"), json_get(it, "expression"), NULL, &compiled[it_i]);
        if (!*jstr(it, "name"))
            v_required(v, name, NULL);
        else
            v_label_name(v, name, jstr(it, "name"));
        for (size_t j = 0; *jstr(it, "name") && j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), jstr(it, "name"))) {
                v_duplicate(v, name, json_get(it, "name"));
                break;
            }
    }
}

/* The matchConditions of a webhook, compiled as they will be. Those of an unchanged object are not looked at again. */
static void hook_conditions(struct vctx *v, const struct json *list, const struct json *before, const struct fp *p) {
    static const char *const bools[] = {"bool", NULL};
    const struct json *it;
    if (!json_len(list) || jsame(list, before)) return;
    struct cel_policy_env *env = cel_policy_env_new(v->a, CEL_DECL_AUTHORIZER, NULL, NULL, NULL);
    struct expr *compiled = arena_zalloc(v->a, json_len(list) * sizeof(*compiled));
    JSON_FOREACH(it, list) compiled[it_i] = expr_compile(v->a, env, "", trimmed(v->a, jstr(it, "expression")), bools);
    match_conditions(v, list, compiled, p);
}

VALIDATE_FN(webhooks) {
    const struct json *w, *it, *list = json_get(obj, "webhooks");
    JSON_FOREACH(w, list) {
        const struct fp *p = FPI(FP(NULL, "webhooks"), w_i);
        const struct json *versions = json_get(w, "admissionReviewVersions"), *timeout = jget(w, "timeoutSeconds");
        qualified_domain(v, FP(p, "name"), json_get(w, "name"));
        JSON_FOREACH(it, json_get(w, "rules")) webhook_rule(v, it, FPI(FP(p, "rules"), it_i));
        v_enum(v, FP(p, "failurePolicy"), json_get(w, "failurePolicy"), ONE_OF("Fail", "Ignore"), false);
        v_enum(v, FP(p, "matchPolicy"), json_get(w, "matchPolicy"), ONE_OF("Equivalent", "Exact"), false);
        v_enum(v, FP(p, "reinvocationPolicy"), json_get(w, "reinvocationPolicy"), ONE_OF("IfNeeded", "Never"), false);
        v_choice(v, FP(p, "sideEffects"), json_get(w, "sideEffects"), ONE_OF("None", "NoneOnDryRun"));
        int64_t t = json_as_int(timeout, 10);
        if (t < 1 || t > 30)
            v_invalid(v, FP(p, "timeoutSeconds"), timeout, "the timeout value must be between 1 and 30 seconds");
        v_label_selector(v, FP(p, "namespaceSelector"), json_get(w, "namespaceSelector"), false);
        v_label_selector(v, FP(p, "objectSelector"), json_get(w, "objectSelector"), false);
        validate_webhook_client(v, json_get(w, "clientConfig"), FP(p, "clientConfig"));
        hook_conditions(v, json_get(w, "matchConditions"),
                        json_get(json_item(json_get(old, "webhooks"), w_i), "matchConditions"),
                        FP(p, "matchConditions"));
        validate_review_versions(v, versions, FP(p, "admissionReviewVersions"));
        for (size_t j = 0; *jstr(w, "name") && j < w_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), jstr(w, "name"))) {
                v_duplicate(v, FP(p, "name"), json_get(w, "name"));
                break;
            }
    }
}

/* ---- admission policies ---- */

static void named_rule(struct vctx *v, const struct json *r, const struct fp *p) {
    const struct json *names = json_get(r, "resourceNames"), *it;
    JSON_FOREACH(it, names) {
        const struct fp *at = FPI(FP(p, "resourceNames"), it_i);
        const char *wrong = is_path_segment(str_or_empty(json_as_str(it)));
        if (wrong) v_invalid(v, at, it, "%s", wrong);
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(json_as_str(json_item(names, j)), json_as_str(it))) {
                v_duplicate(v, at, it);
                break;
            }
    }
    webhook_rule(v, r, p);
}

static void match_resources(struct vctx *v, const struct json *m, const struct fp *p) {
    static const char *const lists[] = {"resourceRules", "excludeResourceRules"};
    const struct json *it;
    v_choice(v, FP(p, "matchPolicy"), json_get(m, "matchPolicy"), ONE_OF("Equivalent", "Exact"));
    v_label_selector(v, FP(p, "namespaceSelector"), json_get(m, "namespaceSelector"), false);
    v_label_selector(v, FP(p, "objectSelector"), json_get(m, "objectSelector"), false);
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH(it, json_get(m, lists[i])) named_rule(v, it, FPI(FP(p, lists[i]), it_i));
}

/* Mutations have no use for DELETE. */
static void mutable_operations(struct vctx *v, const struct json *m, const struct fp *p) {
    static const char *const allowed[] = {"*", "CONNECT", "CREATE", "UPDATE", NULL};
    const struct json *r, *op;
    JSON_FOREACH(r, json_get(m, "resourceRules"))
        JSON_FOREACH(op, json_get(r, "operations"))
            if (!str_in(str_or_empty(json_as_str(op)), allowed))
                v_not_supported(v, FP(FP(p, "resourceRules"), "operations"), op, allowed);
}

static void param_kind(struct vctx *v, const struct json *k, const struct fp *p) {
    const char *gv = jstr(k, "apiVersion"), *kind = jstr(k, "kind"), *slash = strchr(gv, '/');
    char *lower = arena_strdup(v->a, kind);
    for (char *q = lower; *q; q++) *q = (char)tolower((unsigned char)*q);
    const char *group = slash ? arena_strndup(v->a, gv, (size_t)(slash - gv)) : "", *version = slash ? slash + 1 : gv;
    if (!*gv)
        v_required(v, FP(p, "apiVersion"), NULL);
    else if (strchr(version, '/'))
        v_invalid(v, FP(p, "apiVersion"), json_get(k, "apiVersion"), "unexpected GroupVersion string: %s", gv);
    else if (*group && is_dns1123_subdomain(group))
        v_invalid(v, FP(p, "apiVersion"), json_str(v->a, group), "%s", is_dns1123_subdomain(group));
    else if (!*version)
        v_invalid(v, FP(p, "apiVersion"), json_get(k, "apiVersion"), "version must be specified");
    else if (is_dns1035_label(version))
        v_invalid(v, FP(p, "apiVersion"), json_str(v->a, version), "%s", is_dns1035_label(version));
    if (!*kind)
        v_required(v, FP(p, "kind"), NULL);
    else if (is_dns1035_label(lower))
        v_invalid(v, FP(p, "kind"), json_get(k, "kind"), "may have mixed case, but should otherwise match: %s",
                  is_dns1035_label(lower));
}

static bool is_cel_identifier(const char *s) {
    static const char *const reserved[] = {
        "true", "false",  "null", "in",   "as",      "break",     "const",  "continue", "else", "for",   "function",
        "if",   "import", "let",  "loop", "package", "namespace", "return", "var",      "void", "while", NULL};
    return is_c_identifier(s) && !str_in(s, reserved);
}

/* What both kinds of policy have. */
static void policy_common(struct vctx *v, const struct json *spec, const struct json *before, const struct policy *p,
                          const struct fp *at) {
    const struct json *m = jget(spec, "matchConstraints"), *it;
    v_choice(v, FP(at, "failurePolicy"), json_get(spec, "failurePolicy"), ONE_OF("Fail", "Ignore"));
    if (p->has_params) param_kind(v, json_get(spec, "paramKind"), FP(at, "paramKind"));
    if (!m) {
        v_required(v, FP(at, "matchConstraints"), NULL);
    } else {
        match_resources(v, m, FP(at, "matchConstraints"));
        if (!json_len(json_get(m, "resourceRules")))
            v_required(v, FP(FP(at, "matchConstraints"), "resourceRules"), NULL);
    }
    if (!before || !jsame(json_get(spec, "matchConditions"), json_get(before, "matchConditions")))
        match_conditions(v, json_get(spec, "matchConditions"), p->conditions, FP(at, "matchConditions"));
    JSON_FOREACH(it, json_get(spec, "variables")) {
        const struct fp *x = FPI(FP(at, "variables"), it_i);
        if (!*trimmed(v->a, jstr(it, "name")))
            v_required(v, FP(x, "name"), "name is not specified");
        else if (!is_cel_identifier(jstr(it, "name")))
            v_invalid(v, FP(x, "name"), json_get(it, "name"), "must be a valid CEL identifier");
        expression(v, FP(x, "expression"), json_get(it, "expression"), "expression is not specified",
                   &p->variables[it_i]);
    }
}

static void validation(struct vctx *v, const struct json *it, const struct policy_validation *c, const struct fp *at) {
    static const char *const reasons[] = {"Forbidden", "Invalid", "RequestEntityTooLarge", NULL};
    const char *message = jstr(it, "message"), *words = jstr(it, "messageExpression");
    expression(v, FP(at, "expression"), json_get(it, "expression"), "expression is not specified", &c->check);
    if (*words && !*trimmed(v->a, words))
        v_invalid(v, FP(at, "messageExpression"), json_get(it, "messageExpression"), "must be non-empty if specified");
    else if (*words && c->message.error)
        v_invalid(v, FP(at, "messageExpression"), json_get(it, "messageExpression"), "%s", c->message.error);
    if (*message && !*trimmed(v->a, message))
        v_invalid(v, FP(at, "message"), json_get(it, "message"), "must be non-empty if specified");
    else if (strpbrk(trimmed(v->a, message), "\r\n"))
        v_invalid(v, FP(at, "message"), json_get(it, "message"), "must not contain line breaks");
    v_enum(v, FP(at, "reason"), json_get(it, "reason"), reasons, false);
}

static void audit_annotation(struct vctx *v, const struct json *list, const struct json *it, size_t i,
                             const char *policy, const struct expr *x, const struct fp *at) {
    const char *key = jstr(it, "key");
    if (!*policy)
        v_invalid(v, FP(at, "key"), json_get(it, "key"), "requires metadata.name be non-empty");
    else
        v_label_name(v, FP(at, "key"), arena_printf(v->a, "%s/%s", policy, key));
    if (strlen(trimmed(v->a, jstr(it, "valueExpression"))) > VALUE_EXPRESSION_MAX)
        v_required(v, FP(at, "valueExpression"), "must not exceed 5120 bytes in length");
    else if (x->error && *x->src)
        v_invalid(v, FP(at, "valueExpression"), json_get(it, "valueExpression"), "%s", x->error);
    else
        expression(v, FP(at, "valueExpression"), json_get(it, "valueExpression"), "valueExpression is not specified",
                   x);
    for (size_t j = 0; j < i; j++)
        if (str_eq(jstr(json_item(list, j), "key"), key)) {
            v_duplicate(v, FP(at, "key"), json_get(it, "key"));
            break;
        }
}

VALIDATE_FN(admission_policy) {
    const struct json *spec = json_get(obj, "spec"), *it;
    const struct json *checks = json_get(spec, "validations"), *notes = json_get(spec, "auditAnnotations");
    const struct fp *p = FP(NULL, "spec");
    const struct policy *c = policy_compile(v->a, obj, false, NULL, NULL);
    policy_common(v, spec, json_get(old, "spec"), c, p);
    if (!json_len(checks) && !json_len(notes)) {
        v_required(v, FP(p, "validations"), "validations or auditAnnotations must contain at least one item");
        v_required(v, FP(p, "auditAnnotations"), "validations or auditAnnotations must contain at least one item");
    }
    JSON_FOREACH(it, checks) validation(v, it, &c->validations[it_i], FPI(FP(p, "validations"), it_i));
    if (json_len(notes) > AUDIT_ANNOTATIONS_MAX)
        v_invalid(v, FP(p, "auditAnnotations"), notes, "must not have more than %d auditAnnotations",
                  AUDIT_ANNOTATIONS_MAX);
    JSON_FOREACH(it, notes)
        audit_annotation(v, notes, it, it_i, c->name, &c->annotations[it_i], FPI(FP(p, "auditAnnotations"), it_i));
}

static void mutation(struct vctx *v, const struct json *m, const struct expr *x, const struct fp *at) {
    static const char *const types[] = {"ApplyConfiguration", "JSONPatch", NULL};
    const struct json *patch = jget(m, "jsonPatch"), *apply = jget(m, "applyConfiguration");
    const char *type = jstr(m, "patchType");
    v_enum(v, FP(at, "patchType"), json_get(m, "patchType"), types, true);
    if (!str_in(type, types)) return;
    bool is_patch = str_eq(type, "JSONPatch");
    const struct json *mine = is_patch ? patch : apply, *other = is_patch ? apply : patch;
    const char *key = is_patch ? "jsonPatch" : "applyConfiguration",
               *not_key = is_patch ? "applyConfiguration" : "jsonPatch";
    if (!mine)
        v_required(v, FP(at, key), arena_printf(v->a, "must be specified when patchType is %s", type));
    else
        expression(v, FP(FP(at, key), "expression"), json_get(mine, "expression"), NULL, x);
    if (other)
        v_invalid(v, FP(at, not_key), json_strf(v->a, "{%s}", not_key), "must not be specified when patchType is %s",
                  type);
}

VALIDATE_FN(mutating_policy) {
    const struct json *spec = json_get(obj, "spec"), *list = json_get(spec, "mutations"), *it;
    const struct fp *p = FP(NULL, "spec");
    const struct policy *c = policy_compile(v->a, obj, true, NULL, NULL);
    policy_common(v, spec, json_get(old, "spec"), c, p);
    mutable_operations(v, jget(spec, "matchConstraints"), FP(p, "matchConstraints"));
    if (!json_len(list)) v_required(v, FP(p, "mutations"), "mutations must contain at least one item");
    JSON_FOREACH(it, list) mutation(v, it, &c->mutations[it_i].expr, FPI(FP(p, "mutations"), it_i));
    v_enum(v, FP(p, "reinvocationPolicy"), json_get(spec, "reinvocationPolicy"), ONE_OF("IfNeeded", "Never"), true);
}

/* ---- bindings ---- */

static void param_ref(struct vctx *v, const struct json *ref, const struct fp *p) {
    const char *name = jstr(ref, "name"), *wrong = *name ? is_path_segment(name) : NULL;
    const struct json *selector = jget(ref, "selector");
    if (wrong) v_invalid(v, FP(p, "name"), json_get(ref, "name"), "%s", wrong);
    if (*name && selector) v_forbidden(v, FP(p, "name"), "name and selector are mutually exclusive");
    if (selector) v_label_selector(v, FP(p, "selector"), selector, false);
    if (*name && selector) v_forbidden(v, FP(p, "selector"), "name and selector are mutually exclusive");
    if (!*name && !selector) v_required(v, p, "one of name or selector must be specified");
    v_enum(v, FP(p, "parameterNotFoundAction"), json_get(ref, "parameterNotFoundAction"), ONE_OF("Deny", "Allow"),
           true);
}

static void binding_common(struct vctx *v, const struct json *spec, const struct fp *p) {
    const char *name = jstr(spec, "policyName");
    if (!*name)
        v_required(v, FP(p, "policyName"), NULL);
    else
        v_subdomain(v, FP(p, "policyName"), json_get(spec, "policyName"));
    if (jget(spec, "paramRef")) param_ref(v, json_get(spec, "paramRef"), FP(p, "paramRef"));
    if (jget(spec, "matchResources")) match_resources(v, json_get(spec, "matchResources"), FP(p, "matchResources"));
}

VALIDATE_FN(admission_policy_binding) {
    static const char *const actions[] = {"Audit", "Deny", "Warn", NULL};
    const struct json *spec = json_get(obj, "spec"), *list = json_get(spec, "validationActions"), *it;
    const struct fp *p = FP(FP(NULL, "spec"), "validationActions");
    binding_common(v, spec, FP(NULL, "spec"));
    JSON_FOREACH(it, list) {
        if (!str_in(str_or_empty(json_as_str(it)), actions)) v_not_supported(v, FPI(p, it_i), it, actions);
        for (size_t j = 0; j < it_i; j++)
            if (json_equal(json_item(list, j), it)) {
                v_duplicate(v, FPI(p, it_i), it);
                break;
            }
    }
    if (list_has(list, "Deny") && list_has(list, "Warn"))
        v_invalid(v, p, list,
                  "must not contain both Deny and Warn (repeating the same validation failure information in the "
                  "API response and headers serves no purpose)");
    if (!json_len(list)) v_required(v, p, "at least one validation action is required");
}

VALIDATE_FN(mutating_policy_binding) {
    const struct json *spec = json_get(obj, "spec");
    binding_common(v, spec, FP(NULL, "spec"));
    mutable_operations(v, jget(spec, "matchResources"), FP(FP(NULL, "spec"), "matchResources"));
}
