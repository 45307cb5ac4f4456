/* gRPC's own small formats: message prefix, percent-encoded status messages, time-outs, and the mapping between its
 * codes and errno values (one table, both ways). */
#include <ctype.h>

#include "pkg/grpc/internal.h"

/* The first row of a code is the errno that grpc_err gives; the first row of an errno is its code. */
static const struct {
    enum grpc_code code;
    int err;
} codes[] = {
    {GRPC_CANCELLED, ECANCELED},
    {GRPC_UNKNOWN, EIO},
    {GRPC_INVALID_ARGUMENT, EINVAL},
    {GRPC_DEADLINE_EXCEEDED, ETIMEDOUT},
    {GRPC_NOT_FOUND, ENOENT},
    {GRPC_ALREADY_EXISTS, EEXIST},
    {GRPC_PERMISSION_DENIED, EACCES},
    {GRPC_PERMISSION_DENIED, EPERM},
    {GRPC_RESOURCE_EXHAUSTED, EMSGSIZE},
    {GRPC_RESOURCE_EXHAUSTED, ENOSPC},
    {GRPC_RESOURCE_EXHAUSTED, ENOMEM},
    {GRPC_RESOURCE_EXHAUSTED, EAGAIN},
    {GRPC_FAILED_PRECONDITION, EBUSY},
    {GRPC_ABORTED, ESTALE},
    {GRPC_OUT_OF_RANGE, ERANGE},
    {GRPC_UNIMPLEMENTED, ENOSYS},
    {GRPC_UNIMPLEMENTED, EOPNOTSUPP},
    {GRPC_INTERNAL, EPROTO},
    {GRPC_UNAVAILABLE, ECONNREFUSED},
    {GRPC_UNAVAILABLE, ECONNRESET},
    {GRPC_UNAVAILABLE, EPIPE},
    {GRPC_UNAVAILABLE, ESHUTDOWN},
    {GRPC_DATA_LOSS, EBADMSG},
    {GRPC_UNAUTHENTICATED, EKEYREJECTED},
};

int grpc_err(struct err *e, enum grpc_code code, const char *fmt, ...) {
    int rc = -EIO;
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if (codes[i].code == code) {
            rc = -codes[i].err;
            break;
        }
    char msg[ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    return err_set(e, rc, "%s", msg);
}

enum grpc_code grpc_code_of(const struct err *e) {
    if (!e->code) return GRPC_OK;
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if (codes[i].err == -e->code) return codes[i].code;
    return GRPC_UNKNOWN;
}

const char *grpc_code_name(enum grpc_code code) {
    static const char *const names[] = {
        "OK",       "Canceled",        "Unknown",          "InvalidArgument",   "DeadlineExceeded",
        "NotFound", "AlreadyExists",   "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
        "Aborted",  "OutOfRange",      "Unimplemented",    "Internal",          "Unavailable",
        "DataLoss", "Unauthenticated",
    };
    return (unsigned)code < ARRAY_LEN(names) ? names[code] : "Unknown";
}

void grpc_frame(struct buf *b, const struct api_type *t, const void *message) {
    size_t at = b->len;
    buf_add(b, "\0\0\0\0\0", GRPC_PREFIX);
    api_to_proto(b, t, message);
    if (b->failed) return;
    size_t n = b->len - at - GRPC_PREFIX;
    for (int i = 0; i < 4; i++) b->data[at + 1 + (size_t)i] = (char)(n >> (24 - 8 * i));
}

int grpc_prefix(const char *p, size_t n, size_t *len, struct err *e) {
    if (n < GRPC_PREFIX) return 0;
    const unsigned char *u = (const unsigned char *)p;
    if (u[0]) return grpc_err(e, GRPC_UNIMPLEMENTED, "compressed messages are not supported");
    *len = (size_t)u[1] << 24 | (size_t)u[2] << 16 | (size_t)u[3] << 8 | u[4];
    if (*len > GRPC_MESSAGE_MAX)
        return err_set(e, -EMSGSIZE, "message of %zu bytes is larger than %d", *len, GRPC_MESSAGE_MAX);
    return 1;
}

char *grpc_percent_encode(struct arena *a, const char *s) {
    static const char hex[] = "0123456789ABCDEF";
    size_t n = strnlen(s, GRPC_STATUS_TEXT_MAX);
    char *out = arena_alloc(a, n * 3 + 1), *o = out;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= ' ' && c <= '~' && c != '%') {
            *o++ = (char)c;
        } else {
            *o++ = '%';
            *o++ = hex[c >> 4];
            *o++ = hex[c & 15];
        }
    }
    *o = 0;
    return out;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bad escapes stay as they are (the specification wants leniency here). */
char *grpc_percent_decode(struct arena *a, const char *s) {
    char *out = arena_alloc(a, strlen(s) + 1), *o = out;
    for (; *s; s++) {
        int hi = *s == '%' ? hex_value(s[1]) : -1, lo = hi >= 0 ? hex_value(s[2]) : -1;
        if (lo >= 0 && (hi || lo)) {
            *o++ = (char)(hi << 4 | lo);
            s += 2;
        } else {
            *o++ = *s;
        }
    }
    *o = 0;
    return out;
}

static const struct {
    char unit;
    int64_t ns;
} units[] = {
    {'n', 1}, {'u', 1000}, {'m', NS_PER_MS}, {'S', NS_PER_SEC}, {'M', 60 * NS_PER_SEC}, {'H', 3600 * NS_PER_SEC}};

int64_t grpc_timeout_parse(const char *s) {
    int64_t v = 0;
    if (!s || !isdigit((unsigned char)*s)) return 0;
    for (int digits = 0; isdigit((unsigned char)*s); s++) {
        if (++digits > 8) return 0;
        v = v * 10 + (*s - '0');
    }
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (units[i].unit == *s && !s[1]) return v > INT64_MAX / units[i].ns ? INT64_MAX : v * units[i].ns;
    return 0;
}

/* At most eight digits, in the finest unit that allows it. */
void grpc_timeout_format(int64_t ns, char out[16]) {
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        int64_t v = ns / units[i].ns;
        if (v > 99999999) continue;
        snprintf(out, 16, "%u%c", (unsigned)(v ? v : 1), units[i].unit);
        return;
    }
    snprintf(out, 16, "99999999H");
}
