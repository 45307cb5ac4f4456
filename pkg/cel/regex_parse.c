/* Regular expressions in RE2's syntax, compiled to a small program for the matcher in regex.c.
 *
 * Why our own: matches() must take linear time whatever the pattern (RE2's promise, on which the cost model rests).
 * RE2 is C++; PCRE2's DFA matcher backtracks over nothing but has another syntax and prefers the longest match, not
 * the first; POSIX's regcomp knows neither the syntax nor UTF-8 outside a locale. The subset that matters is small.
 *
 * A pattern becomes a tree, the tree instructions (repetitions are unrolled, bounded by RE_MAX_PROGRAM). Not
 * supported: Unicode classes (\pL), which are refused; (?i) folds the letters of ASCII only. Upstream: regexp/syntax
 * of Go, RE2. */
#include "pkg/cel/regex.h"

enum re_kind { N_EMPTY, N_CHAR_, N_ANY_, N_CLASS_, N_CAT, N_ALT, N_REPEAT, N_ASSERT_ };
struct re_node {
    enum re_kind kind;
    uint32_t x;
    bool lazy;
    int min, max; /* REPEAT; max -1: no end */
    struct re_node *l, *r;
};

enum { F_FOLD = 1, F_MULTI = 2, F_DOTALL = 4, F_UNGREEDY = 8 };

struct re_parser {
    struct arena *a;
    struct regex *re;
    const char *p;
    size_t n, at;
    unsigned flags, depth;
    const char *err;
};

static struct re_node *parse_alt(struct re_parser *p);

static struct re_node *re_node_new(struct re_parser *p, enum re_kind k, uint32_t x, struct re_node *l,
                                   struct re_node *r) {
    struct re_node *n = arena_zalloc(p->a, sizeof(*n));
    n->kind = k;
    n->x = x;
    n->l = l;
    n->r = r;
    return n;
}

static struct re_node *bad(struct re_parser *p, const char *fmt, ...) _printf_(2, 3);
static struct re_node *bad(struct re_parser *p, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    if (!p->err) p->err = arena_vprintf(p->a, fmt, ap);
    va_end(ap);
    p->at = p->n;
    return re_node_new(p, N_EMPTY, 0, NULL, NULL);
}

static bool more(const struct re_parser *p) { return p->at < p->n; }
static char look(const struct re_parser *p, size_t ahead) { return p->at + ahead < p->n ? p->p[p->at + ahead] : 0; }
static bool take(struct re_parser *p, const char *s) {
    size_t n = strlen(s);
    if (p->n - p->at < n || memcmp(p->p + p->at, s, n) != 0) return false;
    p->at += n;
    return true;
}

/* ---- classes ---- */

static struct re_class *class_new(struct re_parser *p, uint32_t *index) {
    ARENA_GROW(p->a, p->re->classes, p->re->n_classes, p->re->cap_classes);
    *index = p->re->n_classes++;
    struct re_class *c = &p->re->classes[*index];
    *c = (struct re_class){.fold = p->flags & F_FOLD};
    return c;
}

static void class_add(struct re_parser *p, struct re_class *c, uint32_t lo, uint32_t hi) {
    ARENA_GROW(p->a, c->ranges, c->n, c->cap);
    c->ranges[c->n][0] = lo;
    c->ranges[c->n++][1] = hi;
}

static const struct {
    char letter;
    uint32_t ranges[4][2];
    uint32_t n;
} perl_classes[] = {
    {'d', {{'0', '9'}}, 1},
    {'w', {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, 4},
    {'s', {{'\t', '\n'}, {'\f', '\r'}, {' ', ' '}}, 3},
};
static const struct {
    const char *name;
    uint32_t ranges[4][2];
    uint32_t n;
} posix_classes[] = {
    {"alnum", {{'0', '9'}, {'A', 'Z'}, {'a', 'z'}}, 3},
    {"alpha", {{'A', 'Z'}, {'a', 'z'}}, 2},
    {"ascii", {{0, 127}}, 1},
    {"blank", {{'\t', '\t'}, {' ', ' '}}, 2},
    {"cntrl", {{0, 31}, {127, 127}}, 2},
    {"digit", {{'0', '9'}}, 1},
    {"graph", {{'!', '~'}}, 1},
    {"lower", {{'a', 'z'}}, 1},
    {"print", {{' ', '~'}}, 1},
    {"punct", {{'!', '/'}, {':', '@'}, {'[', '`'}, {'{', '~'}}, 4},
    {"space", {{'\t', '\r'}, {' ', ' '}}, 2},
    {"upper", {{'A', 'Z'}}, 1},
    {"word", {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, 4},
    {"xdigit", {{'0', '9'}, {'A', 'F'}, {'a', 'f'}}, 3},
};

/* The ranges, or what lies between them. They are sorted in the tables. */
static void add_ranges(struct re_parser *p, struct re_class *c, const uint32_t (*r)[2], uint32_t n, bool negated) {
    uint32_t from = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!negated)
            class_add(p, c, r[i][0], r[i][1]);
        else if (r[i][0] > from)
            class_add(p, c, from, r[i][0] - 1);
        from = r[i][1] + 1;
    }
    if (negated) class_add(p, c, from, 0x10FFFF);
}

static bool add_perl(struct re_parser *p, struct re_class *c, char letter) {
    for (size_t i = 0; i < ARRAY_LEN(perl_classes); i++)
        if (perl_classes[i].letter == (letter | 32)) {
            add_ranges(p, c, perl_classes[i].ranges, perl_classes[i].n, !(letter & 32));
            return true;
        }
    return false;
}

static bool add_posix(struct re_parser *p, struct re_class *c) {
    size_t start = p->at + 2;
    bool negated = look(p, 2) == '^';
    const char *end = memmem(p->p + start, p->n - start, ":]", 2);
    if (!end) return false;
    start += negated;
    for (size_t i = 0; i < ARRAY_LEN(posix_classes); i++) {
        size_t n = strlen(posix_classes[i].name);
        if (p->p + start + n != end || memcmp(p->p + start, posix_classes[i].name, n) != 0) continue;
        add_ranges(p, c, posix_classes[i].ranges, posix_classes[i].n, negated);
        p->at = (size_t)(end - p->p) + 2;
        return true;
    }
    bad(p, "invalid character class range: `%.*s`", (int)(end + 2 - p->p - (ptrdiff_t)p->at), p->p + p->at);
    return true;
}

/* ---- escapes ---- */

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

static bool hex_escape(struct re_parser *p, uint32_t *out) {
    uint32_t v = 0;
    int n = 0;
    if (look(p, 0) == '{') {
        for (p->at++; hex_digit(look(p, 0)) >= 0 && n < 8; n++) v = v * 16 + (uint32_t)hex_digit(p->p[p->at++]);
        *out = v;
        return n > 0 && v <= 0x10FFFF && take(p, "}");
    }
    for (; n < 2 && hex_digit(look(p, 0)) >= 0; n++) v = v * 16 + (uint32_t)hex_digit(p->p[p->at++]);
    *out = v;
    return n == 2;
}

/* The code point of an escape; p->at is behind the backslash. */
static uint32_t escaped_char(struct re_parser *p) {
    static const char from[] = "aftnrv", to[] = "\a\f\t\n\r\v";
    size_t start = p->at - 1;
    uint32_t v;
    if (!more(p)) {
        bad(p, "trailing backslash at end of expression: ``");
        return 0;
    }
    char c = p->p[p->at];
    if (c == 'x') {
        p->at++;
        if (hex_escape(p, &v)) return v;
    } else if (c == '0') {
        for (v = 0; look(p, 0) >= '0' && look(p, 0) <= '7'; p->at++) v = (v * 8 + (uint32_t)(look(p, 0) - '0')) & 0x1FF;
        return v;
    } else if (c && strchr(from, c)) {
        p->at++;
        return (unsigned char)to[strchr(from, c) - from];
    } else if ((unsigned char)c < 0x80 && hex_digit(c) < 0 && !((c | 32) >= 'a' && (c | 32) <= 'z')) {
        p->at++;
        return (unsigned char)c;
    }
    bad(p, "invalid escape sequence: `%.*s`", (int)MIN_OF(p->n - start, (size_t)2), p->p + start);
    return 0;
}

static uint32_t next_char(struct re_parser *p) { return utf8_next(p->p, p->n, &p->at); }

static uint32_t class_char(struct re_parser *p) { return take(p, "\\") ? escaped_char(p) : next_char(p); }

static struct re_node *parse_class(struct re_parser *p) {
    uint32_t index;
    size_t start = p->at - 1;
    struct re_class *c = class_new(p, &index);
    c->negated = take(p, "^");
    for (bool first = true; !p->err; first = false) {
        if (!more(p)) return bad(p, "missing closing ]: `%.*s`", (int)(p->n - start), p->p + start);
        if (!first && take(p, "]")) break;
        if (look(p, 0) == '[' && look(p, 1) == ':' && add_posix(p, c)) continue;
        if (look(p, 0) == '\\' && add_perl(p, c, look(p, 1))) {
            p->at += 2;
            continue;
        }
        uint32_t lo = class_char(p), hi = lo;
        if (look(p, 0) == '-' && look(p, 1) && look(p, 1) != ']') {
            p->at++;
            hi = class_char(p);
        }
        if (hi < lo) return bad(p, "invalid character class range: `%.*s`", (int)(p->at - start), p->p + start);
        class_add(p, c, lo, hi);
    }
    return re_node_new(p, N_CLASS_, index, NULL, NULL);
}

/* ---- the tree ---- */

static struct re_node *char_node(struct re_parser *p, uint32_t c) {
    bool letter = (c | 32) >= 'a' && (c | 32) <= 'z' && c < 128;
    if (!(p->flags & F_FOLD) || !letter) return re_node_new(p, N_CHAR_, c, NULL, NULL);
    uint32_t index;
    class_add(p, class_new(p, &index), c | 32, c | 32);
    return re_node_new(p, N_CLASS_, index, NULL, NULL);
}

static struct re_node *quoted(struct re_parser *p) {
    struct re_node *n = re_node_new(p, N_EMPTY, 0, NULL, NULL);
    while (more(p) && !take(p, "\\E")) n = re_node_new(p, N_CAT, 0, n, char_node(p, next_char(p)));
    return n;
}

static struct re_node *parse_escape(struct re_parser *p) {
    static const struct {
        char c;
        uint8_t what;
    } asserts[] = {{'A', RE_BEGIN_TEXT}, {'z', RE_END_TEXT}, {'b', RE_WORD}, {'B', RE_NOT_WORD}};
    char c = look(p, 0);
    for (size_t i = 0; i < ARRAY_LEN(asserts); i++)
        if (c == asserts[i].c) {
            p->at++;
            return re_node_new(p, N_ASSERT_, asserts[i].what, NULL, NULL);
        }
    if (take(p, "Q")) return quoted(p);
    if (c == 'd' || c == 'D' || c == 'w' || c == 'W' || c == 's' || c == 'S') {
        uint32_t index;
        add_perl(p, class_new(p, &index), c);
        p->at++;
        return re_node_new(p, N_CLASS_, index, NULL, NULL);
    }
    return char_node(p, escaped_char(p));
}

/* (?flags) and (?flags:...): true when a group follows. */
static bool parse_flags(struct re_parser *p, size_t start) {
    static const char names[] = "imsU";
    unsigned flags = p->flags;
    bool minus = false;
    for (; more(p); p->at++) {
        char c = look(p, 0);
        const char *at = c ? strchr(names, c) : NULL;
        if (at)
            flags = minus ? flags & ~(1u << (at - names)) : flags | 1u << (at - names);
        else if (c == '-' && !minus)
            minus = true;
        else
            break;
    }
    bool group = look(p, 0) == ':';
    if (!group && look(p, 0) != ')')
        bad(p, "invalid or unsupported Perl syntax: `%.*s`", (int)MIN_OF(p->n - start, (size_t)3), p->p + start);
    p->at++;
    p->flags = flags;
    return group;
}

static struct re_node *parse_group(struct re_parser *p) {
    size_t start = p->at - 1;
    unsigned outer = p->flags;
    if (++p->depth > RE_MAX_DEPTH) return bad(p, "expression nests too deeply");
    if (take(p, "?P<") || take(p, "?<")) {
        size_t name = p->at;
        while (more(p) && look(p, 0) != '>') p->at++;
        if (p->at == name || !take(p, ">"))
            return bad(p, "invalid named capture: `%.*s`", (int)(p->n - start), p->p + start);
    } else if (take(p, "?")) {
        if (!parse_flags(p, start)) { /* (?i) holds until the group around it ends */
            p->depth--;
            return re_node_new(p, N_EMPTY, 0, NULL, NULL);
        }
    }
    struct re_node *n = parse_alt(p);
    if (!p->err && !take(p, ")")) return bad(p, "missing closing ): `%.*s`", (int)p->n, p->p);
    p->flags = outer;
    p->depth--;
    return n;
}

static struct re_node *parse_atom(struct re_parser *p) {
    size_t start = p->at;
    char c = look(p, 0);
    bool multi = p->flags & F_MULTI;
    uint32_t index;
    switch (c) {
        case '(': p->at++; return parse_group(p);
        case '[': p->at++; return parse_class(p);
        case '\\': p->at++; return parse_escape(p);
        case '^': p->at++; return re_node_new(p, N_ASSERT_, multi ? RE_BEGIN_LINE : RE_BEGIN_TEXT, NULL, NULL);
        case '$': p->at++; return re_node_new(p, N_ASSERT_, multi ? RE_END_LINE : RE_END_TEXT, NULL, NULL);
        case '*':
        case '+':
        case '?': return bad(p, "missing argument to repetition operator: `%c`", c);
        case '.':
            p->at++;
            if (p->flags & F_DOTALL) return re_node_new(p, N_ANY_, 0, NULL, NULL);
            class_add(p, class_new(p, &index), '\n', '\n');
            p->re->classes[index].negated = true;
            return re_node_new(p, N_CLASS_, index, NULL, NULL);
        default: (void)start; return char_node(p, next_char(p));
    }
}

/* {n}, {n,}, {n,m}; anything else is a brace that stands for itself. */
static bool counted(struct re_parser *p, int *min, int *max) {
    size_t i = 1;
    int v[2] = {-1, -1}, k = 0;
    bool comma = false;
    for (; look(p, i) && look(p, i) != '}'; i++) {
        char c = look(p, i);
        if (c == ',' && !comma && v[0] >= 0) {
            comma = true;
            k = 1;
        } else if (c >= '0' && c <= '9') {
            v[k] = MIN_OF((v[k] < 0 ? 0 : v[k]) * 10 + (c - '0'), RE_MAX_REPEAT + 1);
        } else {
            return false;
        }
    }
    if (look(p, i) != '}' || v[0] < 0) return false;
    *min = v[0];
    *max = comma ? v[1] : v[0];
    if (*min > RE_MAX_REPEAT || *max > RE_MAX_REPEAT || (*max >= 0 && *max < *min))
        bad(p, "invalid repeat count: `%.*s`", (int)i + 1, p->p + p->at);
    else
        p->at += i + 1;
    return true;
}

static struct re_node *parse_repeat(struct re_parser *p) {
    struct re_node *n = parse_atom(p);
    for (bool again = false; more(p) && !p->err; again = true) {
        int min = 0, max = -1;
        size_t start = p->at;
        if (take(p, "*"))
            min = 0;
        else if (take(p, "+"))
            min = 1;
        else if (take(p, "?"))
            max = 1;
        else if (look(p, 0) != '{' || !counted(p, &min, &max))
            break;
        if (p->err) break;
        bool lazy = take(p, "?");
        if (again)
            return bad(p, "invalid nested repetition operator: `%.*s`", (int)(p->at - start + 1), p->p + start - 1);
        struct re_node *r = re_node_new(p, N_REPEAT, 0, n, NULL);
        r->min = min;
        r->max = max;
        r->lazy = lazy != ((p->flags & F_UNGREEDY) != 0);
        n = r;
    }
    return n;
}

static struct re_node *parse_cat(struct re_parser *p) {
    struct re_node *n = NULL;
    while (more(p) && look(p, 0) != '|' && look(p, 0) != ')') {
        struct re_node *r = parse_repeat(p);
        n = n ? re_node_new(p, N_CAT, 0, n, r) : r;
    }
    return n ? n : re_node_new(p, N_EMPTY, 0, NULL, NULL);
}

static struct re_node *parse_alt(struct re_parser *p) {
    struct re_node *n = parse_cat(p);
    while (take(p, "|")) n = re_node_new(p, N_ALT, 0, n, parse_cat(p));
    return n;
}

/* ---- the program ---- */

static uint32_t emit(struct re_parser *p, enum re_op op, uint32_t x, uint32_t y) {
    if (p->re->n >= RE_MAX_PROGRAM) {
        bad(p, "expression too large");
        return 0;
    }
    ARENA_GROW(p->a, p->re->prog, p->re->n, p->re->cap);
    p->re->prog[p->re->n] = (struct re_inst){op, x, y};
    return p->re->n++;
}

static void emit_node(struct re_parser *p, const struct re_node *n);

static void set_split(struct re_parser *p, uint32_t at, uint32_t in, uint32_t out, bool lazy) {
    if (p->err) return;
    p->re->prog[at].x = lazy ? out : in;
    p->re->prog[at].y = lazy ? in : out;
}

static void emit_repeat(struct re_parser *p, const struct re_node *n) {
    for (int i = 0; i < n->min && !p->err; i++) emit_node(p, n->l);
    if (n->max < 0) {
        uint32_t split = emit(p, RE_SPLIT, 0, 0);
        emit_node(p, n->l);
        emit(p, RE_JUMP, split, 0);
        set_split(p, split, split + 1, p->re->n, n->lazy);
        return;
    }
    uint32_t first = p->re->n, count = 0;
    for (int i = n->min; i < n->max && !p->err; i++, count++) {
        uint32_t split = emit(p, RE_SPLIT, UINT32_MAX, 0);
        (void)split;
        emit_node(p, n->l);
    }
    for (uint32_t i = first; i < p->re->n && !p->err; i++)
        if (p->re->prog[i].op == RE_SPLIT && p->re->prog[i].x == UINT32_MAX) set_split(p, i, i + 1, p->re->n, n->lazy);
}

static void emit_node(struct re_parser *p, const struct re_node *n) {
    static const uint8_t ops[] = {
        [N_CHAR_] = RE_CHAR, [N_ANY_] = RE_ANY, [N_CLASS_] = RE_CLASS, [N_ASSERT_] = RE_ASSERT};
    if (p->err) return;
    switch (n->kind) {
        case N_EMPTY: break;
        case N_CAT:
            emit_node(p, n->l);
            emit_node(p, n->r);
            break;
        case N_ALT: {
            uint32_t split = emit(p, RE_SPLIT, 0, 0);
            emit_node(p, n->l);
            uint32_t jump = emit(p, RE_JUMP, 0, 0);
            set_split(p, split, split + 1, p->re->n, false);
            emit_node(p, n->r);
            if (!p->err) p->re->prog[jump].x = p->re->n;
            break;
        }
        case N_REPEAT: emit_repeat(p, n); break;
        default: emit(p, ops[n->kind], n->x, 0);
    }
}

struct regex *regex_new(struct arena *a, const char *s, size_t n, const char **err) {
    struct regex *re = arena_zalloc(a, sizeof(*re));
    struct re_parser p = {.a = a, .re = re, .p = s, .n = n};
    struct re_node *root = parse_alt(&p);
    if (!p.err && more(&p)) bad(&p, "unexpected ): `%.*s`", (int)n, s);
    emit_node(&p, root);
    emit(&p, RE_MATCH, 0, 0);
    *err = p.err;
    return p.err ? NULL : re;
}
