/* JSON: a strict reader, dynamic trees in an arena, and a writer.
 *
 * Why not cJSON: its parser loses integers beyond 2^53, cuts strings at \u0000, accepts duplicate keys, and frees node
 * by node. These trees live in an arena, keep integers exact (and other numbers as their text), know the length of
 * strings, keep members in order, and report duplicates with their path.
 *
 * Strings are NUL-terminated. A NUL inside a JSON string ("\u0000") is held in memory as the two bytes C0 80, which
 * valid UTF-8 never contains; the writer (and the protobuf codec) turn them back. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/base/err.h"

enum json_type {
    JSON_NULL,
    JSON_BOOL,
    JSON_INT,    /* an integer that fits int64_t */
    JSON_NUMBER, /* any other number, as its text in .str */
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
};

struct json;
struct json_member {
    const char *key;
    struct json *value;
};

struct json {
    enum json_type type;
    uint32_t n, cap; /* ARRAY, OBJECT: members and room; STRING, NUMBER: n is the length in bytes */
    union {
        bool b;
        int64_t i;
        const char *str;
        struct json **items;
        struct json_member *members;
    };
};

enum { JSON_MAX_DEPTH = 512 };

/* ---- reading ---- */

/* Keys seen twice in one object, as dotted paths from the root ("spec.containers[0].name"), in order of appearance. */
struct json_dups {
    const char **paths;
    size_t n, cap;
};

/* Parses one document of `len` bytes (trailing white space allowed, anything else is an error). The tree lives in `a`
 * and does not refer to `p`. The last of duplicate keys wins, at the place of the first; `dups` (may be NULL) lists
 * them. -EINVAL with position for bad syntax, bad UTF-8, too deep. */
int json_parse(struct arena *a, const char *p, size_t len, struct json **out, struct json_dups *dups, struct err *e);

/* Pull reader, for code that goes from bytes to structs without a tree. */
enum json_tok {
    JTOK_ERROR,
    JTOK_END,
    JTOK_OBJ_BEGIN,
    JTOK_OBJ_END,
    JTOK_ARR_BEGIN,
    JTOK_ARR_END,
    JTOK_KEY,    /* .str, .len */
    JTOK_STRING, /* .str, .len */
    JTOK_INT,    /* .i (and .str, .len: its text) */
    JTOK_NUMBER, /* .str, .len */
    JTOK_TRUE,
    JTOK_FALSE,
    JTOK_NULL,
};

struct json_reader {
    struct arena *arena; /* strings are copied here, NUL-terminated */
    const char *start, *p, *end;
    const char *str; /* of the token last returned */
    size_t len;
    int64_t i;
    const char *tok_start; /* where the token last returned starts in the input */
    unsigned depth;
    uint8_t state;
    bool failed;
    bool keys_in_place; /* set by the caller: a KEY without escapes points into the input, with no NUL after it */
    char error[120];
    uint64_t is_object[(JSON_MAX_DEPTH + 63) / 64];
};

void json_reader_init(struct json_reader *r, struct arena *a, const char *p, size_t len);
enum json_tok json_next(struct json_reader *r);
/* After a KEY: skips its value. After OBJ_BEGIN or ARR_BEGIN: skips to its end. Raw text of what was skipped in
 * *raw, *raw_len (may be NULL); for a BEGIN it starts at the bracket. False on a syntax error. */
bool json_skip(struct json_reader *r, const char **raw, size_t *raw_len);
/* The error that made json_next return JTOK_ERROR, as -EINVAL. */
int json_reader_err(const struct json_reader *r, struct err *e);

/* ---- building; everything lives in `a` ---- */

struct json *json_null(struct arena *a);
struct json *json_bool(struct arena *a, bool b);
struct json *json_int(struct arena *a, int64_t i);
/* Text of a number as JSON writes it; becomes JSON_INT when it is an integer in range. */
struct json *json_num(struct arena *a, const char *text);
struct json *json_double(struct arena *a, double d); /* shortest text that reads back the same */
enum { JSON_DOUBLE_MAX = 64 };
char *json_double_text(double d, char out[JSON_DOUBLE_MAX]); /* that text */
struct json *json_str(struct arena *a, const char *s);       /* copies; NULL gives JSON null */
struct json *json_strn(struct arena *a, const char *s, size_t n);
struct json *json_strf(struct arena *a, const char *fmt, ...) _printf_(2, 3);
struct json *json_array(struct arena *a);
struct json *json_object(struct arena *a);
/* Sets (replacing in place) or appends a member; the key is copied. Returns `value`. */
struct json *json_set(struct arena *a, struct json *obj, const char *key, struct json *value);
static inline struct json *json_set_str(struct arena *a, struct json *obj, const char *key, const char *s) {
    return json_set(a, obj, key, json_str(a, s));
}
static inline struct json *json_set_int(struct arena *a, struct json *obj, const char *key, int64_t i) {
    return json_set(a, obj, key, json_int(a, i));
}
static inline struct json *json_set_bool(struct arena *a, struct json *obj, const char *key, bool b) {
    return json_set(a, obj, key, json_bool(a, b));
}
/* The member's object, made (in place of null or an absent member) when there is none. */
struct json *json_ensure_object(struct arena *a, struct json *obj, const char *key);
struct json *json_ensure_array(struct arena *a, struct json *obj, const char *key);
void json_append(struct arena *a, struct json *arr, struct json *value);
void json_insert(struct arena *a, struct json *arr, size_t at, struct json *value);
/* Removes a member or an element; true when there was one. The order of the rest stays. */
bool json_del(struct json *obj, const char *key);
bool json_del_at(struct json *arr, size_t at);
/* Deep copy into `a`; of NULL it is NULL. */
struct json *json_clone(struct arena *a, const struct json *v);
/* Sorts members by key (bytewise), at all levels when deep. */
void json_sort_keys(struct json *obj, bool deep);

/* ---- looking ---- all are safe on NULL and on values of another type, and then give NULL / the default */

struct json *json_get(const struct json *obj, const char *key);
/* json_at(o, "spec", "template", NULL): nested members. */
struct json *json_at(const struct json *v, ...) __attribute__((sentinel));
struct json *json_item(const struct json *arr, size_t i);
static inline size_t json_len(const struct json *v) {
    return v && (v->type == JSON_ARRAY || v->type == JSON_OBJECT) ? v->n : 0;
}
static inline bool json_is(const struct json *v, enum json_type t) { return v && v->type == t; }
const char *json_as_str(const struct json *v); /* NULL unless a string */
const char *json_get_str(const struct json *obj, const char *key);
int64_t json_as_int(const struct json *v, int64_t dflt);
int64_t json_get_int(const struct json *obj, const char *key, int64_t dflt);
bool json_get_bool(const struct json *obj, const char *key, bool dflt);
double json_as_double(const struct json *v, double dflt);
/* Deep equality; member order does not matter, numbers compare by value. */
bool json_equal(const struct json *a, const struct json *b);

/* Elements (of an array) or values (of an object), and members. `v` is evaluated once; the outer loop only holds it, so
 * that break and continue do what they say. */
#define JSON_FOREACH(it, v)                                         \
    for (const struct json *it##_of = (v); it##_of; it##_of = NULL) \
        for (size_t it##_i = 0; it##_i < json_len(it##_of) && ((it) = json_item(it##_of, it##_i), true); it##_i++)
#define JSON_FOREACH_MEMBER(m, v)                                                           \
    for (const struct json *m##_of = (v); m##_of; m##_of = NULL)                            \
        for (struct json_member *m = json_is(m##_of, JSON_OBJECT) ? m##_of->members : NULL; \
             m && m < m##_of->members + m##_of->n; m++)

/* ---- writing ---- */

/* Compact text, members in tree order. Appends to `b`. */
void json_write(struct buf *b, const struct json *v);
/* Two spaces of indentation, as kube-apiserver's ?pretty=1. */
void json_write_pretty(struct buf *b, const struct json *v);
/* A quoted, escaped string (`n` bytes). */
void json_write_str(struct buf *b, const char *s, size_t n);
void json_write_int(struct buf *b, int64_t i);
/* Compact text in the arena. */
char *json_text(struct arena *a, const struct json *v);
