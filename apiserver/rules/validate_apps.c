/* Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, ControllerRevision.
 * Upstream: pkg/apis/apps/validation/validation.go and the ReplicationController part of core's. */
#include "apiserver/rules/kinds.h"

static void non_negative(struct vctx *v, const struct fp *p, const struct json *spec, const char *const *keys) {
    for (; *keys; keys++) v_min(v, p, spec, *keys, 0);
}

/* Selector and template together. False when the selector is such that the template is not looked at. */
static bool selector(struct vctx *v, const struct json *spec, const struct fp *p, bool required) {
    const struct json *sel = jget(spec, "selector");
    const struct fp *at = FP(p, "selector");
    if (!sel && required) v_required(v, at, NULL);
    if (!sel) return true;
    v_label_selector(v, at, sel, false);
    if (!json_len(json_get(sel, "matchLabels")) && !json_len(json_get(sel, "matchExpressions")))
        v_invalid(v, at, sel, "empty selector is invalid");
    if (selector_parses(v, sel)) return true;
    v_invalid(v, at, sel, "invalid label selector");
    return false;
}

static void template_labels(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *sel = jget(spec, "selector"), *labels = json_at(spec, "template", "metadata", "labels", NULL);
    if (sel && selector_matches(sel, labels)) return;
    v_invalid(v, FP(FP(FP(p, "template"), "metadata"), "labels"), labels,
              "`selector` does not match template `labels`");
}

static void always_running(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *ps = json_at(spec, "template", "spec", NULL);
    const struct fp *at = FP(FP(p, "template"), "spec");
    if (!str_eq(jstr(ps, "restartPolicy"), "Always"))
        v_not_supported(v, FP(at, "restartPolicy"), json_get(ps, "restartPolicy"), ONE_OF("Always"));
    if (jget(ps, "activeDeadlineSeconds"))
        v_forbidden(v, FP(at, "activeDeadlineSeconds"), "activeDeadlineSeconds in %s is not Supported", v->c->kind);
}

/* ---- numbers and percentages ---- */

void v_int_or_percent(struct vctx *v, const struct fp *p, const struct json *x) {
    if (json_is(x, JSON_STRING) && !is_percent(x->str))
        v_invalid(v, p, x, "a valid percent string must be a numeric string followed by an ending '%%'");
    if (json_is(x, JSON_INT) && x->i < 0) v_invalid(v, p, x, "must be greater than or equal to 0");
}

static int64_t amount(const struct json *x) {
    if (json_is(x, JSON_STRING)) return is_percent(x->str) ? strtoll(x->str, NULL, 10) : 0;
    return json_as_int(x, 0);
}

static void at_most_all(struct vctx *v, const struct fp *p, const struct json *x) {
    if (json_is(x, JSON_STRING) && is_percent(x->str) && amount(x) > 100)
        v_invalid(v, p, x, "must not be greater than 100%%");
}

/* ---- Deployment, ReplicaSet ---- */

static void strategy(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *type = jstr(s, "type");
    const struct json *ru = jget(s, "rollingUpdate"), *un = json_get(ru, "maxUnavailable"),
                      *surge = json_get(ru, "maxSurge");
    const struct fp *at = FP(p, "rollingUpdate");
    if (str_eq(type, "Recreate")) {
        if (ru) v_forbidden(v, at, "may not be specified when strategy `type` is 'Recreate'");
    } else if (!str_eq(type, "RollingUpdate")) {
        v_not_supported(v, p, json_get(s, "type"), ONE_OF("Recreate", "RollingUpdate"));
    } else if (!ru) {
        v_required(v, at, "this should be defaulted and never be nil");
    } else {
        v_int_or_percent(v, FP(at, "maxUnavailable"), un);
        v_int_or_percent(v, FP(at, "maxSurge"), surge);
        if (!amount(un) && !amount(surge) && !(json_is(surge, JSON_STRING) && !is_percent(surge->str)))
            v_invalid(v, FP(at, "maxUnavailable"), un, "may not be 0 when `maxSurge` is 0");
        at_most_all(v, FP(at, "maxUnavailable"), un);
    }
}

VALIDATE_FN(deployment) {
    const struct json *spec = json_get(obj, "spec");
    const struct fp *p = FP(NULL, "spec");
    non_negative(v, p, spec, ONE_OF("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"));
    if (selector(v, spec, p, true)) {
        template_labels(v, spec, p);
        validate_pod_template(v, json_get(spec, "template"), json_at(old, "spec", "template", NULL), FP(p, "template"));
        always_running(v, spec, p);
    }
    strategy(v, json_get(spec, "strategy"), FP(p, "strategy"));
    const struct json *deadline = jget(spec, "progressDeadlineSeconds");
    if (deadline && json_as_int(deadline, 0) <= json_get_int(spec, "minReadySeconds", 0))
        v_invalid(v, FP(p, "progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    if (old) v_immutable(v, FP(p, "selector"), json_get(spec, "selector"), json_at(old, "spec", "selector", NULL));
}

VALIDATE_FN(replica_set) {
    const struct json *spec = json_get(obj, "spec");
    const struct fp *p = FP(NULL, "spec");
    non_negative(v, p, spec, ONE_OF("replicas", "minReadySeconds"));
    if (selector(v, spec, p, true)) {
        template_labels(v, spec, p);
        validate_pod_template(v, json_get(spec, "template"), json_at(old, "spec", "template", NULL), FP(p, "template"));
        always_running(v, spec, p);
    }
    if (old) v_immutable(v, FP(p, "selector"), json_get(spec, "selector"), json_at(old, "spec", "selector", NULL));
}

VALIDATE_FN(replication_controller) {
    const struct json *spec = json_get(obj, "spec"), *sel = json_get(spec, "selector"), *tmpl = jget(spec, "template");
    const struct fp *p = FP(NULL, "spec");
    non_negative(v, p, spec, ONE_OF("replicas", "minReadySeconds"));
    if (!json_len(sel)) v_required(v, FP(p, "selector"), NULL);
    if (!tmpl) {
        v_required(v, FP(p, "template"), NULL);
        return;
    }
    JSON_FOREACH_MEMBER(m, sel)
        if (!str_eq(json_as_str(json_at(tmpl, "metadata", "labels", m->key, NULL)), json_as_str(m->value))) {
            v_invalid(v, FP(FP(FP(p, "template"), "metadata"), "labels"), json_at(tmpl, "metadata", "labels", NULL),
                      "`selector` does not match template `labels`");
            break;
        }
    validate_pod_template(v, tmpl, json_at(old, "spec", "template", NULL), FP(p, "template"));
    always_running(v, spec, p);
}

/* ---- StatefulSet ---- */

/* The template as pods will have it: with a volume for each claim template. */
static struct json *with_claims(struct arena *a, const struct json *spec) {
    struct json *tmpl = json_clone(a, json_get(spec, "template")), *ps = json_ensure_object(a, tmpl, "spec"),
                *vols = json_array(a), *vol;
    const struct json *claims = json_get(spec, "volumeClaimTemplates"), *c;
    JSON_FOREACH(c, claims) {
        struct json *x = json_object(a), *src = json_object(a);
        const char *name = str_or_empty(json_as_str(json_at(c, "metadata", "name", NULL)));
        json_set_str(a, x, "name", name);
        json_set_str(a, src, "claimName", name);
        json_set(a, x, "persistentVolumeClaim", src);
        if (!has_key(vols, "name", name)) json_append(a, vols, x);
    }
    JSON_FOREACH(vol, json_get(ps, "volumes"))
        if (!has_key(vols, "name", jstr(vol, "name"))) json_append(a, vols, vol);
    if (json_len(vols)) json_set(a, ps, "volumes", vols);
    json_del(ps, "hostname");
    json_del(ps, "subdomain");
    return tmpl;
}

static void stateful_strategy(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *type = jstr(s, "type");
    const struct json *ru = jget(s, "rollingUpdate");
    const struct fp *at = FP(p, "rollingUpdate");
    if (!*type) {
        v_required(v, p, NULL);
    } else if (str_eq(type, "OnDelete")) {
        if (ru) v_invalid(v, at, ru, "only allowed for updateStrategy 'RollingUpdate'");
    } else if (!str_eq(type, "RollingUpdate")) {
        v_invalid(v, p, s, "must be 'RollingUpdate' or 'OnDelete'");
    } else if (ru) {
        v_min(v, at, ru, "partition", 0);
    }
}

static void stateful_update(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *p) {
    static const char *const free_to_change[] = {"replicas",
                                                 "ordinals",
                                                 "template",
                                                 "updateStrategy",
                                                 "revisionHistoryLimit",
                                                 "persistentVolumeClaimRetentionPolicy",
                                                 "minReadySeconds"};
    struct json *x = json_clone(v->a, spec), *y = json_clone(v->a, old);
    for (size_t i = 0; i < ARRAY_LEN(free_to_change); i++) {
        json_del(x, free_to_change[i]);
        json_del(y, free_to_change[i]);
    }
    if (!jsame(x, y))
        v_forbidden(v, p,
                    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
                    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
                    "'minReadySeconds' are forbidden");
}

VALIDATE_FN(stateful_set) {
    const struct json *spec = json_get(obj, "spec"), *claim,
                      *retain = json_get(spec, "persistentVolumeClaimRetentionPolicy");
    const struct fp *p = FP(NULL, "spec");
    const char *name = jstr(json_get(obj, "metadata"), "name"), *policy = jstr(spec, "podManagementPolicy"),
               *svc = jstr(spec, "serviceName");
    if (!old && *name && !is_dns1123_subdomain(name) && is_dns1123_label(name))
        v_invalid(v, FP(FP(NULL, "metadata"), "name"), json_at(obj, "metadata", "name", NULL), "%s",
                  is_dns1123_label(name));
    if (!*policy)
        v_required(v, FP(p, "podManagementPolicy"), NULL);
    else if (!str_in(policy, ONE_OF("OrderedReady", "Parallel")))
        v_invalid(v, FP(p, "podManagementPolicy"), json_get(spec, "podManagementPolicy"),
                  "must be 'OrderedReady' or 'Parallel'");
    stateful_strategy(v, json_get(spec, "updateStrategy"), FP(p, "updateStrategy"));
    static const char *const when[] = {"whenDeleted", "whenScaled"};
    for (size_t i = 0; retain && i < 2; i++)
        if (!str_in(jstr(retain, when[i]), ONE_OF("Retain", "Delete")))
            v_not_supported(v, FP(FP(p, "persistentVolumeClaimRetentionPolicy"), when[i]), json_get(retain, when[i]),
                            ONE_OF("Retain", "Delete"));
    if (!old)
        JSON_FOREACH(claim, json_get(spec, "volumeClaimTemplates"))
            validate_pvc_spec(v, json_get(claim, "spec"), FP(FPI(FP(p, "volumeClaimTemplates"), claim_i), "spec"));
    non_negative(v, p, spec, ONE_OF("replicas", "minReadySeconds"));
    v_min(v, FP(p, "ordinals"), json_get(spec, "ordinals"), "start", 0);
    if (!old && *svc) v_label1123(v, FP(p, "serviceName"), json_get(spec, "serviceName"));
    if (selector(v, spec, p, true)) {
        template_labels(v, spec, p);
        validate_pod_template(v, with_claims(v->a, spec), old ? with_claims(v->a, json_get(old, "spec")) : NULL,
                              FP(p, "template"));
        const struct json *meta = json_at(spec, "template", "metadata", NULL); /* looked at once more, as upstream */
        v_labels(v, FP(FP(p, "template"), "labels"), json_get(meta, "labels"));
        v_annotations(v, FP(FP(p, "template"), "annotations"), json_get(meta, "annotations"));
    }
    always_running(v, spec, p);
    if (old) stateful_update(v, spec, json_get(old, "spec"), p);
}

/* ---- DaemonSet ---- */

static void daemon_strategy(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *ru = jget(s, "rollingUpdate"), *un = json_get(ru, "maxUnavailable"),
                      *surge = json_get(ru, "maxSurge");
    const struct fp *at = FP(p, "rollingUpdate");
    if (str_eq(jstr(s, "type"), "OnDelete")) return;
    if (!str_eq(jstr(s, "type"), "RollingUpdate")) {
        v_not_supported(v, p, json_get(s, "type"), ONE_OF("RollingUpdate", "OnDelete"));
        return;
    }
    if (!ru) {
        v_required(v, at, NULL);
        return;
    }
    v_int_or_percent(v, FP(at, "maxUnavailable"), un);
    v_int_or_percent(v, FP(at, "maxSurge"), surge);
    at_most_all(v, FP(at, "maxUnavailable"), un);
    at_most_all(v, FP(at, "maxSurge"), surge);
    if (amount(un) && amount(surge))
        v_invalid(v, FP(at, "maxSurge"), surge, "may not be set when maxUnavailable is non-zero");
    if (!amount(un) && !amount(surge)) v_required(v, FP(at, "maxUnavailable"), "cannot be 0 when maxSurge is 0");
}

VALIDATE_FN(daemon_set) {
    const struct json *spec = json_get(obj, "spec");
    const struct fp *p = FP(NULL, "spec");
    if (old) v_immutable(v, FP(p, "selector"), json_get(spec, "selector"), json_at(old, "spec", "selector", NULL));
    const struct json *sel = jget(spec, "selector");
    if (sel) v_label_selector(v, FP(p, "selector"), sel, false);
    if (selector_parses(v, sel)) template_labels(v, spec, p);
    if (sel && !json_len(json_get(sel, "matchLabels")) && !json_len(json_get(sel, "matchExpressions")))
        v_invalid(v, FP(p, "selector"), sel, "empty selector is invalid for daemonset");
    validate_pod_template(v, json_get(spec, "template"), json_at(old, "spec", "template", NULL), FP(p, "template"));
    always_running(v, spec, p);
    non_negative(v, p, spec, ONE_OF("minReadySeconds", "revisionHistoryLimit"));
    daemon_strategy(v, json_get(spec, "updateStrategy"), FP(p, "updateStrategy"));
}

/* ---- ControllerRevision ---- */

VALIDATE_FN(controller_revision) {
    const struct json *data = jget(obj, "data");
    v_min(v, NULL, obj, "revision", 0);
    if (!data && !old)
        v_required(v, FP(NULL, "data"), "data is mandatory");
    else if (!old && !json_is(data, JSON_OBJECT))
        v_required(v, FP(NULL, "data"), "data must be a valid JSON object");
    if (!old) return;
    if (v->c->raw_was && !str_eq(v->c->raw_was, v->c->raw_now)) /* upstream compares bytes */
        v_invalid(v, FP(NULL, "data"), data, "field is immutable");
    else
        v_immutable(v, FP(NULL, "data"), data, json_get(old, "data"));
}
