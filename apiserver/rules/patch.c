/* PATCH: choosing the patch by its content type and giving the errors that the API has for them. Upstream:
 * apiserver/pkg/endpoints/handlers/patch.go. Server-side apply is in ssa.c. */
#include "pkg/json/patch.h"

#include "apiserver/rules/kinds.h"
#include "apiserver/rules/smp.h"

static bool is_type(const char *content_type, const char *want) {
    size_t n = strcspn(str_or_empty(content_type), "; \t");
    return strlen(want) == n && strncasecmp(content_type, want, n) == 0;
}

static int json_patch_error(int r, struct err *inner, struct err *e) {
    char msg[sizeof inner->msg];
    memcpy(msg, inner->msg, sizeof msg);
    if (r == -E2BIG) return err_status(e, 413, "RequestEntityTooLarge", "%s", msg);
    return err_status(e, 422, "Invalid", "the server rejected our request due to an error in our request: %s", msg);
}

/* What an operation of a JSON patch must be made of; strict decoding notes what else stands in it. */
static int check_op(struct arena *a, const struct json *op, size_t at, struct api_problems *strict, struct err *e) {
    static const char *const strings[] = {"op", "path", "from"};
    if (op->type == JSON_NULL) return 0;
    bool ok = json_is(op, JSON_OBJECT);
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        const struct json *v = json_get(op, strings[i]);
        ok &= !v || v->type == JSON_NULL || json_is(v, JSON_STRING);
    }
    if (!ok)
        return err_status(e, 400, "BadRequest", "error decoding patch: operation %zu is no JSON patch operation", at);
    JSON_FOREACH_MEMBER(m, op) {
        if (str_in(m->key, ONE_OF("op", "path", "from", "value"))) continue;
        api_problem_add(a, strict, "json patch unknown field", arena_printf(a, "[%zu].%s", at, m->key));
    }
    return 0;
}

static int json_patch_apply(struct rules_ctx *c, const struct json *current, const struct json *ops, struct json **out,
                            struct api_problems *strict, struct err *e) {
    _cleanup_err_ struct err inner = {0};
    bool lenient = str_eq(c->field_validation, "Ignore");
    const struct json *op;
    int r = 0;
    if (ops->type == JSON_NULL) ops = json_array(c->a); /* no patch at all, as Go reads null */
    if (!json_is(ops, JSON_ARRAY))
        return err_status(e, 400, "BadRequest", "error decoding patch: a JSON patch is an array of operations");
    JSON_FOREACH(op, ops) {
        if (!lenient && (r = check_op(c->a, op, (size_t)op_i, strict, e))) return r;
        if (lenient && !json_is(op, JSON_OBJECT) && op->type != JSON_NULL)
            return err_status(e, 400, "BadRequest", "a JSON patch is an array of objects");
    }
    r = json_patch(c->a, current, ops, out, &inner);
    return r < 0 ? json_patch_error(r, &inner, e) : 0;
}

int patch_apply(struct rules_ctx *c, const char *content_type, const struct json *current, const char *patch,
                size_t len, struct json **out, struct api_problems *strict, struct err *e) {
    bool json = is_type(content_type, "application/json-patch+json");
    bool merge = is_type(content_type, "application/merge-patch+json");
    bool strategic = is_type(content_type, "application/strategic-merge-patch+json");
    _cleanup_err_ struct err inner = {0};
    struct json_dups dups = {0};
    struct json *p;
    if ((!json && !merge && !strategic) || (strategic && !c->type))
        return err_status(e, 415, "UnsupportedMediaType",
                          "the body of the request was in an unknown format - accepted media types include: "
                          "%sapplication/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                          c->type ? "application/strategic-merge-patch+json, " : "");
    if (json_parse(c->a, patch, len, &p, &dups, &inner) < 0)
        return err_status(e, 400, "BadRequest", "error decoding patch: %s", inner.msg);
    for (size_t i = 0; i < dups.n; i++) api_problem_add(c->a, strict, "duplicate field", dups.paths[i]);
    if (json) return json_patch_apply(c, current, p, out, strict, e);
    if (strategic && json_is(p, JSON_NULL)) p = json_object(c->a);
    if (!json_is(p, JSON_OBJECT)) return err_status(e, 400, "BadRequest", "the patch is no JSON object");
    if (strategic) return strategic_merge_patch(c->a, c->type, current, p, out, e);
    *out = json_merge_patch(c->a, current, p);
    return 0;
}
