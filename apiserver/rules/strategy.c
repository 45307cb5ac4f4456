/* Entry points of the rules that are not a topic of their own: warnings of a request. See strategy.h for the way of a
 * write through this folder. */
#include "apiserver/rules/strategy.h"

void rules_warn(struct rules_ctx *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *text = arena_vprintf(c->a, fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < c->n_warnings; i++)
        if (str_eq(c->warnings[i], text)) return;
    ARENA_GROW(c->a, c->warnings, c->n_warnings, c->cap_warnings);
    c->warnings[c->n_warnings++] = text;
}
