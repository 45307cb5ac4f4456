/* The matcher: all threads of the program at once, one code point at a time (Thompson's construction as Rob Pike's
 * matchers have it), so that time is text times program and no pattern can blow up. Threads stand in order of
 * preference; each knows where its match began. Instructions are entered once per place in the text, with a stack of
 * our own, so depth is bounded too.
 * Upstream: RE2, by Russ Cox's description (swtch.com/~rsc/regexp/regexp2.html). */
#include "pkg/cel/regex.h"

struct threads {
    uint32_t *pc, n;
    size_t *start;
};
struct matcher {
    const struct regex *re;
    const char *s;
    size_t n;
    uint32_t *seen, mark; /* by instruction: the mark of the list it is in */
    uint32_t *stack;
};

static bool in_class(const struct re_class *c, uint32_t ch) {
    bool hit = false;
    for (uint32_t i = 0; i < c->n && !hit; i++) {
        hit = ch >= c->ranges[i][0] && ch <= c->ranges[i][1];
        if (!hit && c->fold && (ch | 32) >= 'a' && (ch | 32) <= 'z' && ch < 128)
            hit = (ch ^ 32) >= c->ranges[i][0] && (ch ^ 32) <= c->ranges[i][1];
    }
    return hit != c->negated;
}

static bool word_at(const struct matcher *m, size_t i) {
    if (i >= m->n) return false;
    char c = m->s[i];
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_';
}

static bool holds(const struct matcher *m, uint32_t what, size_t at) {
    switch (what) {
        case RE_BEGIN_TEXT: return at == 0;
        case RE_END_TEXT: return at == m->n;
        case RE_BEGIN_LINE: return at == 0 || m->s[at - 1] == '\n';
        case RE_END_LINE: return at == m->n || m->s[at] == '\n';
        default: {
            bool edge = (at > 0 && word_at(m, at - 1)) != word_at(m, at);
            return edge == (what == RE_WORD);
        }
    }
}

/* Enters what can be reached from pc without reading. */
static void enter(struct matcher *m, struct threads *t, uint32_t pc, size_t start, size_t at) {
    uint32_t n = 0;
    m->stack[n++] = pc;
    while (n > 0) {
        pc = m->stack[--n];
        if (m->seen[pc] == m->mark) continue;
        m->seen[pc] = m->mark;
        const struct re_inst *i = &m->re->prog[pc];
        switch (i->op) {
            case RE_JUMP: m->stack[n++] = i->x; break;
            case RE_SPLIT:
                m->stack[n++] = i->y;
                m->stack[n++] = i->x;
                break;
            case RE_ASSERT:
                if (holds(m, i->x, at)) m->stack[n++] = pc + 1;
                break;
            default: t->pc[t->n] = pc; t->start[t->n++] = start;
        }
    }
}

static bool reads(const struct regex *re, const struct re_inst *i, uint32_t ch) {
    switch (i->op) {
        case RE_CHAR: return ch == i->x;
        case RE_ANY: return true;
        default: return in_class(&re->classes[i->x], ch);
    }
}

bool regex_find(struct arena *a, const struct regex *re, const char *s, size_t n, size_t from, size_t *start,
                size_t *end) {
    _cleanup_arena_ struct arena *scratch = arena_new_sized(re->n * 48 + 256);
    struct matcher m = {re, s,
                        n,  arena_zalloc(scratch, re->n * sizeof(uint32_t)),
                        0,  arena_alloc(scratch, (2 * re->n + 2) * sizeof(uint32_t))};
    struct threads lists[2], *now = &lists[0], *next = &lists[1];
    for (int i = 0; i < 2; i++) {
        lists[i].n = 0;
        lists[i].pc = arena_alloc(scratch, re->n * sizeof(uint32_t));
        lists[i].start = arena_alloc(scratch, re->n * sizeof(size_t));
    }
    bool found = false;
    m.mark = 1;
    for (size_t at = from;;) {
        if (!found) enter(&m, now, 0, at, at);
        if (now->n == 0 && found) break;
        size_t after = at;
        bool end_of_text = at >= n;
        uint32_t ch = end_of_text ? 0 : utf8_next(s, n, &after);
        if (ch == 0x0 && after - at == 2) ch = 0; /* C0 80 */
        m.mark++;
        next->n = 0;
        for (uint32_t i = 0; i < now->n; i++) {
            const struct re_inst *inst = &re->prog[now->pc[i]];
            if (inst->op == RE_MATCH) {
                found = true;
                if (!start) return true;
                *start = now->start[i];
                *end = at;
                break; /* what stands behind is less preferred */
            }
            if (!end_of_text && reads(re, inst, ch)) enter(&m, next, now->pc[i] + 1, now->start[i], after);
        }
        if (end_of_text) break;
        struct threads *swap = now;
        now = next;
        next = swap;
        at = after;
    }
    return found;
}
