#include "err.h"

#include <stdarg.h>

void err_done(struct err *e) {
    if (!e) return;
    for (size_t i = 0; i < e->n_causes; i++) {
        free(e->causes[i].reason);
        free(e->causes[i].field);
        free(e->causes[i].message);
    }
    free(e->causes);
    free(e->group);
    free(e->kind);
    free(e->name);
    free(e->uid);
    *e = (struct err){0};
}

int err_set(struct err *e, int code, const char *fmt, ...) {
    if (!e) return code;
    /* formatted before the old content goes, as it may be among the arguments */
    char msg[ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    err_done(e);
    e->code = code;
    memcpy(e->msg, msg, sizeof(msg));
    return code;
}

int err_errno(struct err *e, int errnum, const char *fmt, ...) {
    int code = errnum > 0 ? -errnum : errnum;
    if (!e) return code;
    char msg[ERR_MSG_MAX], num[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    const char *why = strerrordesc_np(-code);
    if (!why) {
        snprintf(num, sizeof(num), "error %d", -code);
        why = num;
    }
    return err_set(e, code, "%s: %s", msg, why);
}

int err_wrap(struct err *e, const char *fmt, ...) {
    if (!e) return -EIO;
    char ctx[ERR_MSG_MAX], msg[ERR_MSG_MAX * 2 + 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(ctx, sizeof(ctx), fmt, ap);
    va_end(ap);
    snprintf(msg, sizeof(msg), "%s: %s", ctx, e->msg);
    msg[ERR_MSG_MAX - 1] = 0;
    memcpy(e->msg, msg, ERR_MSG_MAX);
    if (!e->code) e->code = -EIO;
    return e->code;
}

static int code_of_status(int status) {
    switch (status) {
        case 400:
        case 405:
        case 406:
        case 415:
        case 422: return -EINVAL;
        case 401:
        case 403: return -EACCES;
        case 404: return -ENOENT;
        case 409: return -EEXIST;
        case 410: return -ESTALE;
        case 413: return -EFBIG;
        case 429: return -EBUSY;
        case 504: return -ETIMEDOUT;
        default: return -EIO;
    }
}

int err_status(struct err *e, int status, const char *reason, const char *fmt, ...) {
    int code = code_of_status(status);
    if (!e) return code;
    char msg[ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    err_done(e);
    e->code = code;
    e->status = status;
    e->reason = reason;
    memcpy(e->msg, msg, sizeof(msg));
    return code;
}

void err_cause_add(struct err *e, const char *reason, const char *field, const char *fmt, ...) {
    if (!e) return;
    char msg[ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    VEC_GROW(e->causes, e->n_causes, e->cap_causes);
    e->causes[e->n_causes++] = (struct err_cause){
        .reason = xstrdup(str_or_empty(reason)), .field = xstrdup(str_or_empty(field)), .message = xstrdup(msg)};
}

static void replace(char **slot, const char *value) {
    if (!value) return;
    free(*slot);
    *slot = xstrdup(value);
}

void err_details(struct err *e, const char *group, const char *kind, const char *name) {
    if (!e) return;
    replace(&e->group, group);
    replace(&e->kind, kind);
    replace(&e->name, name);
}

void err_move(struct err *dst, struct err *src) {
    if (dst == src) return;
    if (dst) {
        err_done(dst);
        *dst = *src;
        *src = (struct err){0};
    } else {
        err_done(src);
    }
}
