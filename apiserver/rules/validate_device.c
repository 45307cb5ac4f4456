/* Devices that pods claim: ResourceClaim, ResourceClaimTemplate and DeviceClass. ResourceSlices, which offer them, are in
 * validate_slice.c. A claim's spec never changes, so that an update says only whether it did. Upstream:
 * pkg/apis/resource/validation and the strategies of pkg/registry/resource. */
#include "apiserver/rules/validate_device.h"

#include "apiserver/rules/admit.h"
#include "apiserver/rules/validate_status.h"
#include "pkg/cel/device.h"

enum {
    REQUESTS_MAX = 32,
    CONSTRAINTS_MAX = 32,
    CONFIGS_MAX = 32,
    SELECTORS_MAX = 32,
    SUBREQUESTS_MAX = 8,
    EXPRESSION_MAX = 10 * 1024,
    PARAMETERS_MAX = 10 * 1024,
    POOL_NAME_MAX = 253,
    ID_MAX = 32,
    BINDING_CONDITIONS_MAX = 4,
};

#define ADMIN_LABEL "resource.kubernetes.io/admin-access"

/* ---- what all kinds of the group share ---- */

bool device_too_many(struct vctx *v, const struct json *list, size_t max, const struct fp *p) {
    if (json_len(list) <= max) return false;
    v_too_many(v, p, json_len(list), max);
    return true;
}

void device_unique(struct vctx *v, const struct json *list, const char *member, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        const struct json *key = member ? json_get(it, member) : it;
        for (size_t j = 0; j < it_i; j++) {
            const struct json *was = json_item(list, j);
            if (!jsame(member ? json_get(was, member) : was, key)) continue;
            v_duplicate(v, FPI(p, it_i), key);
            break;
        }
    }
}

/* Names separated by slashes. */
void device_pool_name(struct vctx *v, const struct json *name, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(name));
    if (!*s) {
        v_required(v, p, NULL);
        return;
    }
    if (strlen(s) > POOL_NAME_MAX) v_too_long(v, p, POOL_NAME_MAX);
    for (const char *end; s; s = *end ? end + 1 : NULL) {
        end = strchrnul(s, '/');
        v_subdomain(v, p, json_str(v->a, arena_strndup(v->a, s, (size_t)(end - s))));
    }
}

static void identifier(struct vctx *v, const char *s, const struct fp *p) {
    if (strlen(s) > ID_MAX) v_too_long(v, p, ID_MAX);
    if (!is_c_identifier(s)) v_invalid(v, p, json_str(v->a, s), "a valid C identifier is required");
}

void device_qualified_name(struct vctx *v, const char *s, const struct fp *p) {
    const char *slash = strchr(s, '/');
    if (!slash) {
        identifier(v, s, p);
        return;
    }
    if (strchr(slash + 1, '/')) return; /* as upstream: more than one slash goes unseen */
    if (slash == s)
        v_invalid(v, p, NULL, "the domain must not be empty");
    else
        validate_driver_name(v, p, json_str(v->a, arena_strndup(v->a, s, (size_t)(slash - s))));
    if (!slash[1])
        v_invalid(v, p, NULL, "the name must not be empty");
    else
        identifier(v, slash + 1, p);
}

static void full_name(struct vctx *v, const struct json *name, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(name));
    device_qualified_name(v, s, p);
    if (!strchr(s, '/')) v_invalid(v, p, name, "a domain and a name separated by a slash are wanted");
}

void device_label_value(struct vctx *v, const struct json *value, const struct fp *p) {
    for (size_t n = label_value_faults(str_or_empty(json_as_str(value))); n; n--)
        v_invalid(v, p, value, "%s", str_or_empty(is_label_value(str_or_empty(json_as_str(value)))));
}

static void condition_names(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    if (device_too_many(v, list, BINDING_CONDITIONS_MAX, p)) return;
    JSON_FOREACH(it, list) v_label_name(v, FPI(p, it_i), str_or_empty(json_as_str(it)));
}

void device_binding(struct vctx *v, const struct json *o, const struct fp *p) {
    const struct json *good = json_get(o, "bindingConditions"), *bad = json_get(o, "bindingFailureConditions"), *it, *g;
    const struct fp *gp = FP(p, "bindingConditions"), *bp = FP(p, "bindingFailureConditions");
    condition_names(v, good, gp);
    condition_names(v, bad, bp);
    device_unique(v, good, NULL, gp);
    device_unique(v, bad, NULL, bp);
    JSON_FOREACH(it, bad) {
        bool both = false;
        JSON_FOREACH(g, good) both |= json_equal(g, it);
        if (both) v_invalid(v, FPI(bp, it_i), it, "is a binding condition too");
    }
    if (!json_len(good) && json_len(bad)) v_invalid(v, gp, good, "wanted where there are bindingFailureConditions");
    if (!json_len(bad) && json_len(good)) v_invalid(v, bp, bad, "wanted where there are bindingConditions");
}

/* ---- requests ---- */

static void expression(struct vctx *v, const struct json *src, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(src)), *issues = NULL;
    const struct cel_prog *prog;
    if (strlen(s) > EXPRESSION_MAX) {
        v_too_long(v, p, EXPRESSION_MAX);
        return;
    }
    int r = cel_device_compile(v->a, cel_device_env_new(v->a), s, &prog, &issues);
    if (r == -EINVAL) v_invalid(v, p, src, "compilation failed: %s", str_or_empty(issues));
    if (r == -EDOM) v_invalid(v, p, src, "must evaluate to bool");
}

static void selectors(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    if (device_too_many(v, list, SELECTORS_MAX, p)) return;
    JSON_FOREACH(it, list) {
        const struct fp *at = FP(FPI(p, it_i), "cel");
        if (!jget(it, "cel"))
            v_required(v, at, NULL);
        else
            expression(v, json_at(it, "cel", "expression", NULL), FP(at, "expression"));
    }
}

static void toleration(struct vctx *v, const struct json *t, const struct fp *p) {
    const char *op = jstr(t, "operator");
    if (*jstr(t, "key")) v_label_name(v, FP(p, "key"), jstr(t, "key"));
    if (str_eq(op, "Exists")) {
        if (*jstr(t, "value")) v_invalid(v, FP(p, "value"), json_get(t, "value"), "must be empty for `Exists`");
    } else if (str_eq(op, "Equal")) {
        device_label_value(v, json_get(t, "value"), FP(p, "value"));
    } else {
        v_enum(v, FP(p, "operator"), json_get(t, "operator"), ONE_OF("Equal", "Exists"), true);
    }
    if (*jstr(t, "effect")) v_enum(v, FP(p, "effect"), json_get(t, "effect"), device_taint_effects, false);
}

const char *const device_taint_effects[] = {"NoExecute", "NoSchedule", "None", NULL};

static void one_request(struct vctx *v, const struct json *r, const struct fp *p) {
    const char *class = jstr(r, "deviceClassName"), *mode = jstr(r, "allocationMode");
    const struct json *count = jget(r, "count"), *t;
    if (!*class)
        v_required(v, FP(p, "deviceClassName"), NULL);
    else
        v_subdomain(v, FP(p, "deviceClassName"), json_get(r, "deviceClassName"));
    selectors(v, json_get(r, "selectors"), FP(p, "selectors"));
    if (str_eq(mode, "All")) {
        if (json_as_int(count, 0) != 0) v_invalid(v, FP(p, "count"), count, "must not be specified with mode 'All'");
    } else if (str_eq(mode, "ExactCount")) {
        if (json_as_int(count, 0) <= 0) v_invalid(v, FP(p, "count"), count, "must be greater than zero");
    } else {
        v_not_supported(v, FP(p, "allocationMode"), json_get(r, "allocationMode"), ONE_OF("All", "ExactCount"));
    }
    JSON_FOREACH(t, json_get(r, "tolerations")) toleration(v, t, FPI(FP(p, "tolerations"), t_i));
}

static void request(struct vctx *v, const struct json *r, const struct fp *p) {
    const struct json *exactly = jget(r, "exactly"), *first = json_get(r, "firstAvailable"), *sub;
    const struct fp *fp = FP(p, "firstAvailable");
    v_label1123(v, FP(p, "name"), json_str(v->a, jstr(r, "name")));
    if (!exactly && !json_len(first)) {
        v_required(v, p, "exactly one of `exactly` or `firstAvailable` is required");
    } else if (exactly && json_len(first)) {
        v_invalid(v, p, NULL, "only one of `exactly` and `firstAvailable` may be set");
    } else if (exactly) {
        one_request(v, exactly, FP(p, "exactly"));
    } else if (!device_too_many(v, first, SUBREQUESTS_MAX, fp)) {
        JSON_FOREACH(sub, first) {
            v_label1123(v, FP(FPI(fp, sub_i), "name"), json_str(v->a, jstr(sub, "name")));
            one_request(v, sub, FPI(fp, sub_i));
        }
        device_unique(v, first, "name", fp);
    }
}

/* "request" or "request/subrequest" names one of the claim. */
static bool request_known(const struct json *devices, const char *s) {
    const struct json *r, *last = NULL;
    const char *slash = strchr(s, '/');
    size_t n = slash ? (size_t)(slash - s) : strlen(s);
    JSON_FOREACH(r, json_get(devices, "requests"))
        if (strlen(jstr(r, "name")) == n && !strncmp(jstr(r, "name"), s, n)) last = r;
    return last && (!slash || has_key(json_get(last, "firstAvailable"), "name", slash + 1));
}

static void request_ref(struct vctx *v, const struct json *ref, const struct json *devices, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(ref)), *slash = strchr(s, '/');
    bool deep = slash && strchr(slash + 1, '/');
    if (!deep) {
        v_label1123(v, p, json_str(v->a, arena_strndup(v->a, s, slash ? (size_t)(slash - s) : strlen(s))));
        if (slash) v_label1123(v, p, json_str(v->a, slash + 1));
    }
    if (deep || !request_known(devices, s))
        v_invalid(v, p, ref, "must name a request of the claim, or one of its parts");
}

static void request_refs(struct vctx *v, const struct json *list, const struct json *devices, const struct fp *p) {
    const struct json *it;
    if (device_too_many(v, list, REQUESTS_MAX, p)) return;
    JSON_FOREACH(it, list) request_ref(v, it, devices, FPI(p, it_i));
    device_unique(v, list, NULL, p);
}

/* A driver's own parameters: an object, of bounded length when it is new. */
static void opaque_object(struct vctx *v, const struct json *o, size_t max, const struct fp *p) {
    if (!o || o->type == JSON_NULL)
        v_required(v, p, NULL);
    else if (strlen(json_text(v->a, o)) > max)
        v_too_long(v, p, max);
    else if (o->type != JSON_OBJECT)
        v_invalid(v, p, NULL, "must be a valid JSON object");
}

static void configuration(struct vctx *v, const struct json *c, const struct fp *p) {
    const struct json *o = jget(c, "opaque");
    const struct fp *at = FP(p, "opaque");
    if (!o) {
        v_required(v, at, NULL);
        return;
    }
    validate_driver_name(v, FP(at, "driver"), json_get(o, "driver"));
    opaque_object(v, json_get(o, "parameters"), PARAMETERS_MAX, FP(at, "parameters"));
}

static void constraint(struct vctx *v, const struct json *c, const struct json *devices, const struct fp *p) {
    request_refs(v, json_get(c, "requests"), devices, FP(p, "requests"));
    if (jget(c, "matchAttribute"))
        full_name(v, json_get(c, "matchAttribute"), FP(p, "matchAttribute"));
    else if (jget(c, "distinctAttribute"))
        full_name(v, json_get(c, "distinctAttribute"), FP(p, "distinctAttribute"));
    else
        v_required(v, p, "one of \"matchAttribute\" and \"distinctAttribute\" is required");
}

static void claim_spec(struct vctx *v, const struct json *spec, const struct fp *sp) {
    const struct json *devices = json_get(spec, "devices"), *list, *it;
    const struct fp *dp = FP(sp, "devices"), *p = FP(dp, "requests");
    list = json_get(devices, "requests");
    if (!device_too_many(v, list, REQUESTS_MAX, p)) {
        JSON_FOREACH(it, list) request(v, it, FPI(p, it_i));
        device_unique(v, list, "name", p);
    }
    list = json_get(devices, "constraints"), p = FP(dp, "constraints");
    if (!device_too_many(v, list, CONSTRAINTS_MAX, p))
        JSON_FOREACH(it, list) constraint(v, it, devices, FPI(p, it_i));
    list = json_get(devices, "config"), p = FP(dp, "config");
    if (!device_too_many(v, list, CONFIGS_MAX, p))
        JSON_FOREACH(it, list) {
            request_refs(v, json_get(it, "requests"), devices, FP(FPI(p, it_i), "requests"));
            configuration(v, it, FPI(p, it_i));
        }
}

static bool admin_allowed(struct vctx *v) {
    const struct json *ns = admission_get(v->c, "", "namespaces", NULL, str_or_empty(v->c->ns));
    return str_eq(json_as_str(json_at(ns, "metadata", "labels", ADMIN_LABEL, NULL)), "true");
}

static void forbid_admin(struct vctx *v, const struct fp *p) {
    v_forbidden(v, FP(p, "adminAccess"), "admin access wants the label `" ADMIN_LABEL ": true` on the namespace");
}

/* Administrative access is for namespaces that are labelled for it. The path is the same for templates. */
static void claim_admin(struct vctx *v, const struct json *spec) {
    const struct json *r;
    JSON_FOREACH(r, json_at(spec, "devices", "requests", NULL)) {
        if (!json_get_bool(json_get(r, "exactly"), "adminAccess", false)) continue;
        if (!admin_allowed(v)) forbid_admin(v, FPI(FP(FP(FP(NULL, "spec"), "devices"), "requests"), r_i));
        return;
    }
}

VALIDATE_FN(resource_claim) {
    const struct json *spec = json_get(obj, "spec");
    if (old) {
        v_immutable(v, FP(NULL, "spec"), spec, json_get(old, "spec"));
        return;
    }
    claim_admin(v, spec);
    claim_spec(v, spec, FP(NULL, "spec"));
}

VALIDATE_FN(resource_claim_template) {
    const struct json *spec = json_get(obj, "spec");
    const struct fp *p = FP(NULL, "spec");
    if (old) v_immutable(v, p, spec, json_get(old, "spec"));
    if (!old) claim_admin(v, json_get(spec, "spec"));
    validate_template_meta(v, json_get(spec, "metadata"), FP(p, "metadata"));
    claim_spec(v, json_get(spec, "spec"), FP(p, "spec"));
}

VALIDATE_FN(device_class) {
    const struct json *spec = json_get(obj, "spec"), *list = json_get(spec, "config"), *it,
                      *name = jget(spec, "extendedResourceName");
    const struct fp *p = FP(NULL, "spec"), *cp = FP(p, "config");
    selectors(v, json_get(spec, "selectors"), FP(p, "selectors"));
    if (!device_too_many(v, list, CONFIGS_MAX, cp))
        JSON_FOREACH(it, list) configuration(v, it, FPI(cp, it_i));
    if (name && !resource_is_extended(str_or_empty(json_as_str(name))))
        v_invalid(v, FP(p, "extendedResourceName"), name, "must be a valid extended resource name");
}

/* ---- the status of a claim ---- */

enum { RESERVED_MAX = 256, RESULTS_MAX = 32, STATUS_CONDITIONS_MAX = 8, STATUS_DATA_MAX = 10 * 1024, IPS_MAX = 16 };

static void uuid(struct vctx *v, const struct json *id, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(id));
    bool ok = strlen(s) == 36;
    for (size_t i = 0; ok && s[i]; i++)
        ok = i == 8 || i == 13 || i == 18 || i == 23 ? s[i] == '-' : strchr("0123456789abcdef", s[i]) != NULL;
    if (!ok) v_invalid(v, p, id, "must be a UUID of lowercase hexadecimal digits");
}

static bool same_device(const struct json *x, const struct json *y) {
    static const char *const keys[] = {"driver", "pool", "device", "shareID"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (!str_eq(jstr(x, keys[i]), jstr(y, keys[i]))) return false;
    return true;
}

static bool device_in(const struct json *list, const struct json *d) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (same_device(it, d)) return true;
    return false;
}

static void allocation(struct vctx *v, const struct json *al, const struct json *devices, const struct fp *p) {
    const struct fp *rp = FP(FP(p, "devices"), "results"), *cp = FP(FP(p, "devices"), "config");
    const struct json *list = json_at(al, "devices", "results", NULL), *it;
    if (!device_too_many(v, list, RESULTS_MAX, rp))
        JSON_FOREACH(it, list) {
            const struct fp *at = FPI(rp, it_i);
            request_ref(v, json_get(it, "request"), devices, FP(at, "request"));
            validate_driver_name(v, FP(at, "driver"), json_get(it, "driver"));
            device_pool_name(v, json_get(it, "pool"), FP(at, "pool"));
            v_label1123(v, FP(at, "device"), json_str(v->a, jstr(it, "device")));
            device_binding(v, it, at);
            if (jget(it, "shareID")) uuid(v, json_get(it, "shareID"), FP(at, "shareID"));
        }
    list = json_at(al, "devices", "config", NULL);
    if (!device_too_many(v, list, 2 * CONFIGS_MAX, cp))
        JSON_FOREACH(it, list) {
            const struct fp *at = FPI(cp, it_i);
            v_enum(v, FP(at, "source"), json_str(v->a, jstr(it, "source")), ONE_OF("FromClaim", "FromClass"), true);
            request_refs(v, json_get(it, "requests"), devices, FP(at, "requests"));
            configuration(v, it, at);
        }
    if (jget(al, "nodeSelector")) validate_node_selector(v, json_get(al, "nodeSelector"), FP(p, "nodeSelector"));
}

static void network_data(struct vctx *v, const struct json *n, const struct fp *p) {
    static const struct {
        const char *key;
        size_t max;
    } texts[] = {{"interfaceName", 256}, {"hardwareAddress", 128}};
    const struct json *it, *ips = json_get(n, "ips");
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (strlen(jstr(n, texts[i].key)) > texts[i].max) v_too_long(v, FP(p, texts[i].key), texts[i].max);
    if (device_too_many(v, ips, IPS_MAX, FP(p, "ips"))) return;
    JSON_FOREACH(it, ips)
        if (!is_cidr(str_or_empty(json_as_str(it)), NULL))
            v_invalid(v, FPI(FP(p, "ips"), it_i), it, "must be a valid address in CIDR form");
    device_unique(v, ips, NULL, FP(p, "ips"));
}

static void device_status(struct vctx *v, const struct json *d, const struct json *results, const struct fp *p) {
    const struct json *conds = json_get(d, "conditions");
    validate_driver_name(v, FP(p, "driver"), json_get(d, "driver"));
    device_pool_name(v, json_get(d, "pool"), FP(p, "pool"));
    v_label1123(v, FP(p, "device"), json_str(v->a, jstr(d, "device")));
    if (jget(d, "shareID")) uuid(v, json_get(d, "shareID"), FP(p, "shareID"));
    if (!device_in(results, d)) v_invalid_whole(v, p, "must be an allocated device in the claim");
    device_too_many(v, conds, STATUS_CONDITIONS_MAX, FP(p, "conditions"));
    validate_conditions(v, conds, FP(p, "conditions"));
    if (jget(d, "data")) opaque_object(v, json_get(d, "data"), STATUS_DATA_MAX, FP(p, "data"));
    network_data(v, json_get(d, "networkData"), FP(p, "networkData"));
}

static void reserved(struct vctx *v, const struct json *list, const struct fp *p) {
    static const char *const keys[] = {"resource", "name", "uid"};
    const struct json *it;
    if (device_too_many(v, list, RESERVED_MAX, p)) return;
    JSON_FOREACH(it, list)
        for (size_t i = 0; i < ARRAY_LEN(keys); i++)
            if (!*jstr(it, keys[i])) v_required(v, FP(FPI(p, it_i), keys[i]), NULL);
    device_unique(v, list, "uid", p);
}

void validate_claim_status(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *st = json_get(obj, "status"), *was = json_get(old, "status"), *it, *o;
    const struct json *al = jget(st, "allocation"), *results = json_at(al, "devices", "results", NULL),
                      *devices = json_at(obj, "spec", "devices", NULL), *list = json_get(st, "devices");
    const struct fp *p = FP(NULL, "status"), *rp = FP(p, "reservedFor"), *dp = FP(p, "devices"),
                    *ap = FP(p, "allocation");
    const struct fp *resp = FP(FP(ap, "devices"), "results");
    bool granted = false, asked = false;
    JSON_FOREACH(it, json_at(was, "allocation", "devices", "results", NULL))
        granted |= json_get_bool(it, "adminAccess", false);
    JSON_FOREACH(it, results) {
        if (granted || asked || !json_get_bool(it, "adminAccess", false)) continue;
        asked = true;
        if (!admin_allowed(v)) forbid_admin(v, FPI(resp, it_i));
    }
    reserved(v, json_get(st, "reservedFor"), rp);
    JSON_FOREACH(it, list) {
        device_status(v, it, results, FPI(dp, it_i));
        for (size_t j = 0; j < it_i; j++)
            if (same_device(json_item(list, j), it)) {
                v_duplicate(v, FPI(dp, it_i), it);
                break;
            }
    }
    if (json_len(json_get(st, "reservedFor")) && !al) {
        v_forbidden(v, rp, "may not be specified without an allocation");
    } else if (jget(json_get(obj, "metadata"), "deletionTimestamp")) {
        bool added = false;
        JSON_FOREACH(it, json_get(st, "reservedFor")) {
            bool had = false;
            JSON_FOREACH(o, json_get(was, "reservedFor")) had |= jsame(o, it);
            added |= !had;
        }
        if (added) v_forbidden(v, rp, "a claim that is being deleted takes no new users");
    }
    if (al && jget(was, "allocation"))
        v_immutable(v, ap, al, json_get(was, "allocation"));
    else if (al)
        allocation(v, al, devices, ap);
}

/* What a device reported about itself goes with its allocation. */
void claim_forget_devices(struct arena *a, struct json *status, const struct json *was) {
    const struct json *now = json_at(status, "allocation", "devices", "results", NULL),
                      *before = json_at(was, "allocation", "devices", "results", NULL), *d;
    struct json *list = json_get(status, "devices"), *kept = json_array(a);
    if (!list) return;
    JSON_FOREACH(d, list)
        if (!device_in(before, d) || device_in(now, d)) json_append(a, kept, json_clone(a, d));
    if (json_len(kept))
        json_set(a, status, "devices", kept);
    else
        json_del(status, "devices");
}
