/* Kinds of the cluster's machinery: webhook configurations and admission policies, flow control,
 * certificate requests, resource claims. Upstream: the validation package of each group.
 */
#include "apiserver/rules/kinds.h"
#include "pkg/base/bytes.h"

enum {
    MATCHING_PRECEDENCE_MAX = 10000,
    QUEUES_MAX = 10000000,
    CSR_EXPIRATION_MIN = 600,
};

static bool list_has(const struct json *list, const char *s) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(json_as_str(it), s)) return true;
    return false;
}

/* ---- webhooks ---- */

static void rule_list(struct vctx *v, const struct json *rule, const char *key, const struct fp *p) {
    const struct json *list = json_get(rule, key), *it;
    if (!json_len(list)) v_required(v, FP(p, key), NULL);
    if (json_len(list) > 1 && list_has(list, "*"))
        v_invalid(v, FP(p, key), list, "if '*' is present, must not specify other values");
    JSON_FOREACH(it, list)
        if (!*str_or_empty(json_as_str(it)) && !str_eq(key, "apiGroups"))
            v_required(v, FPI(FP(p, key), it_i), NULL);
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

void validate_webhook_client(struct vctx *v, const struct json *cc, const struct fp *p) {
    const char *url = json_get_str(cc, "url");
    const struct json *svc = jget(cc, "service");
    if (!url == !svc) {
        v_required(v, p, "exactly one of url or service is required");
    } else if (url) {
        if (!str_has_prefix(url, "https://"))
            v_invalid(v, FP(p, "url"), json_get(cc, "url"), "'https' is the only allowed URL scheme");
        else if (!url[8] || url[8] == '/')
            v_invalid(v, FP(p, "url"), json_get(cc, "url"), "host must be specified");
        if (strchr(url, '#'))
            v_invalid(v, FP(p, "url"), json_get(cc, "url"), "fragments are not permitted in the URL");
        if (strchr(url, '?'))
            v_invalid(v, FP(p, "url"), json_get(cc, "url"), "query parameters are not permitted in the URL");
    } else {
        const struct fp *sp = FP(p, "service");
        const char *path = json_get_str(svc, "path");
        int64_t port = json_get_int(svc, "port", 443);
        if (!*jstr(svc, "name")) v_required(v, FP(sp, "name"), "service name is required");
        if (!*jstr(svc, "namespace")) v_required(v, FP(sp, "namespace"), "service namespace is required");
        if (port < 1 || port > 65535)
            v_invalid(v, FP(sp, "port"), json_get(svc, "port"), "port is not valid");
        if (!str_empty(path) && path[0] != '/')
            v_invalid(v, FP(sp, "path"), json_get(svc, "path"), "must start with a '/'");
    }
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

static void match_conditions(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        if (!*jstr(it, "name"))
            v_required(v, FP(FPI(p, it_i), "name"), NULL);
        else
            v_label_name(v, FP(FPI(p, it_i), "name"), jstr(it, "name"));
        if (!*jstr(it, "expression")) v_required(v, FP(FPI(p, it_i), "expression"), NULL);
    }
}

VALIDATE_FN(webhooks) {
    const struct json *w, *it, *list = json_get(obj, "webhooks");
    JSON_FOREACH(w, list) {
        const struct fp *p = FPI(FP(NULL, "webhooks"), w_i);
        const struct json *versions = json_get(w, "admissionReviewVersions"),
                          *timeout = jget(w, "timeoutSeconds");
        qualified_domain(v, FP(p, "name"), json_get(w, "name"));
        JSON_FOREACH(it, json_get(w, "rules")) webhook_rule(v, it, FPI(FP(p, "rules"), it_i));
        v_enum(v, FP(p, "failurePolicy"), json_get(w, "failurePolicy"), ONE_OF("Fail", "Ignore"), false);
        v_enum(v, FP(p, "matchPolicy"), json_get(w, "matchPolicy"), ONE_OF("Equivalent", "Exact"), false);
        v_enum(v, FP(p, "reinvocationPolicy"), json_get(w, "reinvocationPolicy"), ONE_OF("IfNeeded", "Never"),
               false);
        v_enum(v, FP(p, "sideEffects"), json_get(w, "sideEffects"), ONE_OF("None", "NoneOnDryRun"), true);
        int64_t t = json_as_int(timeout, 10);
        if (t < 1 || t > 30)
            v_invalid(v, FP(p, "timeoutSeconds"), timeout,
                      "the timeout value must be between 1 and 30 seconds");
        v_label_selector(v, FP(p, "namespaceSelector"), json_get(w, "namespaceSelector"), false);
        v_label_selector(v, FP(p, "objectSelector"), json_get(w, "objectSelector"), false);
        validate_webhook_client(v, json_get(w, "clientConfig"), FP(p, "clientConfig"));
        match_conditions(v, json_get(w, "matchConditions"), FP(p, "matchConditions"));
        if (!json_len(versions))
            v_required(v, FP(p, "admissionReviewVersions"), "must specify one of v1, v1beta1");
        else if (!list_has(versions, "v1") && !list_has(versions, "v1beta1"))
            v_invalid(v, FP(p, "admissionReviewVersions"), versions,
                      "must include at least one of v1, v1beta1");
        for (size_t j = 0; *jstr(w, "name") && j < w_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), jstr(w, "name"))) {
                v_duplicate(v, FP(p, "name"), json_get(w, "name"));
                break;
            }
    }
}

/* ---- admission policies ---- */

static void match_resources(struct vctx *v, const struct json *m, const struct fp *p) {
    static const char *const lists[] = {"resourceRules", "excludeResourceRules"};
    const struct json *it;
    v_enum(v, FP(p, "matchPolicy"), json_get(m, "matchPolicy"), ONE_OF("Equivalent", "Exact"), true);
    v_label_selector(v, FP(p, "namespaceSelector"), json_get(m, "namespaceSelector"), false);
    v_label_selector(v, FP(p, "objectSelector"), json_get(m, "objectSelector"), false);
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH(it, json_get(m, lists[i])) webhook_rule(v, it, FPI(FP(p, lists[i]), it_i));
}

VALIDATE_FN(admission_policy) {
    static const char *const reasons[] = {"Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge",
                                          NULL};
    const struct json *spec = json_get(obj, "spec"), *m = jget(spec, "matchConstraints"), *it;
    const struct json *checks = json_get(spec, "validations"), *notes = json_get(spec, "auditAnnotations");
    const struct fp *p = FP(NULL, "spec");
    v_enum(v, FP(p, "failurePolicy"), json_get(spec, "failurePolicy"), ONE_OF("Fail", "Ignore"), true);
    if (!m) {
        v_required(v, FP(p, "matchConstraints"), NULL);
    } else {
        match_resources(v, m, FP(p, "matchConstraints"));
        if (!json_len(json_get(m, "resourceRules")))
            v_required(v, FP(FP(p, "matchConstraints"), "resourceRules"), NULL);
    }
    match_conditions(v, json_get(spec, "matchConditions"), FP(p, "matchConditions"));
    JSON_FOREACH(it, json_get(spec, "variables")) {
        const struct fp *at = FPI(FP(p, "variables"), it_i);
        if (!*jstr(it, "name"))
            v_required(v, FP(at, "name"), "name is not specified");
        else if (!is_c_identifier(jstr(it, "name")))
            v_invalid(v, FP(at, "name"), json_get(it, "name"), "must be a valid CEL identifier");
        if (!*jstr(it, "expression")) v_required(v, FP(at, "expression"), "expression is not specified");
    }
    if (!json_len(checks) && !json_len(notes)) {
        v_required(v, FP(p, "validations"), "validations or auditAnnotations must contain at least one item");
        v_required(v, FP(p, "auditAnnotations"),
                   "validations or auditAnnotations must contain at least one item");
    }
    JSON_FOREACH(it, checks) {
        const struct fp *at = FPI(FP(p, "validations"), it_i);
        if (!*jstr(it, "expression")) v_required(v, FP(at, "expression"), "expression is not specified");
        if (strchr(jstr(it, "message"), '\n'))
            v_invalid(v, FP(at, "message"), json_get(it, "message"), "must not contain line breaks");
        v_enum(v, FP(at, "reason"), json_get(it, "reason"), reasons, false);
    }
    JSON_FOREACH(it, notes) {
        const struct fp *at = FPI(FP(p, "auditAnnotations"), it_i);
        v_label_name(v, FP(at, "key"), jstr(it, "key"));
        if (!*jstr(it, "valueExpression"))
            v_required(v, FP(at, "valueExpression"), "valueExpression is not specified");
    }
}

VALIDATE_FN(admission_policy_binding) {
    static const char *const actions[] = {"Audit", "Deny", "Warn", NULL};
    const struct json *spec = json_get(obj, "spec"), *list = json_get(spec, "validationActions"), *it,
                      *ref = jget(spec, "paramRef");
    const struct fp *p = FP(NULL, "spec");
    const char *name = jstr(spec, "policyName");
    if (!*name)
        v_required(v, FP(p, "policyName"), NULL);
    else if (is_dns1123_subdomain(name))
        v_invalid(v, FP(p, "policyName"), json_get(spec, "policyName"), "%s", is_dns1123_subdomain(name));
    if (ref) {
        bool named = *jstr(ref, "name"), selects = jget(ref, "selector");
        if (named == selects) v_required(v, FP(p, "paramRef"), "one of name or selector must be specified");
        v_enum(v, FP(FP(p, "paramRef"), "parameterNotFoundAction"), json_get(ref, "parameterNotFoundAction"),
               ONE_OF("Allow", "Deny"), true);
    }
    if (jget(spec, "matchResources"))
        match_resources(v, json_get(spec, "matchResources"), FP(p, "matchResources"));
    if (!json_len(list))
        v_required(v, FP(p, "validationActions"), "at least one validation action is required");
    JSON_FOREACH(it, list)
        if (!str_in(str_or_empty(json_as_str(it)), actions))
            v_not_supported(v, FPI(FP(p, "validationActions"), it_i), it, actions);
    if (list_has(list, "Deny") && list_has(list, "Warn"))
        v_invalid(v, FP(p, "validationActions"), list, "must not contain both Deny and Warn");
}

/* ---- flow control ---- */

static void flow_subject(struct vctx *v, const struct json *s, const struct fp *p) {
    static const struct {
        const char *kind, *member;
    } kinds_of[] = {{"Group", "group"}, {"ServiceAccount", "serviceAccount"}, {"User", "user"}};
    const char *kind = jstr(s, "kind");
    bool known = false;
    for (size_t i = 0; i < ARRAY_LEN(kinds_of); i++) known |= str_eq(kinds_of[i].kind, kind);
    if (!known) {
        v_not_supported(v, FP(p, "kind"), json_get(s, "kind"), ONE_OF("Group", "ServiceAccount", "User"));
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(kinds_of); i++) {
        const struct json *m = jget(s, kinds_of[i].member);
        const struct fp *at = FP(p, kinds_of[i].member);
        if (!str_eq(kinds_of[i].kind, kind)) {
            if (m) v_forbidden(v, at, "forbidden when subject kind is not '%s'", kinds_of[i].kind);
        } else if (!m) {
            v_required(v, at, arena_printf(v->a, "required when subject kind is '%s'", kind));
        } else {
            if (!*jstr(m, "name")) v_required(v, FP(at, "name"), NULL);
            if (i == 1 && !*jstr(m, "namespace"))
                v_required(v, FP(at, "namespace"), "must specify namespace for service account");
        }
    }
}

static void flow_list(struct vctx *v, const struct json *r, const char *key, const struct fp *p) {
    const struct json *list = json_get(r, key);
    if (!json_len(list))
        v_required(v, FP(p, key), "must contain at least one value");
    else if (json_len(list) > 1 && list_has(list, "*"))
        v_invalid(v, FP(p, key), list, "if '*' is present, must not specify other values");
}

VALIDATE_FN(flow_schema) {
    const struct json *spec = json_get(obj, "spec"), *r, *it,
                      *level = json_at(spec, "priorityLevelConfiguration", "name", NULL);
    const struct fp *p = FP(NULL, "spec");
    int64_t precedence = json_get_int(spec, "matchingPrecedence", 0);
    bool exempt = str_eq(jstr(json_get(obj, "metadata"), "name"), "exempt");
    if (precedence <= 0)
        v_invalid(v, FP(p, "matchingPrecedence"), json_get(spec, "matchingPrecedence"),
                  "must be a positive value");
    if (precedence > MATCHING_PRECEDENCE_MAX)
        v_invalid(v, FP(p, "matchingPrecedence"), json_get(spec, "matchingPrecedence"),
                  "must not be greater than %d", MATCHING_PRECEDENCE_MAX);
    if (precedence == 1 && !exempt)
        v_invalid(v, FP(p, "matchingPrecedence"), json_get(spec, "matchingPrecedence"),
                  "only the schema named 'exempt' may have matchingPrecedence 1");
    if (jget(spec, "distinguisherMethod"))
        v_enum(v, FP(FP(p, "distinguisherMethod"), "type"),
               json_at(spec, "distinguisherMethod", "type", NULL), ONE_OF("ByNamespace", "ByUser"), true);
    const struct fp *lp = FP(FP(p, "priorityLevelConfiguration"), "name");
    if (str_empty(json_as_str(level)))
        v_required(v, lp, "must reference a priority level");
    else if (is_dns1123_subdomain(level->str))
        v_invalid(v, lp, level, "%s", is_dns1123_subdomain(level->str));
    JSON_FOREACH(r, json_get(spec, "rules")) {
        const struct fp *at = FPI(FP(p, "rules"), r_i);
        const struct json *subjects = json_get(r, "subjects"), *res = json_get(r, "resourceRules"),
                          *urls = json_get(r, "nonResourceRules");
        if (!json_len(subjects))
            v_required(v, FP(at, "subjects"), "subjects must contain at least one value");
        JSON_FOREACH(it, subjects) flow_subject(v, it, FPI(FP(at, "subjects"), it_i));
        if (!json_len(res) && !json_len(urls))
            v_required(v, at, "at least one of resourceRules and nonResourceRules has to be non-empty");
        JSON_FOREACH(it, res) {
            const struct fp *rp = FPI(FP(at, "resourceRules"), it_i);
            flow_list(v, it, "verbs", rp);
            flow_list(v, it, "apiGroups", rp);
            flow_list(v, it, "resources", rp);
            if (!json_len(json_get(it, "namespaces")) && !json_get_bool(it, "clusterScope", false))
                v_required(v, FP(rp, "namespaces"),
                           "resource rules that are not cluster scoped must supply at least one namespace");
        }
        JSON_FOREACH(it, urls) {
            const struct fp *up = FPI(FP(at, "nonResourceRules"), it_i);
            flow_list(v, it, "verbs", up);
            flow_list(v, it, "nonResourceURLs", up);
        }
    }
}

static void concurrency(struct vctx *v, const struct json *c, const struct fp *p, int64_t min) {
    const struct json *lend = jget(c, "lendablePercent"), *borrow = jget(c, "borrowingLimitPercent");
    if (json_get_int(c, "nominalConcurrencyShares", min) < min)
        v_invalid(v, FP(p, "nominalConcurrencyShares"), json_get(c, "nominalConcurrencyShares"),
                  "must be a non-negative integer");
    if (lend && (json_as_int(lend, 0) < 0 || json_as_int(lend, 0) > 100))
        v_invalid(v, FP(p, "lendablePercent"), lend, "must be between 0 and 100, inclusive");
    if (borrow && json_as_int(borrow, 0) < 0)
        v_invalid(v, FP(p, "borrowingLimitPercent"), borrow, "if specified, must be a non-negative integer");
}

VALIDATE_FN(priority_level) {
    const struct json *spec = json_get(obj, "spec"), *limited = jget(spec, "limited"),
                      *exempt = jget(spec, "exempt");
    const char *type = jstr(spec, "type");
    const struct fp *p = FP(NULL, "spec"), *lp = FP(p, "limited");
    bool is_exempt = str_eq(jstr(json_get(obj, "metadata"), "name"), "exempt");
    if (is_exempt != str_eq(type, "Exempt")) {
        if (str_in(type, ONE_OF("Exempt", "Limited")))
            v_invalid(v, FP(p, "type"), json_get(spec, "type"),
                      "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    if (str_eq(type, "Exempt")) {
        if (limited) v_forbidden(v, lp, "must be nil if the type is not Limited");
        if (exempt) concurrency(v, exempt, FP(p, "exempt"), 0);
        return;
    }
    if (!str_eq(type, "Limited")) {
        v_not_supported(v, FP(p, "type"), json_get(spec, "type"), ONE_OF("Exempt", "Limited"));
        return;
    }
    if (exempt) v_forbidden(v, FP(p, "exempt"), "must be nil if the type is Limited");
    if (!limited) {
        v_required(v, lp, "must not be empty when type is Limited");
        return;
    }
    concurrency(v, limited, lp, 0);
    const struct json *resp = json_get(limited, "limitResponse"), *q = jget(resp, "queuing");
    const struct fp *rp = FP(lp, "limitResponse"), *qp = FP(rp, "queuing");
    const char *how = jstr(resp, "type");
    if (!str_in(how, ONE_OF("Queue", "Reject")))
        v_not_supported(v, FP(rp, "type"), json_get(resp, "type"), ONE_OF("Queue", "Reject"));
    if (str_eq(how, "Reject") && q)
        v_forbidden(v, qp, "must be nil if limited.limitResponse.type is not Limited");
    if (!str_eq(how, "Queue")) return;
    if (!q) {
        v_required(v, qp, "must not be empty if limited.limitResponse.type is Limited");
        return;
    }
    int64_t queues = json_get_int(q, "queues", 0), hand = json_get_int(q, "handSize", 0);
    if (json_get_int(q, "queueLengthLimit", 0) <= 0)
        v_invalid(v, FP(qp, "queueLengthLimit"), json_get(q, "queueLengthLimit"), "must be positive");
    if (queues <= 0)
        v_invalid(v, FP(qp, "queues"), json_get(q, "queues"), "must be positive");
    else if (queues > QUEUES_MAX)
        v_invalid(v, FP(qp, "queues"), json_get(q, "queues"), "must not be greater than %d", QUEUES_MAX);
    if (hand <= 0)
        v_invalid(v, FP(qp, "handSize"), json_get(q, "handSize"), "must be positive");
    else if (hand > queues)
        v_invalid(v, FP(qp, "handSize"), json_get(q, "handSize"), "should not be greater than queues (%lld)",
                  (long long)queues);
}

/* ---- certificates ---- */

static bool is_pem_request(struct arena *a, const char *b64) {
    size_t n = strlen(b64), len = 0;
    char *raw = arena_zalloc(a, n / 4 * 3 + 4);
    static const char begin[] = "-----BEGIN CERTIFICATE REQUEST-----";
    static const char end[] = "-----END CERTIFICATE REQUEST-----";
    if (base64_decode(b64, n, raw, &len) < 0) return false;
    raw[len] = '\0';
    const char *body = strstr(raw, begin), *stop = body ? strstr(body, end) : NULL;
    if (!stop) return false;
    char *der = arena_zalloc(a, (size_t)(stop - body) + 4);
    body += sizeof begin - 1;
    /* the body is DER of a sequence: enough to tell a request from junk; the signer looks closer */
    return base64_decode(body, (size_t)(stop - body), der, &len) == 0 && len > 64 && der[0] == 0x30;
}

VALIDATE_FN(csr) {
    static const char *const usages[] = {"signing",
                                         "digital signature",
                                         "content commitment",
                                         "key encipherment",
                                         "key agreement",
                                         "data encipherment",
                                         "cert sign",
                                         "crl sign",
                                         "encipher only",
                                         "decipher only",
                                         "any",
                                         "server auth",
                                         "client auth",
                                         "code signing",
                                         "email protection",
                                         "s/mime",
                                         "ipsec end system",
                                         "ipsec tunnel",
                                         "ipsec user",
                                         "timestamping",
                                         "ocsp signing",
                                         "microsoft sgc",
                                         "netscape sgc",
                                         NULL};
    const struct json *spec = json_get(obj, "spec"), *it, *list = json_get(spec, "usages");
    const struct fp *p = FP(NULL, "spec");
    const char *signer = jstr(spec, "signerName"), *slash = strchr(signer, '/');
    if (old) return;
    if (!is_pem_request(v->a, jstr(spec, "request")))
        v_invalid(v, FP(p, "request"), NULL, "PEM block type must be CERTIFICATE REQUEST");
    if (!json_len(list)) v_required(v, FP(p, "usages"), "usages must be provided");
    JSON_FOREACH(it, list)
        if (!str_in(str_or_empty(json_as_str(it)), usages))
            v_not_supported(v, FPI(FP(p, "usages"), it_i), it, usages);
    if (!*signer)
        v_required(v, FP(p, "signerName"), NULL);
    else if (!slash || !slash[1] ||
             is_dns1123_subdomain(arena_strndup(v->a, signer, (size_t)(slash - signer))))
        v_invalid(v, FP(p, "signerName"), json_get(spec, "signerName"),
                  "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    const struct json *sec = jget(spec, "expirationSeconds");
    if (sec && json_as_int(sec, 0) < CSR_EXPIRATION_MIN)
        v_invalid(v, FP(p, "expirationSeconds"), sec, "may not specify a duration less than %d seconds",
                  CSR_EXPIRATION_MIN);
}

/* ---- resource claims ---- */

static void device_request(struct vctx *v, const struct json *r, const struct fp *p) {
    const char *class = jstr(r, "deviceClassName");
    const struct json *count = jget(r, "count");
    if (!*class)
        v_required(v, FP(p, "deviceClassName"), NULL);
    else if (is_dns1123_subdomain(class))
        v_invalid(v, FP(p, "deviceClassName"), json_get(r, "deviceClassName"), "%s",
                  is_dns1123_subdomain(class));
    v_enum(v, FP(p, "allocationMode"), json_get(r, "allocationMode"), ONE_OF("All", "ExactCount"), true);
    if (str_eq(jstr(r, "allocationMode"), "All") && json_as_int(count, 0) != 0)
        v_invalid(v, FP(p, "count"), count, "must not be specified when allocationMode is 'All'");
    if (str_eq(jstr(r, "allocationMode"), "ExactCount") && json_as_int(count, 0) <= 0)
        v_invalid(v, FP(p, "count"), count, "must be greater than zero");
}

static void claim_spec(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *r, *sub, *list = json_at(spec, "devices", "requests", NULL);
    const struct fp *rp = FP(FP(p, "devices"), "requests");
    JSON_FOREACH(r, list) {
        const struct fp *at = FPI(rp, r_i);
        const char *name = jstr(r, "name");
        const struct json *exact = jget(r, "exactly"), *first = json_get(r, "firstAvailable");
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else if (is_dns1123_label(name))
            v_invalid(v, FP(at, "name"), json_get(r, "name"), "%s", is_dns1123_label(name));
        for (size_t j = 0; j < r_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), name)) v_duplicate(v, at, json_get(r, "name"));
        if (!exact && !json_len(first))
            v_required(v, at, "exactly one of `exactly` or `firstAvailable` is required");
        if (exact && json_len(first))
            v_invalid(
                v, at, NULL,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set");
        if (exact) device_request(v, exact, FP(at, "exactly"));
        JSON_FOREACH(sub, first) device_request(v, sub, FPI(FP(at, "firstAvailable"), sub_i));
    }
}

VALIDATE_FN(resource_claim) {
    claim_spec(v, json_get(obj, "spec"), FP(NULL, "spec"));
    if (old) v_immutable(v, FP(NULL, "spec"), json_get(obj, "spec"), json_get(old, "spec"));
}

VALIDATE_FN(resource_claim_template) {
    claim_spec(v, json_at(obj, "spec", "spec", NULL), FP(FP(NULL, "spec"), "spec"));
    if (old) v_immutable(v, FP(NULL, "spec"), json_get(obj, "spec"), json_get(old, "spec"));
}

VALIDATE_FN(device_class) {}
