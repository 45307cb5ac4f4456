/* The reader: a pull parser over one buffer (RFC 8259), and the tree builder on top of it.
 *
 * The pull parser is a small state machine: `state` says what may come next, `is_object` has a bit per open bracket.
 * Deliberately strict: no comments, no trailing commas, no bare control characters, no bad UTF-8, no lone surrogates
 * beyond what Go tolerates (they become U+FFFD, as encoding/json does). */
#include <math.h>

#include "pkg/json/json.h"
#include "pkg/json/utf8.h"

enum state { ST_VALUE, ST_FIRST_VALUE, ST_FIRST_KEY, ST_KEY, ST_AFTER, ST_DONE };

void json_reader_init(struct json_reader *r, struct arena *a, const char *p, size_t len) {
    memset(r, 0, offsetof(struct json_reader, is_object));
    r->arena = a;
    r->start = r->p = p;
    r->end = p + len;
    r->state = ST_VALUE;
}

static enum json_tok fail(struct json_reader *r, const char *what) {
    if (!r->failed) snprintf(r->error, sizeof(r->error), "%s at offset %zu", what, (size_t)(r->p - r->start));
    r->failed = true;
    return JTOK_ERROR;
}

int json_reader_err(const struct json_reader *r, struct err *e) {
    return err_set(e, -EINVAL, "invalid JSON: %s", r->failed ? r->error : "unexpected value");
}

static bool in_object(const struct json_reader *r) {
    unsigned d = r->depth - 1;
    return r->is_object[d / 64] >> (d % 64) & 1;
}

static void skip_space(struct json_reader *r) {
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t' || *r->p == '\r')) r->p++;
}

/* Length of the valid UTF-8 sequence at p (2..4), 0 when it is none. */
unsigned utf8_len(const char *at, const char *end) {
    const unsigned char *p = (const unsigned char *)at;
    unsigned char c = p[0];
    unsigned n = c < 0x80                 ? 1
                 : c >= 0xc2 && c <= 0xdf ? 2
                 : c >= 0xe0 && c <= 0xef ? 3
                 : c >= 0xf0 && c <= 0xf4 ? 4
                                          : 0;
    if (!n || (size_t)(end - at) < n) return 0;
    for (unsigned i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) || (c == 0xf0 && p[1] < 0x90) ||
        (c == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static bool hex4(const char *p, const char *end, uint32_t *out) {
    if (end - p < 4) return false;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        uint32_t d = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                     : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                     : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                            : 16;
        if (d > 15) return false;
        v = v << 4 | d;
    }
    *out = v;
    return true;
}

static char *put_utf8(char *o, uint32_t c) {
    if (c == 0) { /* see json.h */
        *o++ = (char)0xc0;
        *o++ = (char)0x80;
    } else if (c < 0x80) {
        *o++ = (char)c;
    } else if (c < 0x800) {
        *o++ = (char)(0xc0 | c >> 6);
        *o++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *o++ = (char)(0xe0 | c >> 12);
        *o++ = (char)(0x80 | (c >> 6 & 63));
        *o++ = (char)(0x80 | (c & 63));
    } else {
        *o++ = (char)(0xf0 | c >> 18);
        *o++ = (char)(0x80 | (c >> 12 & 63));
        *o++ = (char)(0x80 | (c >> 6 & 63));
        *o++ = (char)(0x80 | (c & 63));
    }
    return o;
}

/* One \u escape, with its second half when it is a surrogate pair; *pp is after "\u". */
static bool read_unicode(const char **pp, const char *end, char **o) {
    uint32_t c, low;
    if (!hex4(*pp, end, &c)) return false;
    *pp += 4;
    if (c >= 0xd800 && c < 0xdc00 && end - *pp >= 6 && (*pp)[0] == '\\' && (*pp)[1] == 'u' &&
        hex4(*pp + 2, end, &low) && low >= 0xdc00 && low < 0xe000) {
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        *pp += 6;
    } else if (c >= 0xd800 && c < 0xe000) {
        c = 0xfffd;
    }
    *o = put_utf8(*o, c);
    return true;
}

/* True for the bytes that stand for themselves in a string: ASCII but for controls, the quote and the backslash. */
static bool plain(char c) { return c >= ' ' && c != '"' && c != '\\'; }

/* Eight plain bytes at p? Each test sets the top bit of the bytes it finds. */
static bool plain8(const char *p) {
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t v, quote, slash;
    memcpy(&v, p, sizeof(v));
    quote = v ^ ones * '"';
    slash = v ^ ones * '\\';
    return !(((v - ones * ' ') | v | (quote - ones) | (slash - ones)) & tops);
}

/* The string whose opening quote is at r->p. An escape never grows: six bytes of \uXXXX give at most three. */
static bool read_string(struct json_reader *r) {
    const char *p = r->p + 1, *q = p;
    while (r->end - q >= 8 && plain8(q)) q += 8;
    while (q < r->end && plain(*q)) q++;
    if (q < r->end && *q == '"') {
        r->str = arena_strndup(r->arena, p, (size_t)(q - p));
        r->len = (size_t)(q - p);
        r->p = q + 1;
        return true;
    }
    while (q < r->end && *q != '"') q += *q == '\\' && q + 1 < r->end ? 2 : 1;
    if (q >= r->end) {
        fail(r, "unterminated string");
        return false;
    }
    char *out = arena_alloc(r->arena, (size_t)(q - p) + 1), *o = out;
    while (p < q) {
        unsigned char c = (unsigned char)*p;
        if (c == '\\') {
            char esc = p[1];
            p += 2;
            switch (esc) {
                case '"':
                case '\\':
                case '/': *o++ = esc; break;
                case 'b': *o++ = '\b'; break;
                case 'f': *o++ = '\f'; break;
                case 'n': *o++ = '\n'; break;
                case 'r': *o++ = '\r'; break;
                case 't': *o++ = '\t'; break;
                case 'u':
                    if (read_unicode(&p, q, &o)) break;
                    /* fall through */
                default:
                    r->p = p;
                    fail(r, "invalid escape in string");
                    return false;
            }
        } else if (c < 0x20) {
            r->p = p;
            fail(r, "control character in string");
            return false;
        } else if (c < 0x80) {
            *o++ = *p++;
        } else {
            unsigned n = utf8_len(p, q);
            if (!n) {
                r->p = p;
                fail(r, "invalid UTF-8 in string");
                return false;
            }
            memcpy(o, p, n);
            o += n;
            p += n;
        }
    }
    *o = 0;
    r->str = out;
    r->len = (size_t)(o - out);
    r->p = q + 1;
    return true;
}

static enum json_tok read_number(struct json_reader *r) {
    const char *p = r->p, *start = p;
    bool integer = true;
    if (p < r->end && *p == '-') p++;
    if (p >= r->end || *p < '0' || *p > '9') return fail(r, "invalid value");
    if (*p == '0')
        p++;
    else
        while (p < r->end && *p >= '0' && *p <= '9') p++;
    if (p < r->end && *p == '.') {
        integer = false;
        const char *d = ++p;
        while (p < r->end && *p >= '0' && *p <= '9') p++;
        if (p == d) return fail(r, "invalid number");
    }
    if (p < r->end && (*p == 'e' || *p == 'E')) {
        integer = false;
        p++;
        if (p < r->end && (*p == '+' || *p == '-')) p++;
        const char *d = p;
        while (p < r->end && *p >= '0' && *p <= '9') p++;
        if (p == d) return fail(r, "invalid number");
    }
    r->p = p;
    r->len = (size_t)(p - start);
    r->str = arena_strndup(r->arena, start, r->len);
    return integer && str_to_i64(r->str, &r->i) == 0 ? JTOK_INT : JTOK_NUMBER;
}

static enum json_tok open_bracket(struct json_reader *r, bool object) {
    if (r->depth >= JSON_MAX_DEPTH) return fail(r, "nested too deeply");
    uint64_t bit = (uint64_t)1 << (r->depth % 64);
    if (object)
        r->is_object[r->depth / 64] |= bit;
    else
        r->is_object[r->depth / 64] &= ~bit;
    r->depth++;
    r->p++;
    r->state = object ? ST_FIRST_KEY : ST_FIRST_VALUE;
    return object ? JTOK_OBJ_BEGIN : JTOK_ARR_BEGIN;
}

static enum json_tok close_bracket(struct json_reader *r) {
    enum json_tok t = in_object(r) ? JTOK_OBJ_END : JTOK_ARR_END;
    r->p++;
    r->depth--;
    r->state = r->depth ? ST_AFTER : ST_DONE;
    return t;
}

static enum json_tok literal(struct json_reader *r, const char *word, size_t n, enum json_tok t) {
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0) return fail(r, "invalid value");
    r->p += n;
    return t;
}

static enum json_tok read_value(struct json_reader *r) {
    r->tok_start = r->p;
    char c = *r->p;
    if (c == '{') return open_bracket(r, true);
    if (c == '[') return open_bracket(r, false);
    enum json_tok t;
    switch (c) {
        case '"': t = read_string(r) ? JTOK_STRING : JTOK_ERROR; break;
        case 't': t = literal(r, "true", 4, JTOK_TRUE); break;
        case 'f': t = literal(r, "false", 5, JTOK_FALSE); break;
        case 'n': t = literal(r, "null", 4, JTOK_NULL); break;
        default: t = read_number(r);
    }
    if (t != JTOK_ERROR) r->state = r->depth ? ST_AFTER : ST_DONE;
    return t;
}

/* A key of plain characters need not be copied. */
static bool key_in_place(struct json_reader *r) {
    const char *p = r->p + 1;
    while (p < r->end && plain(*p)) p++;
    if (p >= r->end || *p != '"') return false;
    r->str = r->p + 1;
    r->len = (size_t)(p - r->str);
    r->p = p + 1;
    return true;
}

static enum json_tok read_key(struct json_reader *r) {
    if (*r->p != '"') return fail(r, "expected a member name");
    r->tok_start = r->p;
    if (!(r->keys_in_place && key_in_place(r)) && !read_string(r)) return JTOK_ERROR;
    skip_space(r);
    if (r->p >= r->end || *r->p != ':') return fail(r, "expected ':'");
    r->p++;
    r->state = ST_VALUE;
    return JTOK_KEY;
}

enum json_tok json_next(struct json_reader *r) {
    if (r->failed) return JTOK_ERROR;
    skip_space(r);
    if (r->state == ST_DONE) return r->p == r->end ? JTOK_END : fail(r, "unexpected data after the document");
    if (r->p >= r->end) return fail(r, "unexpected end");
    switch ((enum state)r->state) {
        case ST_FIRST_KEY:
            if (*r->p == '}') return close_bracket(r);
            return read_key(r);
        case ST_FIRST_VALUE:
            if (*r->p == ']') return close_bracket(r);
            return read_value(r);
        case ST_KEY: return read_key(r);
        case ST_VALUE: return read_value(r);
        case ST_AFTER:
            if (*r->p == (in_object(r) ? '}' : ']')) return close_bracket(r);
            if (*r->p != ',') return fail(r, "expected ',' or a closing bracket");
            r->p++;
            skip_space(r);
            if (r->p >= r->end) return fail(r, "unexpected end");
            return in_object(r) ? read_key(r) : read_value(r);
        case ST_DONE: break;
    }
    return fail(r, "unexpected end");
}

bool json_skip(struct json_reader *r, const char **raw, size_t *raw_len) {
    unsigned depth = r->depth;
    const char *start = r->tok_start;
    if (r->state == ST_VALUE) { /* after a key */
        enum json_tok t = json_next(r);
        if (t == JTOK_ERROR) return false;
        start = r->tok_start;
        if (t != JTOK_OBJ_BEGIN && t != JTOK_ARR_BEGIN)
            depth = r->depth + 1;
        else
            depth = r->depth;
    }
    while (r->depth >= depth)
        if (json_next(r) == JTOK_ERROR) return false;
    if (raw) *raw = start;
    if (raw_len) *raw_len = (size_t)(r->p - start);
    return true;
}

/* ---- trees ---- */

/* Where the builder is, for the paths of duplicate keys; lives on the C stack. */
struct place {
    const struct place *up;
    const char *key; /* NULL: an element */
    size_t index;
};

struct builder {
    struct json_reader r;
    struct arena *a;
    struct json_dups *dups;
};

static void write_place(struct buf *b, const struct place *at) {
    if (at->up) write_place(b, at->up);
    if (at->key) {
        if (b->len) buf_addc(b, '.');
        buf_adds(b, at->key);
    } else if (at->up) {
        buf_printf(b, "[%zu]", at->index);
    }
}

static void note_dup(struct builder *bd, const struct place *at) {
    if (!bd->dups) return;
    _cleanup_buf_ struct buf b = BUF_INIT;
    write_place(&b, at);
    const char *path = arena_strdup(bd->a, str_or_empty(b.data));
    for (size_t i = 0; i < bd->dups->n; i++)
        if (strcmp(bd->dups->paths[i], path) == 0) return;
    ARENA_GROW(bd->a, bd->dups->paths, bd->dups->n, bd->dups->cap);
    bd->dups->paths[bd->dups->n++] = path;
}

static struct json *node(struct arena *a, enum json_type t) {
    struct json *v = arena_zalloc(a, sizeof(*v));
    v->type = t;
    return v;
}

/* Small objects are searched; larger ones get an index, so that a hostile document costs no quadratic time. */
enum { INDEX_FROM = 32 };

struct key_index {
    uint32_t *slots; /* member number + 1 */
    uint32_t cap;
};

static uint32_t key_hash(const char *s) {
    uint32_t h = 2166136261u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return h;
}

static void index_put(struct key_index *ix, const char *key, uint32_t number) {
    uint32_t i = key_hash(key) & (ix->cap - 1);
    while (ix->slots[i]) i = (i + 1) & (ix->cap - 1);
    ix->slots[i] = number + 1;
}

static void index_grow(struct key_index *ix, const struct json *obj) {
    free(ix->slots);
    ix->cap = ix->cap ? ix->cap * 2 : INDEX_FROM * 4;
    ix->slots = xcalloc(ix->cap, sizeof(*ix->slots));
    for (uint32_t i = 0; i < obj->n; i++) index_put(ix, obj->members[i].key, i);
}

static struct json_member *index_find(struct key_index *ix, const struct json *obj, const char *key) {
    if (!ix->slots) {
        for (uint32_t i = 0; i < obj->n; i++) {
            const char *k = obj->members[i].key;
            if (*k == *key && strcmp(k, key) == 0) return &obj->members[i];
        }
        return NULL;
    }
    for (uint32_t i = key_hash(key) & (ix->cap - 1); ix->slots[i]; i = (i + 1) & (ix->cap - 1))
        if (strcmp(obj->members[ix->slots[i] - 1].key, key) == 0) return &obj->members[ix->slots[i] - 1];
    return NULL;
}

static struct json *build(struct builder *bd, enum json_tok t, const struct place *at);

static struct json *build_object(struct builder *bd, const struct place *at) {
    struct json *obj = node(bd->a, JSON_OBJECT);
    struct key_index ix = {0};
    size_t cap = 0;
    for (;;) {
        enum json_tok t = json_next(&bd->r);
        if (t == JTOK_OBJ_END) break;
        if (t != JTOK_KEY) goto failed;
        const char *key = bd->r.str;
        struct place here = {.up = at, .key = key};
        struct json_member *old = index_find(&ix, obj, key);
        if (old) note_dup(bd, &here);
        size_t number = old ? (size_t)(old - obj->members) : obj->n;
        struct json *v = build(bd, json_next(&bd->r), &here);
        if (!v) goto failed;
        if (old) {
            obj->members[number].value = v;
            continue;
        }
        ARENA_GROW(bd->a, obj->members, obj->n, cap);
        obj->members[obj->n++] = (struct json_member){key, v};
        if (obj->n >= INDEX_FROM) {
            if (obj->n * 2 > ix.cap)
                index_grow(&ix, obj);
            else
                index_put(&ix, key, obj->n - 1);
        }
    }
    obj->cap = (uint32_t)cap;
    free(ix.slots);
    return obj;
failed:
    free(ix.slots);
    return NULL;
}

static struct json *build_array(struct builder *bd, const struct place *at) {
    struct json *arr = node(bd->a, JSON_ARRAY);
    size_t cap = 0;
    for (;;) {
        enum json_tok t = json_next(&bd->r);
        if (t == JTOK_ARR_END) break;
        struct place here = {.up = at, .index = arr->n};
        struct json *v = build(bd, t, &here);
        if (!v) return NULL;
        ARENA_GROW(bd->a, arr->items, arr->n, cap);
        arr->items[arr->n++] = v;
    }
    arr->cap = (uint32_t)cap;
    return arr;
}

static struct json *build(struct builder *bd, enum json_tok t, const struct place *at) {
    struct json *v;
    switch (t) {
        case JTOK_OBJ_BEGIN: return build_object(bd, at);
        case JTOK_ARR_BEGIN: return build_array(bd, at);
        case JTOK_STRING:
        case JTOK_NUMBER:
            v = node(bd->a, t == JTOK_STRING ? JSON_STRING : JSON_NUMBER);
            v->str = bd->r.str;
            v->n = (uint32_t)bd->r.len;
            return v;
        case JTOK_INT:
            v = node(bd->a, JSON_INT);
            v->i = bd->r.i;
            return v;
        case JTOK_TRUE:
        case JTOK_FALSE:
            v = node(bd->a, JSON_BOOL);
            v->b = t == JTOK_TRUE;
            return v;
        case JTOK_NULL: return node(bd->a, JSON_NULL);
        default: return NULL;
    }
}

int json_parse(struct arena *a, const char *p, size_t len, struct json **out, struct json_dups *dups, struct err *e) {
    if (len > UINT32_MAX) return err_set(e, -EFBIG, "invalid JSON: document too large");
    struct builder bd = {.a = a, .dups = dups};
    json_reader_init(&bd.r, a, p, len);
    struct place root = {0};
    struct json *v = build(&bd, json_next(&bd.r), &root);
    if (!v || json_next(&bd.r) != JTOK_END) return json_reader_err(&bd.r, e);
    *out = v;
    return 0;
}
