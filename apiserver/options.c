/* The options of requests (metav1.CreateOptions, UpdateOptions, PatchOptions, DeleteOptions, ListOptions): what may stand in
 * them, with all findings of one set of options in one answer. Upstream: apimachinery/pkg/apis/meta/v1/validation and
 * meta/internalversion/validation. */
#include "apiserver/options.h"

enum { MANAGER_MAX = 128 };

struct found {
    struct err *e;
    const char *kind;
    bool any;
};

static void found(struct found *f, const char *reason, const char *field, const char *fmt, ...) _printf_(4, 5);

static void found(struct found *f, const char *reason, const char *field, const char *fmt, ...) {
    char msg[ERR_MSG_MAX / 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    if (!f->any) {
        err_status(f->e, 422, "Invalid", "%s.meta.k8s.io \"\" is invalid: %s: %s", f->kind, field, msg);
        err_details(f->e, "meta.k8s.io", f->kind, NULL);
    }
    f->any = true;
    err_cause_add(f->e, reason, field, "%s", msg);
}

static int verdict(const struct found *f) { return f->any ? -EINVAL : 0; }

/* ---- managers ---- */

/* Code points that Go's unicode.IsPrint leaves out, as ranges: controls, spaces but ' ', formats, private use. */
static bool printable(uint32_t c) {
    static const uint32_t not [][2] = {{0, 0x1f},          {0x7f, 0xa0},       {0xad, 0xad},     {0x600, 0x605},
                                       {0x61c, 0x61c},     {0x6dd, 0x6dd},     {0x70f, 0x70f},   {0x1680, 0x1680},
                                       {0x180e, 0x180e},   {0x2000, 0x200f},   {0x2028, 0x202f}, {0x205f, 0x206f},
                                       {0x3000, 0x3000},   {0xd800, 0xf8ff},   {0xfeff, 0xfeff}, {0xfff9, 0xfffb},
                                       {0xe0000, 0xe00ff}, {0xf0000, 0x10ffff}};
    for (size_t i = 0; i < ARRAY_LEN(not ); i++)
        if (c >= not [i][0] && c <= not [i][1]) return false;
    return true;
}

/* The next code point; bytes that are no UTF-8 are U+FFFD, as Go reads them. */
static uint32_t next_rune(const char **p) {
    const unsigned char *s = (const unsigned char *)*p;
    size_t more = *s >= 0xf0 ? 3 : *s >= 0xe0 ? 2 : *s >= 0xc2 ? 1 : 0;
    uint32_t c = more ? *s & (0x3fu >> more) : *s;
    ++*p;
    if (*s < 0x80) return *s;
    for (size_t i = 1; i <= more; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0xfffd;
        c = c << 6 | (s[i] & 0x3f);
    }
    *p += more;
    return more ? c : 0xfffd;
}

static void check_manager(struct found *f, const char *manager) {
    if (str_empty(manager)) return;
    if (strlen(manager) > MANAGER_MAX)
        found(f, "FieldValueTooLong", "fieldManager", "Too long: may not be more than %d bytes", MANAGER_MAX);
    for (const char *p = manager; *p;) {
        int at = (int)(p - manager);
        uint32_t c = next_rune(&p);
        if (!printable(c))
            found(f, "FieldValueInvalid", "fieldManager", "Invalid value: invalid character U+%04X (at position %d)", c,
                  at);
    }
}

const char *request_manager(struct request *q) {
    const char *m = http_query(q->http, "fieldManager");
    if (!str_empty(m)) return m;
    const char *ua = str_or_empty(http_header(q->http, "user-agent"));
    const char *end = ua + strcspn(ua, "/");
    _cleanup_buf_ struct buf b = BUF_INIT;
    while (ua < end) {
        const char *from = ua;
        if (!printable(next_rune(&ua))) continue;
        if (b.len + (size_t)(ua - from) > MANAGER_MAX) break;
        buf_add(&b, from, (size_t)(ua - from));
    }
    return b.len ? arena_strndup(q->a, b.data, b.len) : "unknown";
}

/* ---- create, update, patch ---- */

static void check_dry_run(struct found *f, struct request *q, bool *dry_run) {
    size_t it = 0;
    const char *name, *value;
    bool bad = false;
    *dry_run = false;
    while (http_query_next(q->http, &it, &name, &value)) {
        if (!str_eq(name, "dryRun")) continue;
        bad |= !str_eq(value, "All");
        *dry_run = true;
    }
    if (bad) found(f, "FieldValueNotSupported", "dryRun", "Unsupported value: supported values: \"All\"");
}

int options_check(struct request *q, const char *kind, bool *dry_run, struct err *e) {
    struct found f = {e, kind, false};
    const char *validation = http_query(q->http, "fieldValidation"), *manager = http_query(q->http, "fieldManager");
    bool patch = str_eq(kind, "PatchOptions");
    bool apply = patch && request_media_is(http_header(q->http, "content-type"), "application/apply-patch+yaml");
    if (apply && str_empty(manager))
        found(&f, "FieldValueRequired", "fieldManager", "Required value: is required for apply patch");
    if (patch && !apply && http_query(q->http, "force"))
        found(&f, "FieldValueForbidden", "force", "Forbidden: may not be specified for non-apply patch");
    check_manager(&f, manager);
    check_dry_run(&f, q, dry_run);
    if (!str_empty(validation) && !str_eq(validation, "Ignore") && !str_eq(validation, "Warn") &&
        !str_eq(validation, "Strict"))
        found(&f, "FieldValueNotSupported", "fieldValidation",
              "Unsupported value: \"%.100s\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"", validation);
    return verdict(&f);
}

/* ---- delete ---- */

int options_check_delete(const struct json *o, struct err *e) {
    struct found f = {e, "DeleteOptions", false};
    const char *policy = json_get_str(o, "propagationPolicy");
    const struct json *x;
    bool bad = false;
    if (policy && json_get(o, "orphanDependents"))
        found(&f, "FieldValueInvalid", "propagationPolicy",
              "Invalid value: \"%.60s\": orphanDependents and deletionPropagation cannot be both set", policy);
    if (policy && !str_eq(policy, "Orphan") && !str_eq(policy, "Background") && !str_eq(policy, "Foreground"))
        found(&f, "FieldValueNotSupported", "propagationPolicy",
              "Unsupported value: \"%.60s\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
              policy);
    JSON_FOREACH(x, json_get(o, "dryRun")) bad |= !str_eq(json_as_str(x), "All");
    if (bad) found(&f, "FieldValueNotSupported", "dryRun", "Unsupported value: supported values: \"All\"");
    return verdict(&f);
}

/* ---- list, watch ---- */

static const char *const match_field = "resourceVersionMatch";

static void check_watch(struct found *f, const char *match, const char *send, const char *token) {
    if (send && !str_eq(match, "NotOlderThan"))
        found(f, "FieldValueForbidden", match_field,
              "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    if (str_empty(match)) return;
    if (!send)
        found(f, "FieldValueForbidden", match_field,
              "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    if (!str_eq(match, "NotOlderThan"))
        found(f, "FieldValueNotSupported", match_field,
              "Unsupported value: \"%.60s\": supported values: \"NotOlderThan\"", match);
    if (!str_empty(token))
        found(f, "FieldValueForbidden", match_field,
              "Forbidden: resourceVersionMatch is forbidden when continue is provided");
}

static void check_list(struct found *f, const char *match, const char *send, const char *token, const char *rv) {
    if (!str_empty(match)) {
        if (str_empty(rv))
            found(f, "FieldValueForbidden", match_field,
                  "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided");
        if (!str_empty(token))
            found(f, "FieldValueForbidden", match_field,
                  "Forbidden: resourceVersionMatch is forbidden when continue is provided");
        if (!str_eq(match, "Exact") && !str_eq(match, "NotOlderThan"))
            found(f, "FieldValueNotSupported", match_field,
                  "Unsupported value: \"%.60s\": supported values: \"Exact\", \"NotOlderThan\", \"\"", match);
        if (str_eq(match, "Exact") && str_eq(rv, "0"))
            found(f, "FieldValueForbidden", match_field,
                  "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    }
    if (send)
        found(f, "FieldValueForbidden", "sendInitialEvents", "Forbidden: sendInitialEvents is forbidden for list");
}

int options_check_list(struct request *q, struct err *e) {
    struct found f = {e, "ListOptions", false};
    const char *match = http_query(q->http, match_field), *send = http_query(q->http, "sendInitialEvents");
    const char *token = http_query(q->http, "continue"), *rv = http_query(q->http, "resourceVersion");
    int64_t number;
    int rc = request_query_int(q, "limit", 0, &number, e);
    if (!rc) rc = request_query_int(q, "timeoutSeconds", 0, &number, e);
    if (rc) return rc;
    bool watch = str_eq(q->verb, "watch") || request_query_bool(q, "watch");
    if (watch && !send && str_empty(match) && (str_empty(rv) || str_eq(rv, "0"))) /* what such a watch means */
        send = "true", match = "NotOlderThan";
    if (watch)
        check_watch(&f, match, send, token);
    else
        check_list(&f, match, send, token, rv);
    return verdict(&f);
}
