/* ResourceSlices: the devices that a driver offers on a node, or on several, with what each can give. Upstream:
 * ValidateResourceSlice of pkg/apis/resource/validation. */
#include "apiserver/rules/crd_pattern.h"
#include "apiserver/rules/validate_device.h"

enum {
    DEVICES_MAX = 128,
    DEVICES_MAX_ADVANCED = 64, /* with taints or counters */
    COUNTER_SETS_MAX = 8,
    COUNTERS_MAX = 32,
    CONSUMPTIONS_MAX = 2,
    PROPERTIES_MAX = 32, /* attributes and capacities of a device */
    TAINTS_MAX = 16,
    ATTRIBUTE_MAX = 64,
    VALID_VALUES_MAX = 10,
    KEY_SHOWN = 63 + 1 + 32,
    LABEL_SHOWN = 63,
};

#define SEMVER_NUMBER "(0|[1-9][0-9]*)"
#define SEMVER_PRE "(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
#define SEMVER_BUILD "[0-9a-zA-Z-]+"
static const char semver[] = "^" SEMVER_NUMBER "\\." SEMVER_NUMBER "\\." SEMVER_NUMBER "(-" SEMVER_PRE "(\\." SEMVER_PRE
                             ")*)?(\\+" SEMVER_BUILD "(\\." SEMVER_BUILD ")*)?$";

/* A key in a path: the middle of a long one is left out. */
static const char *short_key(struct arena *a, const char *key, size_t max) {
    size_t n = strlen(key), rest = max - 3;
    if (n <= max) return key;
    return arena_printf(a, "%.*s...%s", (int)((rest + 1) / 2), key, key + n - rest / 2);
}

/* ---- where it is ---- */

/* nodeName, nodeSelector and allNodes of a slice or a device; gives how many are set. */
static size_t node_choice(struct vctx *v, const struct json *o, bool slice, const struct fp *p) {
    const struct json *name = jget(o, "nodeName"), *sel = jget(o, "nodeSelector"), *all = jget(o, "allNodes");
    size_t n = 0;
    if (name && !*jstr(o, "nodeName")) {
        v_invalid(v, FP(p, "nodeName"), name, "must be unset or not empty");
    } else if (name) {
        n++;
        v_subdomain(v, FP(p, "nodeName"), name);
    }
    if (sel) {
        n++;
        validate_node_selector(v, sel, FP(p, "nodeSelector"));
        if (slice && json_len(json_get(sel, "nodeSelectorTerms")) != 1)
            v_invalid(v, FP(FP(p, "nodeSelector"), "nodeSelectorTerms"), NULL, "must have exactly one term");
    }
    if (all && !all->b)
        v_invalid(v, FP(p, "allNodes"), all, "must be unset or true");
    else if (all)
        n++;
    return n;
}

/* ---- what a device can do ---- */

static void version(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *text = str_or_empty(json_as_str(s));
    if (!crd_pattern_matches(semver, text, strlen(text)))
        v_invalid(v, p, s, "must be a version as of semver.org 2.0.0");
    if (strlen(text) > ATTRIBUTE_MAX) v_too_long(v, p, ATTRIBUTE_MAX);
}

static void attribute(struct vctx *v, const struct json *a, const struct fp *p) {
    static const char *const one[] = {"bool", "int", "string", "version"};
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(one); i++) n += jget(a, one[i]) != NULL;
    if (strlen(jstr(a, "string")) > ATTRIBUTE_MAX) v_too_long(v, FP(p, "string"), ATTRIBUTE_MAX);
    if (jget(a, "version")) version(v, json_get(a, "version"), FP(p, "version"));
    if (n != 1) v_invalid(v, p, NULL, "exactly one value must be specified");
}

static struct quantity amount(const struct json *q) {
    struct quantity out = {0};
    quantity_parse(str_or_empty(json_as_str(q)), &out);
    return out;
}

static void valid_values(struct vctx *v, const struct json *policy, struct quantity most, const struct fp *p) {
    const struct json *list = json_get(policy, "validValues"), *it, *def = jget(policy, "default");
    bool found = false;
    JSON_FOREACH(it, list)
        if (it_i && quantity_cmp(amount(json_item(list, it_i - 1)), amount(it)) > 0)
            v_invalid(v, FPI(p, it_i), it, "values must be sorted in ascending order");
    if (!device_too_many(v, list, VALID_VALUES_MAX, p))
        JSON_FOREACH(it, list) {
            if (quantity_cmp(amount(it), most) > 0) v_invalid(v, FPI(p, it_i), it, "is larger than the capacity");
            found |= quantity_cmp(amount(it), amount(def)) == 0;
            for (size_t j = 0; j < it_i; j++)
                if (quantity_value(amount(json_item(list, j))) == quantity_value(amount(it))) {
                    v_duplicate(v, FPI(p, it_i), it);
                    break;
                }
        }
    if (!found) v_invalid(v, p, def, "the default is none of the values");
}

static void range_step(struct vctx *v, struct quantity value, struct quantity min, const struct json *step,
                       const struct fp *p) {
    int64_t by = quantity_value(amount(step));
    if (by && (quantity_value(value) - quantity_value(min)) % by != 0)
        v_invalid(v, p, step, "not a whole number of steps from the least value");
}

static void valid_range(struct vctx *v, const struct json *policy, struct quantity most, const struct fp *p) {
    const struct json *r = json_get(policy, "validRange"), *max = jget(r, "max"), *step = jget(r, "step");
    struct quantity def = amount(json_get(policy, "default")), min = amount(json_get(r, "min"));
    if (!jget(r, "min")) {
        v_required(v, FP(p, "min"), "required when validRange is defined");
        return;
    }
    if (quantity_cmp(min, most) > 0) v_invalid(v, FP(p, "min"), json_get(r, "min"), "is larger than the capacity");
    if (quantity_cmp(def, min) < 0) v_invalid(v, FP(p, "min"), json_get(r, "min"), "is more than the default");
    if (max) {
        if (quantity_cmp(min, amount(max)) > 0) v_invalid(v, FP(p, "max"), max, "is less than min");
        if (quantity_cmp(amount(max), most) > 0) v_invalid(v, FP(p, "max"), max, "is larger than the capacity");
        if (quantity_cmp(def, amount(max)) > 0) v_invalid(v, FP(p, "max"), max, "is less than the default");
    }
    if (!step) return;
    if (quantity_cmp(quantity_add(min, amount(step)), most) > 0)
        v_invalid(v, FP(p, "step"), step, "one step is larger than the capacity");
    range_step(v, def, min, step, FP(p, "step"));
    if (max) range_step(v, amount(max), min, step, FP(p, "step"));
}

static void request_policy(struct vctx *v, const struct json *cap, const struct fp *p) {
    const struct json *policy = json_get(cap, "requestPolicy");
    const char *how = json_len(json_get(policy, "validValues")) ? "validValues"
                      : jget(policy, "validRange")              ? "validRange"
                                                                : NULL;
    if (json_len(json_get(policy, "validValues")) && jget(policy, "validRange"))
        v_forbidden(v, p, "only one of \"validValues\" and \"validRange\" may be specified");
    else if (how && !jget(policy, "default"))
        v_required(v, FP(p, "default"), "required with values or a range");
    else if (str_eq(how, "validValues"))
        valid_values(v, policy, amount(json_get(cap, "value")), FP(p, how));
    else if (how)
        valid_range(v, policy, amount(json_get(cap, "value")), FP(p, how));
}

static void counters(struct vctx *v, const struct json *o, const struct fp *p) {
    const struct json *map = json_get(o, "counters");
    if (!json_len(map))
        v_required(v, p, NULL);
    else if (!device_too_many(v, map, COUNTERS_MAX, p))
        JSON_FOREACH_MEMBER(m, map) v_label1123(v, p, json_str(v->a, m->key));
}

static void named(struct vctx *v, const struct json *name, const struct fp *p) {
    if (str_empty(json_as_str(name)))
        v_required(v, p, NULL);
    else
        v_label1123(v, p, name);
}

static void taints(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *t;
    if (device_too_many(v, list, TAINTS_MAX, p)) return;
    JSON_FOREACH(t, list) {
        const struct fp *at = FPI(p, t_i);
        v_label_name(v, FP(at, "key"), jstr(t, "key"));
        if (*jstr(t, "value")) device_label_value(v, json_get(t, "value"), FP(at, "value"));
        v_enum(v, FP(at, "effect"), json_str(v->a, jstr(t, "effect")), device_taint_effects, true);
    }
}

static void device_nodes(struct vctx *v, const struct json *d, bool per_device, const struct fp *p) {
    if (!per_device) {
        if (jget(d, "nodeName") || jget(d, "nodeSelector") || jget(d, "allNodes"))
            v_invalid(v, p, NULL, "a device has nodes of its own only with `perDeviceNodeSelection`");
        return;
    }
    size_t n = node_choice(v, d, false, p);
    if (!n) v_required(v, p, "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required");
    if (n > 1) v_invalid(v, p, NULL, "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required");
}

static void device(struct vctx *v, const struct json *d, const struct json *was, bool per_device, const struct fp *p) {
    const struct json *attrs = json_get(d, "attributes"), *caps = json_get(d, "capacity"), *list, *it;
    const struct fp *ap = FP(p, "attributes"), *cp = FP(p, "capacity"), *kp = FP(p, "consumesCounters");
    bool many = json_get_bool(d, "allowMultipleAllocations", false);
    v_label1123(v, FP(p, "name"), json_str(v->a, jstr(d, "name")));
    if (json_len(attrs) + json_len(caps) > PROPERTIES_MAX)
        v_invalid(v, p, NULL, "may have no more than %d attributes and capacities", PROPERTIES_MAX);
    JSON_FOREACH_MEMBER(m, attrs) {
        device_qualified_name(v, m->key, ap);
        attribute(v, m->value, FPK(ap, short_key(v->a, m->key, KEY_SHOWN)));
    }
    JSON_FOREACH_MEMBER(m, caps) {
        const struct fp *at = FPK(cp, short_key(v->a, m->key, KEY_SHOWN));
        device_qualified_name(v, m->key, cp);
        if (!jget(m->value, "requestPolicy")) continue;
        if (many)
            request_policy(v, m->value, FP(at, "requestPolicy"));
        else
            v_forbidden(v, FP(at, "requestPolicy"), "allowMultipleAllocations must be true");
    }
    if (!was || !jsame(json_get(was, "taints"), json_get(d, "taints")))
        taints(v, json_get(d, "taints"), FP(p, "taints"));
    list = json_get(d, "consumesCounters");
    if (!device_too_many(v, list, CONSUMPTIONS_MAX, kp)) {
        JSON_FOREACH(it, list) {
            named(v, json_get(it, "counterSet"), FP(FPI(kp, it_i), "counterSet"));
            counters(v, it, FP(FPI(kp, it_i), "counters"));
        }
        device_unique(v, list, "counterSet", kp);
    }
    device_nodes(v, d, per_device, p);
    device_binding(v, d, p);
}

/* ---- the slice ---- */

static void pool(struct vctx *v, const struct json *pool_, const struct fp *p) {
    device_pool_name(v, json_get(pool_, "name"), FP(p, "name"));
    if (json_get_int(pool_, "resourceSliceCount", 0) <= 0)
        v_invalid(v, FP(p, "resourceSliceCount"), json_get(pool_, "resourceSliceCount"), "must be greater than zero");
    v_min(v, p, pool_, "generation", 0);
}

static const struct json *by_name(const struct json *list, const char *name) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(jstr(it, "name"), name)) return it;
    return NULL;
}

VALIDATE_FN(resource_slice) {
    const struct json *spec = json_get(obj, "spec"), *was = json_get(old, "spec"), *it;
    const struct json *devices = json_get(spec, "devices"), *sets = json_get(spec, "sharedCounters"),
                      *per = jget(spec, "perDeviceNodeSelection");
    const struct fp *p = FP(NULL, "spec"), *dp = FP(p, "devices"), *sp = FP(p, "sharedCounters");
    bool advanced = false;
    validate_driver_name(v, FP(p, "driver"), json_get(spec, "driver"));
    pool(v, json_get(spec, "pool"), FP(p, "pool"));
    if (old) {
        v_immutable(v, FP(FP(p, "pool"), "name"), json_at(spec, "pool", "name", NULL),
                    json_at(was, "pool", "name", NULL));
        v_immutable(v, FP(p, "driver"), json_get(spec, "driver"), json_get(was, "driver"));
        v_immutable(v, FP(p, "nodeName"), json_get(spec, "nodeName"), json_get(was, "nodeName"));
    }
    size_t n = node_choice(v, spec, true, p);
    if (per && !per->b)
        v_invalid(v, FP(p, "perDeviceNodeSelection"), per, "must be unset or true");
    else if (per)
        n++;
    if (!n)
        v_required(v, p, "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required");
    if (n > 1)
        v_invalid_whole(v, p,
                        "only one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` may be set");
    if (json_len(devices) && json_len(sets))
        v_invalid(v, p, NULL, "only one of `sharedCounters` or `devices` is allowed");
    JSON_FOREACH(it, devices)
        advanced |= json_len(json_get(it, "taints")) || json_len(json_get(it, "consumesCounters"));
    if (!device_too_many(v, devices, advanced ? DEVICES_MAX_ADVANCED : DEVICES_MAX, dp)) {
        JSON_FOREACH(it, devices)
            device(v, it, by_name(json_get(was, "devices"), jstr(it, "name")), per && per->b, FPI(dp, it_i));
        device_unique(v, devices, "name", dp);
    }
    if (device_too_many(v, sets, COUNTER_SETS_MAX, sp)) return;
    JSON_FOREACH(it, sets) {
        named(v, json_get(it, "name"), FP(FPI(sp, it_i), "name"));
        counters(v, it, FP(FPI(sp, it_i), "counters"));
    }
    device_unique(v, sets, "name", sp);
}
