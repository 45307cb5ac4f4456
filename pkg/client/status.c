/* The server's Status, turned into a struct err. */
#include "pkg/api/reason.h"
#include "pkg/json/json.h"
#include "private.h"

int client_status_err(int status, const char *body, size_t len, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *s = NULL;
    if (len && json_parse(a, body, len, &s, NULL, NULL) < 0) s = NULL;
    if (!s || !str_eq(json_get_str(s, "kind"), "Status")) {
        int n = (int)MIN_OF(len, (size_t)200);
        return err_status(e, status, NULL, "the server answered %d: %.*s", status, n, len ? body : "");
    }
    struct json *d = json_get(s, "details");
    int code = (int)json_get_int(s, "code", status);
    int r = err_status(e, code ? code : status, api_reason(json_get_str(s, "reason")), "%s",
                       str_or_empty(json_get_str(s, "message")));
    if (!e) return r;
    err_details(e, json_get_str(d, "group"), json_get_str(d, "kind"), json_get_str(d, "name"));
    e->retry_after_seconds = (int)json_get_int(d, "retryAfterSeconds", 0);
    struct json *c;
    JSON_FOREACH(c, json_get(d, "causes"))
        err_cause_add(e, json_get_str(c, "reason"), json_get_str(c, "field"), "%s",
                      str_or_empty(json_get_str(c, "message")));
    return r;
}

bool client_err_namespace_terminating(const struct err *e) {
    if (e->status != 403) return false;
    for (size_t i = 0; i < e->n_causes; i++)
        if (str_eq(e->causes[i].reason, "NamespaceTerminating")) return true;
    return false;
}
