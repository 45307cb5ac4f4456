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

int patch_apply(struct rules_ctx *c, const char *content_type, const struct json *current, const char *patch,
                size_t len, struct json **out, struct err *e) {
    bool json = is_type(content_type, "application/json-patch+json");
    bool merge = is_type(content_type, "application/merge-patch+json");
    bool strategic = is_type(content_type, "application/strategic-merge-patch+json");
    _cleanup_err_ struct err inner = {0};
    struct json *p;
    if ((!json && !merge && !strategic) || (strategic && !c->type))
        return err_status(e, 415, "UnsupportedMediaType",
                          "the body of the request was in an unknown format - accepted media types include: %s"
                          "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                          c->type ? "application/strategic-merge-patch+json, " : "");
    if (json_parse(c->a, patch, len, &p, NULL, &inner) < 0)
        return err_status(e, 400, "BadRequest", "error decoding patch: %s", inner.msg);
    if (json && json_is(p, JSON_NULL)) p = json_array(c->a); /* no patch at all, as Go reads null */
    if (strategic && json_is(p, JSON_NULL)) p = json_object(c->a);
    if (json && !json_is(p, JSON_ARRAY))
        return err_status(e, 400, "BadRequest", "a JSON patch is an array of operations");
    if (json) {
        int r = json_patch(c->a, current, p, out, &inner);
        return r < 0 ? json_patch_error(r, &inner, e) : 0;
    }
    if (!json_is(p, JSON_OBJECT)) return err_status(e, 400, "BadRequest", "the patch is no JSON object");
    if (strategic) return strategic_merge_patch(c->a, c->type, current, p, out, e);
    *out = json_merge_patch(c->a, current, p);
    return 0;
}
