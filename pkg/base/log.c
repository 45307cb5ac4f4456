#include "log.h"

#include <stdarg.h>

#include "buf.h"
#include "ktime.h"

static const char *program_name = "coracle";
static enum log_level min_level = LOG_INFO;
static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_init(const char *program, enum log_level min) {
    program_name = program;
    min_level = min;
}

enum log_level log_get_level(void) { return min_level; }

int log_level_parse(const char *s, enum log_level *out) {
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++)
        if (strcmp(s, level_names[i]) == 0) {
            *out = (enum log_level)i;
            return 0;
        }
    int64_t v;
    if (str_to_i64(s, &v) < 0) return -EINVAL;
    *out = v >= 4 ? LOG_DEBUG : LOG_INFO;
    return 0;
}

static void start_line(struct buf *b, enum log_level level) {
    char when[KTIME_MAX];
    ktime_format_micro(ktime_now(), when);
    buf_printf(b, "%s %-5s %s ", when, level_names[level], program_name);
}

static void end_line(struct buf *b) {
    buf_addc(b, '\n');
    (void)!write(STDERR_FILENO, b->data, b->len);
}

static void add_value(struct buf *b, const char *v) {
    buf_addc(b, '"');
    for (const char *s = str_or_empty(v); *s; s++) {
        if (*s == '"' || *s == '\\') buf_addc(b, '\\');
        if (*s == '\n')
            buf_adds(b, "\\n");
        else
            buf_addc(b, *s);
    }
    buf_addc(b, '"');
}

void log_kv(enum log_level level, const char *msg, ...) {
    if (level < min_level) return;
    _cleanup_buf_ struct buf b = {.limit = 16384};
    start_line(&b, level);
    buf_adds(&b, msg);
    va_list ap;
    va_start(ap, msg);
    const char *key;
    while ((key = va_arg(ap, const char *))) {
        const char *value = va_arg(ap, const char *);
        buf_printf(&b, " %s=", key);
        add_value(&b, value);
    }
    va_end(ap);
    b.failed = false;
    b.limit = 0;
    end_line(&b);
}

void log_fmt(enum log_level level, const char *fmt, ...) {
    if (level < min_level) return;
    _cleanup_buf_ struct buf b = BUF_INIT;
    start_line(&b, level);
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    end_line(&b);
}
