/* storage.k8s.io: classes, drivers, attachments. Upstream: pkg/apis/storage/validation/validation.go. */
#include <ctype.h>

#include "apiserver/rules/validate_device.h"

enum {
    TOKEN_EXPIRATION_MIN = 600,
    ALLOCATABLE_PERIOD_MIN = 10,
    NODE_ID_MAX = 256,
    PARAMETERS_MAX = 256 * 1024,
};

static void qualified_lower(struct vctx *v, const struct fp *p, const struct json *x) {
    const char *s = str_or_empty(json_as_str(x));
    if (!*s) {
        v_required(v, p, NULL);
        return;
    }
    char *lower = arena_strdup(v->a, s);
    for (char *q = lower; *q; q++) *q = (char)tolower((unsigned char)*q);
    for (size_t n = qualified_name_faults(lower); n; n--) v_invalid(v, p, x, "%s", is_qualified_name(lower));
}

static void parameters(struct vctx *v, const struct json *params, bool may_be_empty, const struct fp *p) {
    size_t total = 0;
    if (!may_be_empty && !json_len(params)) v_required(v, p, "must contain at least one key/value pair");
    JSON_FOREACH_MEMBER(m, params) {
        if (!*m->key) v_invalid(v, p, NULL, "field can not be empty.");
        total += strlen(m->key) + (json_is(m->value, JSON_STRING) ? m->value->n : 0);
    }
    if (total > PARAMETERS_MAX) v_too_long(v, p, PARAMETERS_MAX);
}

/* The same set of values for the same keys. */
static bool term_within(const struct json *x, const struct json *y) {
    const struct json *xs = json_get(x, "matchLabelExpressions"), *ys = json_get(y, "matchLabelExpressions"), *r, *s,
                      *a, *b;
    JSON_FOREACH(r, xs) {
        const struct json *found = NULL;
        JSON_FOREACH(s, ys)
            if (str_eq(jstr(s, "key"), jstr(r, "key"))) found = s;
        if (!found || json_len(json_get(found, "values")) != json_len(json_get(r, "values"))) return false;
        JSON_FOREACH(a, json_get(r, "values")) {
            bool in = false;
            JSON_FOREACH(b, json_get(found, "values")) in |= json_equal(a, b);
            if (!in) return false;
        }
    }
    return true;
}

/* Upstream makes maps of them before it compares: of two with one key the last counts. */
static bool same_terms(const struct json *x, const struct json *y) { return term_within(x, y) && term_within(y, x); }

static void topologies(struct vctx *v, const struct json *list, const struct fp *lp) {
    const struct json *term, *r;
    JSON_FOREACH(term, list) {
        const struct fp *p = FP(FPI(lp, term_i), "matchLabelExpressions");
        const struct json *reqs = json_get(term, "matchLabelExpressions");
        JSON_FOREACH(r, reqs) {
            const struct json *values = json_get(r, "values");
            if (!json_len(values)) v_required(v, FP(FPI(p, r_i), "values"), NULL);
            device_unique(v, values, NULL, FP(FPI(p, r_i), "values"));
            v_label_name(v, FP(FPI(p, r_i), "key"), jstr(r, "key"));
            for (size_t j = 0; j < r_i; j++)
                if (str_eq(jstr(json_item(reqs, j), "key"), jstr(r, "key"))) {
                    v_duplicate(v, FP(FPI(p, r_i), "key"), json_get(r, "key"));
                    break;
                }
        }
        /* upstream compares with as many empty terms as there are terms, too */
        size_t twins = json_len(reqs) ? 0 : json_len(list);
        for (size_t j = 0; j < term_i; j++) twins += same_terms(json_item(list, j), term);
        for (; twins; twins--) v_duplicate(v, p, NULL);
    }
}

VALIDATE_FN(storage_class) {
    qualified_lower(v, FP(NULL, "provisioner"), json_get(obj, "provisioner"));
    parameters(v, json_get(obj, "parameters"), true, FP(NULL, "parameters"));
    if (*jstr(obj, "reclaimPolicy"))
        v_enum(v, FP(NULL, "reclaimPolicy"), json_get(obj, "reclaimPolicy"), ONE_OF("Delete", "Retain"), false);
    v_enum(v, FP(NULL, "volumeBindingMode"), json_get(obj, "volumeBindingMode"),
           ONE_OF("Immediate", "WaitForFirstConsumer"), false);
    topologies(v, json_get(obj, "allowedTopologies"), FP(NULL, "allowedTopologies"));
    if (!old) return;
    static const char *const fixed[] = {"parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"};
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        v_immutable(v, FP(NULL, fixed[i]), json_get(obj, fixed[i]), json_get(old, fixed[i]));
}

VALIDATE_FN(csi_driver) {
    const struct json *spec = json_get(obj, "spec"), *it, *tokens = json_get(spec, "tokenRequests");
    const struct fp *p = FP(NULL, "spec");
    static const char *const must[] = {"attachRequired", "podInfoOnMount", "storageCapacity"};
    for (size_t i = 0; i < ARRAY_LEN(must); i++)
        if (!jget(spec, must[i])) v_required(v, FP(p, must[i]), NULL);
    v_enum(v, FP(p, "fsGroupPolicy"), json_get(spec, "fsGroupPolicy"),
           ONE_OF("File", "None", "ReadWriteOnceWithFSType"), false);
    const struct json *period = jget(spec, "nodeAllocatableUpdatePeriodSeconds");
    if (period && json_as_int(period, 0) < ALLOCATABLE_PERIOD_MIN)
        v_invalid(v, FP(p, "nodeAllocatableUpdatePeriodSeconds"), period,
                  "must be greater than or equal to 10 seconds");
    if (json_len(tokens) && !jget(spec, "serviceAccountTokenInSecrets") &&
        (!old || !jsame(tokens, json_at(old, "spec", "tokenRequests", NULL))))
        rules_warn(
            v->c,
            "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent "
            "possible logging of tokens in volume attributes");
    if (!json_len(tokens) && jget(spec, "serviceAccountTokenInSecrets"))
        v_invalid(v, FP(p, "serviceAccountTokenInSecrets"), json_get(spec, "serviceAccountTokenInSecrets"),
                  "is set but there are no tokenRequests");
    JSON_FOREACH(it, tokens) {
        const struct fp *at = FPI(FP(p, "tokenRequests"), it_i);
        const struct json *sec = jget(it, "expirationSeconds");
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(tokens, j), "audience"), jstr(it, "audience"))) {
                v_duplicate(v, FP(at, "audience"), json_get(it, "audience"));
                break;
            }
        if (sec && json_as_int(sec, 0) < TOKEN_EXPIRATION_MIN)
            v_invalid(v, FP(at, "expirationSeconds"), sec, "may not specify a duration less than 10 minutes");
        if (sec && json_as_int(sec, 0) > INT64_C(1) << 32)
            v_invalid(v, FP(at, "expirationSeconds"), sec, "may not specify a duration larger than 2^32 seconds");
    }
    JSON_FOREACH(it, json_get(spec, "volumeLifecycleModes"))
        if (!str_in(str_or_empty(json_as_str(it)), ONE_OF("Ephemeral", "Persistent")))
            v_not_supported(v, FP(p, "volumeLifecycleModes"), it, ONE_OF("Ephemeral", "Persistent"));
    if (!old) return;
    static const char *const fixed[][2] = {{"attachRequired", "attachedRequired"}, /* as upstream spells it */
                                           {"volumeLifecycleModes", "volumeLifecycleModes"}};
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        v_immutable(v, FP(p, fixed[i][1]), json_get(spec, fixed[i][0]), json_at(old, "spec", fixed[i][0], NULL));
}

VALIDATE_FN(csi_node) {
    const struct json *it, *k, *list = json_at(obj, "spec", "drivers", NULL);
    JSON_FOREACH(it, list) {
        const struct fp *p = FPI(FP(FP(NULL, "spec"), "drivers"), it_i);
        const char *name = jstr(it, "name");
        validate_driver_name(v, FP(p, "name"), json_get(it, "name"));
        if (!*jstr(it, "nodeID")) v_required(v, FP(p, "nodeID"), NULL);
        if (strlen(jstr(it, "nodeID")) > NODE_ID_MAX)
            v_invalid(v, FP(p, "nodeID"), json_get(it, "nodeID"), "must be %d characters or less", NODE_ID_MAX);
        const struct json *count = json_at(it, "allocatable", "count", NULL);
        if (json_as_int(count, 0) < 0)
            v_invalid(v, FP(FP(p, "allocatable"), "count"), count, "must be greater than or equal to 0");
        JSON_FOREACH(k, json_get(it, "topologyKeys")) {
            const char *key = str_or_empty(json_as_str(k));
            bool again = false;
            for (size_t j = 0; j < k_i; j++) again |= json_equal(json_item(json_get(it, "topologyKeys"), j), k);
            if (!*key) v_required(v, p, NULL);
            if (again) v_duplicate(v, p, k);
            v_label_name(v, p, key);
        }
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), name)) {
                v_duplicate(v, FP(p, "name"), json_get(it, "name"));
                break;
            }
    }
    JSON_FOREACH(k,
                 json_at(old, "spec", "drivers", NULL)) /* of a driver that stays, only how much it can take changes */
        JSON_FOREACH(it, list) {
            static const char *const fixed[] = {"nodeID", "topologyKeys"};
            bool same = true;
            if (!str_eq(jstr(it, "name"), jstr(k, "name"))) continue;
            for (size_t i = 0; i < ARRAY_LEN(fixed); i++) same &= jsame(json_get(it, fixed[i]), json_get(k, fixed[i]));
            if (!same) v_invalid_whole(v, FP(FP(NULL, "spec"), "drivers"), "field is immutable");
        }
}

VALIDATE_FN(csi_storage_capacity) {
    v_label_selector(v, FP(NULL, "nodeTopology"), json_get(obj, "nodeTopology"), false);
    v_subdomain(v, FP(NULL, "storageClassName"), json_get(obj, "storageClassName"));
    if (jget(obj, "capacity")) v_quantity(v, FP(NULL, "capacity"), jstr(obj, "capacity"), true);
    if (!old) return;
    v_immutable(v, FP(NULL, "nodeTopology"), json_get(obj, "nodeTopology"), json_get(old, "nodeTopology"));
    v_immutable(v, FP(NULL, "storageClassName"), json_get(obj, "storageClassName"), json_get(old, "storageClassName"));
}

VALIDATE_FN(volume_attachment) {
    const struct json *spec = json_get(obj, "spec"), *src = json_get(spec, "source");
    const struct fp *p = FP(NULL, "spec");
    const char *node = jstr(spec, "nodeName");
    const struct json *pv = jget(src, "persistentVolumeName");
    bool inline_spec = jget(src, "inlineVolumeSpec");
    validate_driver_name(v, FP(p, "attacher"), json_get(spec, "attacher"));
    if (!pv && !inline_spec)
        v_required(v, FP(p, "source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
    else if (pv && inline_spec)
        v_forbidden(v, FP(p, "source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
    else if (pv && !*jstr(src, "persistentVolumeName"))
        v_required(v, FP(FP(p, "source"), "persistentVolumeName"), "must not be empty");
    if (pv) v_subdomain(v, FP(FP(p, "source"), "persistentVolumeName"), pv);
    if (inline_spec && !pv)
        validate_pv_spec(v, json_get(src, "inlineVolumeSpec"), "", true, FP(FP(p, "source"), "inlineVolumeSpec"));
    v_subdomain(v, FP(p, "nodeName"), json_str(v->a, node));
    if (old && !jsame(spec, json_get(old, "spec"))) v_invalid(v, p, spec, "field is immutable");
}

VALIDATE_FN(volume_attributes_class) {
    qualified_lower(v, FP(NULL, "driverName"), json_get(obj, "driverName"));
    parameters(v, json_get(obj, "parameters"), false, FP(NULL, "parameters"));
    if (!old) return;
    static const char *const fixed[] = {"driverName", "parameters"};
    for (size_t i = 0; i < 2; i++)
        if (!jsame(json_get(obj, fixed[i]), json_get(old, fixed[i])))
            v_forbidden(v, FP(NULL, fixed[i]), "updates to %s are forbidden.", fixed[i]);
}
