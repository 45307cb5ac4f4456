/* Structured log on stderr, one line an entry: time level program message key="value" ... Only the edge of a program
 * logs (main, a request handler, a reconcile loop); libraries return a struct err. Thread-safe: one write(2) a line.
 *
 *     log_info("pod started", "pod", pod_name, "container", c->name, NULL);
 */
#pragma once

#include "util.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Name shown in each line, and the lowest level shown. Called once from main. */
void log_init(const char *program, enum log_level min);
enum log_level log_get_level(void);
/* "debug".."error", or a klog -v number: 0 or -EINVAL. */
int log_level_parse(const char *s, enum log_level *out);
/* Key, value pairs of const char *, ended by NULL; a NULL value shows as "". */
void log_kv(enum log_level level, const char *msg, ...) __attribute__((sentinel));
/* printf form. */
void log_fmt(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_debug(...) log_kv(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_kv(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_kv(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_kv(LOG_ERROR, __VA_ARGS__)
