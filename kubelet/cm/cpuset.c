/* See cpuset.h. */
#include "kubelet/cm/cpuset.h"

#include <ctype.h>
#include <errno.h>

#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/base/util.h"

enum { WORDS = CPUSET_MAX / 64 };

void cpuset_add(struct cpuset *s, int id) {
    if (id >= 0 && id < CPUSET_MAX) s->words[id / 64] |= UINT64_C(1) << (id % 64);
}

bool cpuset_has(const struct cpuset *s, int id) {
    return id >= 0 && id < CPUSET_MAX && (s->words[id / 64] >> (id % 64) & 1);
}

size_t cpuset_count(const struct cpuset *s) {
    size_t n = 0;
    for (size_t i = 0; i < WORDS; i++) n += (size_t)__builtin_popcountll(s->words[i]);
    return n;
}

bool cpuset_empty(const struct cpuset *s) { return cpuset_next(s, -1) < 0; }

bool cpuset_equal(const struct cpuset *a, const struct cpuset *b) {
    return memcmp(a->words, b->words, sizeof(a->words)) == 0;
}

bool cpuset_within(const struct cpuset *part, const struct cpuset *whole) {
    struct cpuset rest = cpuset_minus(part, whole);
    return cpuset_empty(&rest);
}

struct cpuset cpuset_union(const struct cpuset *a, const struct cpuset *b) {
    struct cpuset r;
    for (size_t i = 0; i < WORDS; i++) r.words[i] = a->words[i] | b->words[i];
    return r;
}

struct cpuset cpuset_minus(const struct cpuset *a, const struct cpuset *b) {
    struct cpuset r;
    for (size_t i = 0; i < WORDS; i++) r.words[i] = a->words[i] & ~b->words[i];
    return r;
}

struct cpuset cpuset_and(const struct cpuset *a, const struct cpuset *b) {
    struct cpuset r;
    for (size_t i = 0; i < WORDS; i++) r.words[i] = a->words[i] & b->words[i];
    return r;
}

int cpuset_next(const struct cpuset *s, int id) {
    size_t at = (size_t)(id + 1);
    for (size_t i = at / 64; i < WORDS; i++) {
        uint64_t w = s->words[i];
        if (i == at / 64) w &= ~UINT64_C(0) << (at % 64);
        if (w) return (int)(i * 64) + __builtin_ctzll(w);
    }
    return -1;
}

/* A number at *p, which moves behind it. */
static int number(const char **p, int *out) {
    long v = 0;
    if (!isdigit((unsigned char)**p)) return -EINVAL;
    for (; isdigit((unsigned char)**p); ++*p)
        if ((v = v * 10 + (**p - '0')) >= CPUSET_MAX) return -ERANGE;
    *out = (int)v;
    return 0;
}

int cpuset_parse(const char *text, struct cpuset *out) {
    struct cpuset s = {0};
    const char *p = text;
    while (isspace((unsigned char)*p)) p++;
    while (*p) {
        int from, to, r = number(&p, &from);
        to = from;
        if (r == 0 && *p == '-') {
            p++;
            r = number(&p, &to);
        }
        if (r < 0) return r;
        if (to < from) return -EINVAL;
        for (int i = from; i <= to; i++) cpuset_add(&s, i);
        if (isspace((unsigned char)*p)) {
            while (isspace((unsigned char)*p)) p++;
            if (*p) return -EINVAL;
        } else if (*p == ',') {
            if (!*++p) return -EINVAL;
        } else if (*p) {
            return -EINVAL;
        }
    }
    *out = s;
    return 0;
}

char *cpuset_text(struct arena *a, const struct cpuset *s) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (int from = cpuset_next(s, -1); from >= 0;) {
        int to = from, next;
        while ((next = cpuset_next(s, to)) == to + 1) to = next;
        buf_printf(&b, b.len ? ",%d" : "%d", from);
        if (to > from) buf_printf(&b, "-%d", to);
        from = next;
    }
    return arena_strndup(a, b.len ? b.data : "", b.len);
}
