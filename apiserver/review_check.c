/* What an access review may say: one thing asked, selectors in one of their two forms, and no metadata. Upstream:
 * pkg/apis/authorization/validation; how selectors are understood is pkg/registry/authorization/util. */
#include "apiserver/review_check.h"

#include "apiserver/asked.h"
#include "apiserver/rules/rules.h"

static void requirement(struct vctx *v, const struct json *r, bool labels, const struct fp *p) {
    const char *op = jstr(r, "operator");
    const struct json *values = json_get(r, "values"), *it;
    if (!labels && !*jstr(r, "key")) v_required(v, FP(p, "key"), "must be specified");
    if (str_in(op, ONE_OF("In", "NotIn")) && !json_len(values))
        v_required(v, FP(p, "values"), "must be specified when `operator` is 'In' or 'NotIn'");
    if (str_in(op, ONE_OF("Exists", "DoesNotExist")) && json_len(values))
        v_forbidden(v, FP(p, "values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
    if (!labels) return;
    v_label_name(v, FP(p, "key"), jstr(r, "key"));
    JSON_FOREACH(it, values)
        for (size_t n = label_value_faults(str_or_empty(json_as_str(it))); n; n--)
            v_invalid(v, FPI(FP(p, "values"), it_i), it, "must be the value of a label");
}

static void selector(struct vctx *v, const struct json *s, bool labels, const struct fp *p) {
    const struct json *list = json_get(s, "requirements"), *it;
    if (!s) return;
    if (*jstr(s, "rawSelector") && json_len(list))
        v_invalid(v, FP(p, "rawSelector"), json_get(s, "rawSelector"),
                  "stands instead of requirements, not beside them");
    if (!*jstr(s, "rawSelector") && !json_len(list))
        v_required(v, FP(p, "requirements"), "requirements or rawSelector is required");
    JSON_FOREACH(it, list) requirement(v, it, labels, FPI(FP(p, "requirements"), it_i));
}

static bool metadata_empty(const struct json *meta, bool local) {
    JSON_FOREACH_MEMBER(m, meta) {
        if (str_eq(m->key, "managedFields") || jempty(m->value)) continue;
        if (!local || !str_eq(m->key, "namespace")) return false;
    }
    return true;
}

int review_check(struct request *q, const struct json *review, struct err *e) {
    struct rules_ctx c = {.a = q->a, .group = q->res->group, .kind = ""};
    struct vctx v = {.c = &c, .a = q->a};
    bool self = str_eq(q->res->plural, "selfsubjectaccessreviews"),
         local = str_eq(q->res->plural, "localsubjectaccessreviews");
    const struct json *spec = json_get(review, "spec"), *res = jget(spec, "resourceAttributes"),
                      *non = jget(spec, "nonResourceAttributes"), *meta = json_get(review, "metadata");
    const struct fp *p = FP(NULL, "spec"), *rp = FP(p, "resourceAttributes"), *np = FP(p, "nonResourceAttributes");
    if (res && non) v_invalid_whole(&v, np, "cannot be specified in combination with resourceAttributes");
    if (!res && !non) v_invalid_whole(&v, rp, "one of nonResourceAttributes and resourceAttributes must be specified");
    if (!self && !*jstr(spec, "user") && !json_len(json_get(spec, "groups")))
        v_invalid(&v, FP(p, "user"), json_get(spec, "user"), "at least one of user or group must be specified");
    selector(&v, jget(res, "fieldSelector"), false, FP(rp, "fieldSelector"));
    selector(&v, jget(res, "labelSelector"), true, FP(rp, "labelSelector"));
    if (!metadata_empty(meta, local)) v_invalid_whole(&v, FP(NULL, "metadata"), "must be empty");
    if (local && res && !str_eq(jstr(res, "namespace"), jstr(meta, "namespace")))
        v_invalid(&v, FP(rp, "namespace"), json_get(res, "namespace"), "must match metadata.namespace");
    if (local && non) v_invalid_whole(&v, np, "disallowed on this kind of request");
    return v_finish(&v, "", e);
}

/* ---- selectors that are not understood ---- */

static const char *ignored(struct arena *a, const struct json *selector, bool labels) {
    bool all;
    struct authz_selector s = asked_in_review(a, selector, labels, &all);
    if (all) return NULL;
    return arena_printf(a, "spec.resourceAttributes.%s %signored due to parse error",
                        labels ? "labelSelector" : "fieldSelector", s.n ? "partially " : "");
}

const char *review_ignored(struct arena *a, const struct json *spec) {
    const struct json *res = jget(spec, "resourceAttributes");
    const char *fields = ignored(a, jget(res, "fieldSelector"), false),
               *labels = ignored(a, jget(res, "labelSelector"), true);
    if (fields && labels) return arena_printf(a, "%s; %s", fields, labels);
    return fields ? fields : labels;
}
