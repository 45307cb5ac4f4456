/* Errors. A function that can fail returns 0 or a negative errno-like code and fills the `struct err *` that is its
 * last argument; on success the err is left untouched. Callers that do not care pass NULL. Library code never logs:
 * it wraps context into the err and returns, and the edge of a program (a request handler, a reconcile loop, main)
 * logs once.
 *
 * An err can carry what a Kubernetes Status carries: HTTP code, reason, details (kind, name, retry) and causes
 * (reason, field path, message). The API server turns it into a Status body with no further knowledge. */
#pragma once

#include "util.h"

#define ERR_MSG_MAX 1024

struct err_cause {
    char *reason; /* FieldValueInvalid, FieldValueRequired, ... */
    char *field;  /* spec.containers[0].name */
    char *message;
};

struct err {
    int code;           /* negative errno-like code, 0 when unset */
    int status;         /* HTTP status for the API, 0 when this is no API error */
    const char *reason; /* Status reason ("NotFound"), a string constant or NULL */
    char msg[ERR_MSG_MAX];
    /* details of a Status; owned by the err */
    char *group, *kind, *name, *uid;
    int retry_after_seconds;
    struct err_cause *causes;
    size_t n_causes, cap_causes;
};

#define _cleanup_err_ _cleanup_(err_done)

/* Releases what the err owns and zeroes it. NULL-safe. */
void err_done(struct err *e);
/* Fills `e` (may be NULL) and returns `code`, so that `return err_set(e, -EINVAL, "...")` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) _printf_(3, 4);
/* As err_set for an errno value (positive or negative), appending ": strerror". Returns -errno. */
int err_errno(struct err *e, int errnum, const char *fmt, ...) _printf_(3, 4);
/* Puts "context: " in front of the message; keeps code and Status. Returns e->code (or -EIO without an err). */
int err_wrap(struct err *e, const char *fmt, ...) _printf_(2, 3);
/* Fills an API error: HTTP status and Status reason. Returns a negative code that fits (-ENOENT for 404, ...). */
int err_status(struct err *e, int status, const char *reason, const char *fmt, ...) _printf_(4, 5);
/* Adds a cause to details.causes; strings are copied. */
void err_cause_add(struct err *e, const char *reason, const char *field, const char *fmt, ...) _printf_(4, 5);
/* Sets details.group/kind/name (NULL leaves one alone); strings are copied. */
void err_details(struct err *e, const char *group, const char *kind, const char *name);
/* Moves src into dst (dst's old content is released, src is zeroed). */
void err_move(struct err *dst, struct err *src);
