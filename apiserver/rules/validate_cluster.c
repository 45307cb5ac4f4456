/* Kinds of the cluster's machinery: flow control, certificate requests. Upstream: the validation package of each group.
 */
#include <math.h>

#include "apiserver/rules/validate_device.h"
#include "apiserver/rules/validate_status.h"
#include "pkg/base/bytes.h"

enum {
    MATCHING_PRECEDENCE_MAX = 10000,
    QUEUES_MAX = 10000000,
    CSR_EXPIRATION_MIN = 600,
    ENTROPY_BITS_MAX = 60,
};

static bool list_has(const struct json *list, const char *s) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(json_as_str(it), s)) return true;
    return false;
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
            if (!*jstr(m, "name"))
                v_required(v, FP(at, "name"), NULL);
            else if (i == 1 && !str_eq(jstr(m, "name"), "*"))
                v_subdomain(v, FP(at, "name"), json_get(m, "name"));
            if (i == 1 && !*jstr(m, "namespace"))
                v_required(v, FP(at, "namespace"), "must specify namespace for service account");
            else if (i == 1)
                v_label1123(v, FP(at, "namespace"), json_get(m, "namespace"));
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

static void flow_verbs(struct vctx *v, const struct json *r, const struct fp *p) {
    static const char *const verbs[] = {"create", "delete", "deletecollection", "get",   "list",
                                        "patch",  "proxy",  "update",           "watch", NULL};
    const struct json *list = json_get(r, "verbs"), *it;
    bool known = true;
    flow_list(v, r, "verbs", p);
    JSON_FOREACH(it, list) known &= str_in(str_or_empty(json_as_str(it)), verbs);
    if (!known && !list_has(list, "*")) v_not_supported(v, FP(p, "verbs"), list, verbs);
}

static void flow_urls(struct vctx *v, const struct json *r, const struct fp *p) {
    const struct json *list = json_get(r, "nonResourceURLs"), *it;
    flow_list(v, r, "nonResourceURLs", p);
    JSON_FOREACH(it, list_has(list, "*") ? NULL : list) {
        const char *s = str_or_empty(json_as_str(it)), *star = strchr(s, '*'), *why = NULL;
        if (!*s)
            why = "must not be empty";
        else if (*s != '/')
            why = "must start with slash";
        else if (strchr(s, ' '))
            why = "must not contain white-space";
        else if (strstr(s, "//"))
            why = "must not contain double slash";
        else if (star && (star[1] || star[-1] != '/'))
            why = "wildcard can only do suffix matching";
        if (why) v_invalid(v, FPI(FP(p, "nonResourceURLs"), it_i), it, "%s", why);
    }
}

static void flow_namespaces(struct vctx *v, const struct json *r, const struct fp *rp) {
    const struct json *list = json_get(r, "namespaces"), *it;
    const struct fp *p = FP(rp, "namespaces");
    if (!json_len(list)) {
        if (!json_get_bool(r, "clusterScope", false))
            v_required(v, p, "resource rules that are not cluster scoped must supply at least one namespace");
    } else if (list_has(list, "*")) {
        if (json_len(list) > 1) v_invalid(v, p, list, "if '*' is present, must not specify other namespaces");
    } else {
        JSON_FOREACH(it, list) v_label1123(v, FPI(p, it_i), it);
    }
}

VALIDATE_FN(flow_schema) {
    const struct json *spec = json_get(obj, "spec"), *r, *it,
                      *level = json_at(spec, "priorityLevelConfiguration", "name", NULL);
    const struct fp *p = FP(NULL, "spec");
    int64_t precedence = json_get_int(spec, "matchingPrecedence", 0);
    bool exempt = str_eq(jstr(json_get(obj, "metadata"), "name"), "exempt");
    if (precedence <= 0)
        v_invalid(v, FP(p, "matchingPrecedence"), json_get(spec, "matchingPrecedence"), "must be a positive value");
    if (precedence > MATCHING_PRECEDENCE_MAX)
        v_invalid(v, FP(p, "matchingPrecedence"), json_get(spec, "matchingPrecedence"), "must not be greater than %d",
                  MATCHING_PRECEDENCE_MAX);
    if (precedence == 1 && !exempt)
        v_invalid(v, FP(p, "matchingPrecedence"), json_get(spec, "matchingPrecedence"),
                  "only the schema named 'exempt' may have matchingPrecedence 1");
    if (jget(spec, "distinguisherMethod"))
        v_enum(v, FP(FP(p, "distinguisherMethod"), "type"),
               json_str(v->a, jstr(json_get(spec, "distinguisherMethod"), "type")), ONE_OF("ByNamespace", "ByUser"),
               false);
    const struct fp *lp = FP(FP(p, "priorityLevelConfiguration"), "name");
    if (str_empty(json_as_str(level)))
        v_required(v, lp, "must reference a priority level");
    else
        v_subdomain(v, lp, level);
    JSON_FOREACH(r, json_get(spec, "rules")) {
        const struct fp *at = FPI(FP(p, "rules"), r_i);
        const struct json *subjects = json_get(r, "subjects"), *res = json_get(r, "resourceRules"),
                          *urls = json_get(r, "nonResourceRules");
        if (!json_len(subjects)) v_required(v, FP(at, "subjects"), "subjects must contain at least one value");
        JSON_FOREACH(it, subjects) flow_subject(v, it, FPI(FP(at, "subjects"), it_i));
        if (!json_len(res) && !json_len(urls))
            v_required(v, at, "at least one of resourceRules and nonResourceRules has to be non-empty");
        JSON_FOREACH(it, res) {
            const struct fp *rp = FPI(FP(at, "resourceRules"), it_i);
            flow_verbs(v, it, rp);
            flow_list(v, it, "apiGroups", rp);
            flow_list(v, it, "resources", rp);
            flow_namespaces(v, it, rp);
        }
        JSON_FOREACH(it, urls) {
            const struct fp *up = FPI(FP(at, "nonResourceRules"), it_i);
            flow_verbs(v, it, up);
            flow_urls(v, it, up);
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
    const struct json *spec = json_get(obj, "spec"), *limited = jget(spec, "limited"), *exempt = jget(spec, "exempt");
    const char *type = jstr(spec, "type");
    const struct fp *p = FP(NULL, "spec"), *lp = FP(p, "limited");
    bool is_exempt = str_eq(jstr(json_get(obj, "metadata"), "name"), "exempt");
    if (is_exempt != str_eq(type, "Exempt")) {
        if (str_in(type, ONE_OF("Exempt", "Limited")))
            v_invalid(v, FP(p, "type"), json_get(spec, "type"), "must be 'Exempt' if and only if `name` is 'exempt'");
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
    if (str_eq(how, "Reject") && q) v_forbidden(v, qp, "must be nil if limited.limitResponse.type is not Limited");
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
    else if (queues > 0 && log2((double)queues) * (double)hand > ENTROPY_BITS_MAX)
        v_invalid(v, FP(qp, "handSize"), json_get(q, "handSize"),
                  "wants more than %d bits of entropy with this many queues", ENTROPY_BITS_MAX);
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
    if (old) {
        validate_csr_status(v, obj, old);
        return;
    }
    if (!is_pem_request(v->a, jstr(spec, "request")))
        v_invalid(v, FP(p, "request"), NULL, "PEM block type must be CERTIFICATE REQUEST");
    if (!json_len(list)) v_required(v, FP(p, "usages"), "usages must be provided");
    JSON_FOREACH(it, list)
        if (!str_in(str_or_empty(json_as_str(it)), usages)) v_not_supported(v, FPI(FP(p, "usages"), it_i), it, usages);
    device_unique(v, list, NULL, FP(p, "usages"));
    if (!*jstr(spec, "signerName"))
        v_required(v, FP(p, "signerName"), NULL);
    else if (str_eq(jstr(spec, "signerName"), "kubernetes.io/legacy-unknown"))
        v_invalid(v, FP(p, "signerName"), json_get(spec, "signerName"), "is not allowed any more");
    else
        v_signer_name(v, FP(p, "signerName"), json_get(spec, "signerName"));
    const struct json *sec = jget(spec, "expirationSeconds");
    if (sec && json_as_int(sec, 0) < CSR_EXPIRATION_MIN)
        v_invalid(v, FP(p, "expirationSeconds"), sec, "may not specify a duration less than %d seconds",
                  CSR_EXPIRATION_MIN);
}
