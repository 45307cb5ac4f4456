/* The parser: recursive descent over the grammar of CEL, macros expanded as their calls are met.
 *
 *   expr = or ['?' or ':' expr]     relation = calc {op calc}      unary = {'!'} member | {'-'} member
 *   or = and {'||' and}             calc: + - below * / %          member = primary {.name | .name(...) | [expr]}
 *
 * Chains of && and || become balanced trees, so that long ones are not deep. Depth is counted in the tree that comes
 * out, so nothing that walks it can run out of stack. The parser stops at its first syntax error: its words are those
 * that cel-go's generated parser uses, but that one goes on and reports what follows from it. Upstream:
 * parser/parser.go, parser/gen/CEL.g4. */
#include <math.h>

#include "pkg/cel/internal.h"

struct parser {
    struct arena *a;
    const struct cel_env *env;
    struct issues *is;
    struct lexer lex;
    struct token tok, next; /* the current one and the one after it */
    unsigned depth;
    const char *stack;
    bool failed;
};

#define WANT_EXPR                                                                                           \
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, " \
    "IDENTIFIER}"

/* ---- nodes ---- */

struct node *node_new(struct arena *a, enum node_kind k, uint32_t pos) {
    struct node *n = arena_zalloc(a, sizeof(*n));
    n->kind = k;
    n->pos = pos;
    n->depth = 1;
    return n;
}

static void deepen(struct node *n, const struct node *child) {
    if (child && child->depth >= n->depth) n->depth = child->depth + 1;
}

struct node *node_call(struct arena *a, uint32_t pos, const char *fn, struct node *target, struct node **args,
                       uint32_t n) {
    struct node *c = node_new(a, N_CALL, pos);
    c->name = fn;
    c->call.target = target;
    c->call.args = args;
    c->n = n;
    deepen(c, target);
    for (uint32_t i = 0; i < n; i++) deepen(c, args[i]);
    return c;
}

struct node *node_lit(struct arena *a, uint32_t pos, struct cel_val v) {
    struct node *n = node_new(a, N_LIT, pos);
    n->lit = v;
    return n;
}

struct node *node_ident(struct arena *a, uint32_t pos, const char *name) {
    struct node *n = node_new(a, N_IDENT, pos);
    n->name = name;
    n->id.slot = n->id.local = -1;
    return n;
}

/* ---- tokens ---- */

static void advance(struct parser *p) {
    p->tok = p->next;
    p->next = lex_next(&p->lex);
}

static const char *tok_text(struct parser *p, struct token t) {
    return t.kind == T_EOF ? "<EOF>" : arena_strndup(p->a, p->is->src + t.pos, t.len);
}

static struct node *broken(struct parser *p, uint32_t pos) {
    struct node *n = node_lit(p->a, pos, cel_null());
    n->failed = true;
    return n;
}

static struct node *mismatch(struct parser *p, const char *want) {
    if (!p->failed)
        issue_add(p->is, p->tok.pos, "Syntax error: mismatched input '%s' expecting %s", tok_text(p, p->tok), want);
    p->failed = true;
    return broken(p, p->tok.pos);
}

static bool expect(struct parser *p, enum tok k, const char *want) {
    if (p->tok.kind != k) {
        mismatch(p, want);
        return false;
    }
    advance(p);
    return true;
}

static struct node *too_deep(struct parser *p, struct node *n) {
    if (n->depth <= CEL_MAX_DEPTH) return n;
    if (!p->failed) issue_add(p->is, n->pos, "max recursion depth exceeded");
    p->failed = true;
    return broken(p, n->pos);
}

static const char *const reserved[] = {"as",        "break",  "const",  "continue", "else", "for",
                                       "function",  "if",     "import", "let",      "loop", "package",
                                       "namespace", "return", "var",    "void",     "while"};

static bool is_reserved(const char *s) {
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
        if (strcmp(reserved[i], s) == 0) return true;
    return false;
}

/* ---- literals ---- */

static struct node *parse_int(struct parser *p, bool negative, uint32_t pos) {
    struct token t = p->tok;
    bool uns = t.kind == T_UINT;
    const char *s = arena_strndup(p->a, p->is->src + t.pos, t.len - uns);
    bool hex = s[0] == '0' && s[1] == 'x';
    errno = 0;
    uint64_t u = strtoull(hex ? s + 2 : s, NULL, hex ? 16 : 10);
    bool range = errno == ERANGE;
    advance(p);
    if (uns) {
        if (range) issue_add(p->is, pos, "invalid uint literal");
        return node_lit(p->a, pos, cel_uint(u));
    }
    if (range || u > (negative ? (uint64_t)INT64_MAX + 1 : INT64_MAX)) {
        issue_add(p->is, pos, "invalid int literal");
        u = 0;
    }
    return node_lit(p->a, pos, cel_int(negative ? (int64_t)(0 - u) : (int64_t)u));
}

static struct node *parse_float(struct parser *p, bool negative, uint32_t pos) {
    const char *s = arena_strndup(p->a, p->is->src + p->tok.pos, p->tok.len);
    double d = strtod(s, NULL);
    if (isinf(d)) issue_add(p->is, pos, "invalid double literal");
    advance(p);
    return node_lit(p->a, pos, cel_double(negative ? -d : d));
}

static struct node *parse_text(struct parser *p) {
    struct token t = p->tok;
    const char *s = "", *msg = NULL;
    size_t n = 0;
    if (!lex_unescape(p->a, p->is->src + t.pos, t.len, t.kind == T_BYTES, &s, &n, &msg))
        issue_add(p->is, t.pos, "%s", msg);
    advance(p);
    return node_lit(p->a, t.pos, t.kind == T_BYTES ? val_bytes(s, n) : cel_strn(s, n));
}

/* ---- calls ---- */

static struct node *parse_or_expr(struct parser *p);
static struct node *parse_nested(struct parser *p);

/* Arguments up to `close`. `optional` (may be NULL) collects the marks of ?expr. */
static struct node **parse_list(struct parser *p, enum tok close, const char *close_text, bool trailing_comma,
                                bool **optional, uint32_t *n_out) {
    struct node **items = NULL;
    bool *marks = NULL;
    uint32_t n = 0, cap = 0, mark_cap = 0;
    while (p->tok.kind != close && !p->failed) {
        if (trailing_comma && n == 0 && p->tok.kind == T_COMMA && p->next.kind == close) {
            advance(p);
            break;
        }
        bool mark = optional && p->tok.kind == T_QUESTION;
        if (mark) advance(p);
        ARENA_GROW(p->a, items, n, cap);
        if (optional) {
            ARENA_GROW(p->a, marks, n, mark_cap);
            marks[n] = mark;
        }
        items[n++] = parse_nested(p);
        if (p->tok.kind != T_COMMA) break;
        advance(p);
        if (p->tok.kind == close && !trailing_comma) {
            mismatch(p, WANT_EXPR);
            break;
        }
    }
    if (!p->failed) expect(p, close, close_text);
    if (optional) *optional = marks;
    *n_out = n;
    return items;
}

static struct node *call_or_macro(struct parser *p, uint32_t pos, const char *fn, struct node *target,
                                  struct node **args, uint32_t n) {
    struct parser_call c = {p->a, p->is, p->env->libs, pos, target, args, n};
    struct node *m = p->failed ? NULL : macro_expand(&c, fn);
    if (m) {
        deepen(m, target);
        for (uint32_t i = 0; i < n; i++) deepen(m, args[i]);
        return too_deep(p, m);
    }
    return too_deep(p, node_call(p->a, pos, fn, target, args, n));
}

static struct node *binary(struct parser *p, uint32_t pos, const char *fn, struct node *l, struct node *r) {
    struct node **args = arena_alloc(p->a, 2 * sizeof(*args));
    args[0] = l;
    args[1] = r;
    return too_deep(p, node_call(p->a, pos, fn, NULL, args, 2));
}

/* ---- primaries ---- */

/* The start of an entry of a map or struct: its question mark. False at a comma that stands alone between the braces. */
static bool entry_begins(struct parser *p, const struct node *m, struct entry *e) {
    *e = (struct entry){.optional = p->tok.kind == T_QUESTION};
    bool lone_comma = p->tok.kind == T_COMMA && m->n == 0 && p->next.kind == T_RBRACE;
    if (e->optional || lone_comma) advance(p);
    return !lone_comma;
}

static struct node *parse_map(struct parser *p) {
    struct node *m = node_new(p->a, N_MAP, p->tok.pos);
    uint32_t cap = 0;
    advance(p);
    while (p->tok.kind != T_RBRACE && !p->failed) {
        struct entry e;
        if (!entry_begins(p, m, &e)) break;
        e.key = parse_nested(p);
        e.pos = p->tok.pos;
        if (p->failed || !expect(p, T_COLON, "':'")) break;
        e.value = parse_nested(p);
        deepen(m, e.key);
        deepen(m, e.value);
        ARENA_GROW(p->a, m->map.entries, m->n, cap);
        m->map.entries[m->n++] = e;
        if (p->tok.kind != T_COMMA) break;
        advance(p);
    }
    if (!p->failed) expect(p, T_RBRACE, "{'}', ','}");
    return too_deep(p, m);
}

static const char *field_name(struct parser *p) {
    const char *s = p->is->src + p->tok.pos;
    if (p->tok.kind == T_IDENT)
        s = arena_strndup(p->a, s, p->tok.len);
    else if (p->tok.kind == T_ESC_IDENT)
        s = arena_strndup(p->a, s + 1, p->tok.len - 2);
    else
        return NULL;
    advance(p);
    return s;
}

static struct node *parse_struct(struct parser *p, const char *name) {
    struct node *m = node_new(p->a, N_STRUCT, p->tok.pos);
    uint32_t cap = 0;
    m->name = name;
    advance(p);
    while (p->tok.kind != T_RBRACE && !p->failed) {
        struct entry e;
        if (!entry_begins(p, m, &e)) break;
        e.field = field_name(p);
        if (!e.field) {
            mismatch(p, "{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}");
            break;
        }
        e.pos = p->tok.pos;
        if (!expect(p, T_COLON, "':'")) break;
        e.value = parse_nested(p);
        deepen(m, e.value);
        ARENA_GROW(p->a, m->map.entries, m->n, cap);
        m->map.entries[m->n++] = e;
        if (p->tok.kind != T_COMMA) break;
        advance(p);
    }
    if (!p->failed) expect(p, T_RBRACE, "{'}', ','}");
    return too_deep(p, m);
}

/* a.b.C{...} begins like a.b.C: the dots are looked ahead for the brace. */
static bool struct_name(struct parser *p, const char **out) {
    struct lexer l = p->lex;
    struct token t = p->next;
    uint32_t seen = p->is->seen, kept = p->is->n;
    uint32_t end = p->tok.pos + p->tok.len;
    while (t.kind == T_DOT) {
        t = lex_next(&l);
        if (t.kind != T_IDENT) break;
        end = t.pos + t.len;
        t = lex_next(&l);
    }
    p->is->seen = seen; /* whatever is wrong ahead is said when it is reached */
    p->is->n = kept;
    if (t.kind != T_LBRACE) return false;
    struct buf b = BUF_INIT;
    for (uint32_t i = p->tok.pos; i < end; i++) {
        char c = p->is->src[i];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') buf_addc(&b, c);
    }
    *out = arena_strndup(p->a, b.data, b.len);
    buf_done(&b);
    while (p->tok.kind != T_LBRACE) advance(p);
    return true;
}

static struct node *parse_name(struct parser *p) {
    bool dot = p->tok.kind == T_DOT;
    const char *prefix = dot ? "." : "";
    if (dot) advance(p);
    if (p->tok.kind != T_IDENT) return mismatch(p, dot ? "IDENTIFIER" : WANT_EXPR);
    const char *name;
    if ((p->next.kind == T_DOT || p->next.kind == T_LBRACE) && struct_name(p, &name))
        return parse_struct(p, arena_printf(p->a, "%s%s", prefix, name));
    uint32_t pos = p->tok.pos;
    name = arena_strndup(p->a, p->is->src + pos, p->tok.len);
    advance(p);
    if (is_reserved(name)) {
        issue_add(p->is, pos, "reserved identifier: %s", name);
        p->failed = true;
        return broken(p, pos);
    }
    if (dot) name = arena_printf(p->a, ".%s", name);
    if (p->tok.kind != T_LPAREN) return node_ident(p->a, pos, name);
    pos = p->tok.pos;
    advance(p);
    uint32_t n;
    struct node **args = parse_list(p, T_RPAREN, "{')', ','}", false, NULL, &n);
    return call_or_macro(p, pos, name, NULL, args, n);
}

static struct node *parse_primary(struct parser *p) {
    uint32_t pos = p->tok.pos;
    struct node *n;
    switch (p->tok.kind) {
        case T_TRUE:
        case T_FALSE:
            n = node_lit(p->a, pos, cel_bool(p->tok.kind == T_TRUE));
            advance(p);
            return n;
        case T_NULL: advance(p); return node_lit(p->a, pos, cel_null());
        case T_INT:
        case T_UINT: return parse_int(p, false, pos);
        case T_FLOAT: return parse_float(p, false, pos);
        case T_STRING:
        case T_BYTES: return parse_text(p);
        case T_LPAREN:
            advance(p);
            n = parse_nested(p);
            if (!p->failed) expect(p, T_RPAREN, "')'");
            return n;
        case T_LBRACKET:
            n = node_new(p->a, N_LIST, pos);
            advance(p);
            n->list.args = parse_list(p, T_RBRACKET, "{']', ','}", true, &n->list.optional, &n->n);
            for (uint32_t i = 0; i < n->n; i++) deepen(n, n->list.args[i]);
            return too_deep(p, n);
        case T_LBRACE: return parse_map(p);
        case T_DOT:
        case T_IDENT: return parse_name(p);
        default: return mismatch(p, WANT_EXPR);
    }
}

/* ---- members and operators ---- */

static struct node *parse_dot(struct parser *p, struct node *of) {
    uint32_t pos = p->tok.pos;
    advance(p);
    bool optional = p->tok.kind == T_QUESTION;
    if (optional) advance(p);
    uint32_t name_pos = p->tok.pos;
    bool plain = p->tok.kind == T_IDENT;
    const char *name = field_name(p);
    if (!name) {
        if (p->tok.kind == T_TRUE || p->tok.kind == T_FALSE || p->tok.kind == T_NULL) return mismatch(p, "IDENTIFIER");
        return mismatch(p, "{IDENTIFIER, ESC_IDENTIFIER}");
    }
    if (optional) return binary(p, pos, FN_OPT_SELECT, of, node_lit(p->a, name_pos, cel_str(name)));
    if (plain && p->tok.kind == T_LPAREN) {
        pos = p->tok.pos;
        advance(p);
        uint32_t n;
        struct node **args = parse_list(p, T_RPAREN, "{')', ','}", false, NULL, &n);
        return call_or_macro(p, pos, name, of, args, n);
    }
    struct node *s = node_new(p->a, N_SELECT, pos);
    s->of = of;
    s->name = name;
    deepen(s, of);
    return too_deep(p, s);
}

static struct node *parse_index(struct parser *p, struct node *of) {
    uint32_t pos = p->tok.pos;
    advance(p);
    bool optional = p->tok.kind == T_QUESTION;
    if (optional) advance(p);
    struct node *i = parse_nested(p);
    if (!p->failed) expect(p, T_RBRACKET, "']'");
    return binary(p, pos, optional ? FN_OPT_INDEX : FN_INDEX, of, i);
}

static struct node *parse_members(struct parser *p, struct node *n) {
    while (!p->failed && (p->tok.kind == T_DOT || p->tok.kind == T_LBRACKET))
        n = p->tok.kind == T_DOT ? parse_dot(p, n) : parse_index(p, n);
    return n;
}

static struct node *parse_unary(struct parser *p) {
    enum tok op = p->tok.kind;
    if (op != T_NOT && op != T_MINUS) return parse_members(p, parse_primary(p));
    uint32_t pos = p->tok.pos;
    size_t count = 0;
    while (p->tok.kind == op) {
        /* the minus right before a number is part of it */
        if (op == T_MINUS && count == 0 && (p->next.kind == T_INT || p->next.kind == T_FLOAT)) {
            advance(p);
            return parse_members(p, p->tok.kind == T_INT ? parse_int(p, true, pos) : parse_float(p, true, pos));
        }
        count++;
        advance(p);
    }
    struct node *m = parse_members(p, parse_primary(p));
    if (count % 2 == 0) return m;
    struct node **args = arena_alloc(p->a, sizeof(*args));
    args[0] = m;
    return too_deep(p, node_call(p->a, pos, op == T_NOT ? FN_NOT : FN_NEG, NULL, args, 1));
}

static const struct {
    enum tok tok;
    uint8_t level; /* 0 relation, 1 sum, 2 product */
    const char *fn;
} operators[] = {
    {T_LT, 0, FN_LT},     {T_LE, 0, FN_LE},    {T_GT, 0, FN_GT},     {T_GE, 0, FN_GE},
    {T_EQ, 0, FN_EQ},     {T_NE, 0, FN_NE},    {T_IN, 0, FN_IN},     {T_PLUS, 1, FN_ADD},
    {T_MINUS, 1, FN_SUB}, {T_STAR, 2, FN_MUL}, {T_SLASH, 2, FN_DIV}, {T_PERCENT, 2, FN_MOD},
};

static const char *operator_at(const struct parser *p, uint8_t level) {
    for (size_t i = 0; i < ARRAY_LEN(operators); i++)
        if (operators[i].tok == p->tok.kind && operators[i].level == level) return operators[i].fn;
    return NULL;
}

static struct node *parse_binary(struct parser *p, uint8_t level) {
    struct node *l = level == 2 ? parse_unary(p) : parse_binary(p, level + 1);
    const char *fn;
    while (!p->failed && (fn = operator_at(p, level))) {
        uint32_t pos = p->tok.pos;
        advance(p);
        struct node *r = level == 2 ? parse_unary(p) : parse_binary(p, level + 1);
        l = binary(p, pos, fn, l, r);
    }
    return l;
}

static struct node *balance(struct parser *p, const char *fn, struct node **terms, const uint32_t *ops, size_t lo,
                            size_t hi) {
    size_t mid = (lo + hi + 1) / 2;
    struct node *l = mid == lo ? terms[mid] : balance(p, fn, terms, ops, lo, mid - 1);
    struct node *r = mid == hi ? terms[mid + 1] : balance(p, fn, terms, ops, mid + 1, hi);
    return binary(p, ops[mid], fn, l, r);
}

static struct node *parse_logic(struct parser *p, enum tok op) {
    struct node **terms = NULL;
    uint32_t *ops = NULL;
    size_t n = 0, cap = 0, ops_n = 0, ops_cap = 0;
    for (;;) {
        ARENA_GROW(p->a, terms, n, cap);
        terms[n++] = op == T_OR ? parse_logic(p, T_AND) : parse_binary(p, 0);
        if (p->failed || p->tok.kind != op) break;
        ARENA_GROW(p->a, ops, ops_n, ops_cap);
        ops[ops_n++] = p->tok.pos;
        advance(p);
    }
    return ops_n == 0 ? terms[0] : balance(p, op == T_OR ? FN_OR : FN_AND, terms, ops, 0, MIN_OF(ops_n, n - 1) - 1);
}

static struct node *parse_or_expr(struct parser *p) { return parse_logic(p, T_OR); }

static struct node *parse_nested(struct parser *p) {
    if (p->failed) return broken(p, p->tok.pos);
    if (++p->depth > CEL_MAX_DEPTH || stack_spent(p->stack)) {
        issue_add(p->is, p->tok.pos, "expression recursion limit exceeded: %d", CEL_MAX_DEPTH);
        p->failed = true;
        p->depth--;
        return broken(p, p->tok.pos);
    }
    struct node *n = parse_or_expr(p);
    if (!p->failed && p->tok.kind == T_QUESTION) {
        uint32_t pos = p->tok.pos;
        advance(p);
        struct node **args = arena_alloc(p->a, 3 * sizeof(*args));
        args[0] = n;
        args[1] = parse_or_expr(p);
        if (!p->failed) expect(p, T_COLON, "':'");
        args[2] = parse_nested(p);
        n = too_deep(p, node_call(p->a, pos, FN_COND, NULL, args, 3));
    }
    p->depth--;
    return n;
}

struct node *parse_expr(struct arena *a, const struct cel_env *env, struct issues *is) {
    struct parser p = {.a = a, .env = env, .is = is, .lex = {is, 0}, .stack = stack_here()};
    advance(&p);
    advance(&p);
    struct node *n = parse_nested(&p);
    if (!p.failed && p.tok.kind != T_EOF)
        issue_add(is, p.tok.pos, "Syntax error: %s input '%s' expecting <EOF>",
                  p.next.kind == T_EOF ? "extraneous" : "mismatched", tok_text(&p, p.tok));
    return n;
}
