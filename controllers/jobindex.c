/* Sets of completion indexes: sorted ranges. */
#include "job.h"

void index_set_add(struct arena *a, struct index_set *s, int32_t i) {
    size_t k = 0;
    while (k < s->n && s->items[k].to + 1 < i) k++;
    if (k < s->n && s->items[k].from <= i && i <= s->items[k].to) return;
    if (k < s->n && i == s->items[k].to + 1) {
        s->items[k].to = i;
        if (k + 1 < s->n && s->items[k + 1].from == i + 1) {
            s->items[k].to = s->items[k + 1].to;
            memmove(s->items + k + 1, s->items + k + 2, (s->n - k - 2) * sizeof(*s->items));
            s->n--;
        }
        return;
    }
    if (k < s->n && i == s->items[k].from - 1) {
        s->items[k].from = i;
        return;
    }
    ARENA_GROW(a, s->items, s->n, s->cap);
    memmove(s->items + k + 1, s->items + k, (s->n - k) * sizeof(*s->items));
    s->items[k] = (struct index_range){i, i};
    s->n++;
}

bool index_set_has(const struct index_set *s, int32_t i) {
    for (size_t k = 0; k < s->n; k++)
        if (s->items[k].from <= i && i <= s->items[k].to) return true;
    return false;
}

int32_t index_set_count(const struct index_set *s) {
    int32_t n = 0;
    for (size_t k = 0; k < s->n; k++) n += s->items[k].to - s->items[k].from + 1;
    return n;
}

/* "1,3-5,7": two neighbours are written with a comma, as upstream does. */
char *index_set_format(struct arena *a, const struct index_set *s) {
    struct buf b = BUF_INIT;
    for (size_t k = 0; k < s->n; k++) {
        const struct index_range *r = &s->items[k];
        if (b.len) buf_addc(&b, ',');
        buf_printf(&b, "%d", r->from);
        if (r->to > r->from) buf_printf(&b, "%c%d", r->to == r->from + 1 ? ',' : '-', r->to);
    }
    char *out = arena_strndup(a, b.len ? b.data : "", b.len);
    buf_done(&b);
    return out;
}

void index_set_parse(struct arena *a, const char *text, struct index_set *s) {
    *s = (struct index_set){0};
    for (const char *p = str_or_empty(text); *p;) {
        char *end;
        long from = strtol(p, &end, 10), to = from;
        if (end == p) return;
        if (*end == '-') to = strtol(end + 1, &end, 10);
        for (long i = from; i <= to && i <= INT32_MAX; i++) index_set_add(a, s, (int32_t)i);
        p = *end == ',' ? end + 1 : end + strlen(end);
    }
}
