/* What is wrong with an expression, shown as cel-go shows it: a line with the place and the words, the source line,
 * and dots with a caret under it. Columns count code points; wide dots stand under wide characters. Upstream:
 * common/error.go, common/errors.go. */
#include "pkg/cel/internal.h"

enum { MAX_SNIPPET = 16384, MAX_MESSAGE = 4096 };

void issue_add(struct issues *is, uint32_t pos, const char *fmt, ...) {
    if (is->seen++ >= CEL_MAX_ISSUES) return;
    va_list ap;
    va_start(ap, fmt);
    char *msg = arena_vprintf(is->a, fmt, ap);
    va_end(ap);
    if (strlen(msg) > MAX_MESSAGE) msg[MAX_MESSAGE] = 0;
    ARENA_GROW(is->a, is->items, is->n, is->cap);
    uint32_t i = is->n++;
    for (; i > 0 && is->items[i - 1].pos > pos; i--) is->items[i] = is->items[i - 1];
    is->items[i] = (struct issue){pos, msg};
}

static void write_issue(struct buf *b, const struct issues *is, const struct issue *it) {
    size_t pos = MIN_OF((size_t)it->pos, is->len), start = 0, line = 1;
    for (size_t i = 0; i < pos; i++)
        if (is->src[i] == '\n') {
            line++;
            start = i + 1;
        }
    size_t end = start;
    while (end < is->len && is->src[end] != '\n') end++;
    size_t column = utf8_count(is->src + start, pos - start);
    buf_printf(b, "ERROR: <input>:%zu:%zu: %s", line, column + 1, it->msg);
    if (end - start > MAX_SNIPPET) return;
    buf_adds(b, "\n | ");
    for (size_t i = start; i < end; i++) buf_addc(b, is->src[i] == '\t' ? ' ' : is->src[i]);
    buf_adds(b, "\n | ");
    size_t at = start;
    while (at < pos) {
        size_t before = at;
        utf8_next(is->src, pos, &at);
        buf_adds(b, at - before > 1 ? "\xef\xbc\x8e" : ".");
    }
    size_t after = at;
    if (after < end) utf8_next(is->src, end, &after);
    buf_adds(b, after - at > 1 ? "\xef\xbc\xbe" : "^");
}

const char *issues_text(struct issues *is) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (uint32_t i = 0; i < is->n; i++) {
        if (i) buf_addc(&b, '\n');
        write_issue(&b, is, &is->items[i]);
    }
    if (is->seen > is->n) buf_printf(&b, "\n%u more errors were truncated", is->seen - is->n);
    return arena_strndup(is->a, b.data ? b.data : "", b.len);
}
