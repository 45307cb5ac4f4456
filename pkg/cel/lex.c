/* The lexer: one token at a time, and what the escapes of string and bytes literals mean.
 *
 * A token is a place in the source; nothing is copied until a literal is unescaped. "1.foo" is a number only when a
 * digit follows the dot, and a letter right after a number starts the next token, as ANTLR's longest match has it.
 * Upstream: parser/gen/CEL.g4, parser/unescape.go. */
#include "pkg/cel/internal.h"

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static int hex_value(char c) { return is_digit(c) ? c - '0' : (c | 32) - 'a' + 10; }

static char peek(const struct lexer *l, size_t ahead) {
    size_t i = l->at + ahead;
    return i < l->is->len ? l->is->src[i] : 0;
}

static void skip_space(struct lexer *l) {
    for (;;) {
        char c = peek(l, 0);
        if (l->at < l->is->len && (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\f')) {
            l->at++;
        } else if (c == '/' && peek(l, 1) == '/') {
            while (l->at < l->is->len && peek(l, 0) != '\n') l->at++;
        } else {
            return;
        }
    }
}

static struct token token_of(struct lexer *l, uint32_t pos, enum tok kind) {
    return (struct token){kind, pos, l->at - pos};
}

static struct token lex_number(struct lexer *l) {
    uint32_t pos = l->at;
    enum tok kind = T_INT;
    if (peek(l, 0) == '0' && peek(l, 1) == 'x' && is_hex(peek(l, 2))) {
        l->at += 2;
        while (is_hex(peek(l, 0))) l->at++;
    } else {
        while (is_digit(peek(l, 0))) l->at++;
        if (peek(l, 0) == '.' && is_digit(peek(l, 1))) {
            kind = T_FLOAT;
            l->at++;
            while (is_digit(peek(l, 0))) l->at++;
        }
        size_t sign = peek(l, 1) == '+' || peek(l, 1) == '-';
        if ((peek(l, 0) | 32) == 'e' && is_digit(peek(l, 1 + sign))) {
            kind = T_FLOAT;
            l->at += 1 + (uint32_t)sign;
            while (is_digit(peek(l, 0))) l->at++;
        }
    }
    if (kind == T_INT && (peek(l, 0) | 32) == 'u') {
        l->at++;
        kind = T_UINT;
    }
    return token_of(l, pos, kind);
}

/* `prefix`: letters before the quote. False when the literal does not end. */
static bool lex_string(struct lexer *l, size_t prefix, bool raw) {
    uint32_t start = l->at;
    l->at += (uint32_t)prefix;
    char q = peek(l, 0);
    bool triple = peek(l, 1) == q && peek(l, 2) == q;
    l->at += triple ? 3 : 1;
    while (l->at < l->is->len) {
        char c = peek(l, 0);
        if (c == '\\' && !raw) {
            l->at += 2;
            continue;
        }
        if (c == q && !triple) {
            l->at++;
            return true;
        }
        if (c == q && peek(l, 1) == q && peek(l, 2) == q) {
            l->at += 3;
            return true;
        }
        if (!triple && (c == '\n' || c == '\r')) break;
        l->at++;
    }
    l->at = start;
    return false;
}

static size_t string_prefix(const struct lexer *l, bool *raw, bool *bytes) {
    size_t i = 0;
    *raw = *bytes = false;
    if ((peek(l, i) | 32) == 'b') {
        *bytes = true;
        i++;
    }
    if ((peek(l, i) | 32) == 'r') {
        *raw = true;
        i++;
    }
    return peek(l, i) == '"' || peek(l, i) == '\'' ? i : SIZE_MAX;
}

static const struct {
    char text[3];
    enum tok kind;
} symbols[] = {
    {"==", T_EQ},      {"!=", T_NE},    {"<=", T_LE},      {">=", T_GE},      {"&&", T_AND},   {"||", T_OR},
    {"<", T_LT},       {">", T_GT},     {"[", T_LBRACKET}, {"]", T_RBRACKET}, {"{", T_LBRACE}, {"}", T_RBRACE},
    {"(", T_LPAREN},   {")", T_RPAREN}, {".", T_DOT},      {",", T_COMMA},    {"-", T_MINUS},  {"!", T_NOT},
    {"?", T_QUESTION}, {":", T_COLON},  {"+", T_PLUS},     {"*", T_STAR},     {"/", T_SLASH},  {"%", T_PERCENT},
};
static const struct {
    const char *text;
    enum tok kind;
} words[] = {{"true", T_TRUE}, {"false", T_FALSE}, {"null", T_NULL}, {"in", T_IN}};

static struct token lex_word(struct lexer *l) {
    uint32_t pos = l->at;
    while (is_letter(peek(l, 0)) || is_digit(peek(l, 0))) l->at++;
    size_t n = l->at - pos;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strlen(words[i].text) == n && memcmp(words[i].text, l->is->src + pos, n) == 0)
            return token_of(l, pos, words[i].kind);
    return token_of(l, pos, T_IDENT);
}

static bool lex_escaped_ident(struct lexer *l) {
    size_t i = 1;
    for (;; i++) {
        char c = peek(l, i);
        if (!is_letter(c) && !is_digit(c) && c != '.' && c != '-' && c != '/' && c != ' ') break;
    }
    if (i == 1 || peek(l, i) != '`') return false;
    l->at += (uint32_t)i + 1;
    return true;
}

struct token lex_next(struct lexer *l) {
    for (;;) {
        skip_space(l);
        uint32_t pos = l->at;
        if (pos >= l->is->len) return token_of(l, pos, T_EOF);
        char c = peek(l, 0);
        bool raw, bytes;
        size_t prefix = string_prefix(l, &raw, &bytes);
        if (prefix != SIZE_MAX) {
            if (lex_string(l, prefix, raw)) return token_of(l, pos, bytes ? T_BYTES : T_STRING);
        } else if (is_digit(c) || (c == '.' && is_digit(peek(l, 1)))) {
            return lex_number(l);
        } else if (is_letter(c)) {
            return lex_word(l);
        } else if (c == '`') {
            if (lex_escaped_ident(l)) return token_of(l, pos, T_ESC_IDENT);
        } else {
            for (size_t i = 0; i < ARRAY_LEN(symbols); i++) {
                size_t n = strlen(symbols[i].text);
                if (l->is->len - pos < n || memcmp(l->is->src + pos, symbols[i].text, n) != 0) continue;
                l->at += (uint32_t)n;
                return token_of(l, pos, symbols[i].kind);
            }
        }
        size_t after = pos;
        utf8_next(l->is->src, l->is->len, &after);
        if (prefix != SIZE_MAX) after = l->is->len; /* an open string: the rest of the text */
        issue_add(l->is, pos, "Syntax error: token recognition error at: '%.*s'", (int)MIN_OF(after - pos, (size_t)256),
                  l->is->src + pos);
        l->at = (uint32_t)after;
    }
}

/* ---- literals ---- */

struct unescape {
    const char *p, *end;
    bool bytes;
    char *out;
    size_t n;
    const char *msg;
};

static void put_code_point(struct unescape *u, uint32_t c) { u->n += utf8_put(c, u->out + u->n); }

static bool take_digits(struct unescape *u, int count, int base, uint32_t *out) {
    uint32_t v = 0;
    for (int i = 0; i < count; i++, u->p++) {
        if (u->p >= u->end || !is_hex(*u->p) || hex_value(*u->p) >= base) {
            u->msg = "unable to unescape string";
            return false;
        }
        v = v * (uint32_t)base + (uint32_t)hex_value(*u->p);
    }
    *out = v;
    return true;
}

static bool unescape_coded(struct unescape *u, char c) {
    uint32_t v;
    int digits = c == 'u' ? 4 : c == 'U' ? 8 : (c | 32) == 'x' ? 2 : 3, base = is_digit(c) ? 8 : 16;
    if (is_digit(c)) u->p--;
    if ((c == 'u' || c == 'U') && u->bytes) {
        u->msg = "unable to unescape string";
        return false;
    }
    if (!take_digits(u, digits, base, &v)) return false;
    if (u->bytes) {
        if (v > 255) {
            u->msg = "unable to unescape string";
            return false;
        }
        u->out[u->n++] = (char)v;
        return true;
    }
    if (v > 0x10FFFF || (v >= 0xD800 && v <= 0xDFFF)) {
        u->msg = "invalid unicode code point";
        return false;
    }
    put_code_point(u, v);
    return true;
}

static bool unescape_one(struct unescape *u) {
    static const char from[] = "abfnrtv\"'\\?`", to[] = "\a\b\f\n\r\t\v\"'\\?`";
    if (++u->p >= u->end) {
        u->msg = "unable to unescape string, found '\\' as last character";
        return false;
    }
    char c = *u->p++;
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        u->out[u->n++] = to[at - from];
        return true;
    }
    if (c == 'x' || c == 'X' || c == 'u' || c == 'U' || (c >= '0' && c <= '3')) return unescape_coded(u, c);
    u->msg = "unable to unescape string";
    return false;
}

bool lex_unescape(struct arena *a, const char *p, size_t n, bool bytes, const char **out, size_t *out_n,
                  const char **msg) {
    bool raw = false;
    if (bytes) p++, n--;
    if ((*p | 32) == 'r') {
        raw = true;
        p++, n--;
    }
    size_t quotes = n >= 6 && p[0] == p[1] && p[1] == p[2] ? 3 : 1;
    struct unescape u = {p + quotes, p + n - quotes, bytes, arena_alloc(a, n * 2 + 4), 0, NULL};
    while (u.p < u.end) {
        if (*u.p == '\\' && !raw) {
            if (!unescape_one(&u)) {
                *msg = u.msg;
                return false;
            }
        } else if (*u.p == '\r') { /* line ends are \n whatever the file has */
            u.out[u.n++] = '\n';
            u.p += u.p + 1 < u.end && u.p[1] == '\n' ? 2 : 1;
        } else if (bytes && (unsigned char)*u.p == 0xC0) { /* a NUL in the source is held as C0 80 */
            u.out[u.n++] = 0;
            u.p += 2;
        } else {
            u.out[u.n++] = *u.p++;
        }
    }
    u.out[u.n] = 0;
    *out = u.out;
    *out_n = u.n;
    return true;
}
