/* What the files of pkg/cel share. The way of an expression:
 *
 *   lex.c parse.c macro.c   text to nodes
 *   check.c type.c env.c    names resolved to slots and functions, types worked out
 *   cost.c                  the estimate
 *   eval.c value.c fn_*.c   nodes walked over values
 *
 * The program is its tree of nodes: a walk is fast enough (an expression of a policy takes microseconds), and a tree
 * can be shown, priced and checked by the same few lines. */
#pragma once

#include "pkg/cel/cel.h"

/* ---- types ---- */

struct cel_field {
    const char *name; /* as expressions write it */
    const char *json; /* as documents write it */
    const struct cel_type *type;
};

enum { CEL_NO_MAX = -1 };
enum cel_list_type { CEL_LIST_ATOMIC, CEL_LIST_SET, CEL_LIST_MAP };

struct cel_type {
    uint8_t kind;                /* enum cel_kind */
    uint8_t list_type;           /* LIST of a schema: enum cel_list_type */
    bool is_error;               /* DYN that stands for a failed check: fits everything, is printed "!error!" */
    bool open;                   /* OBJECT with fields of any name (Object{...}) */
    const char *name;            /* OBJECT, OPAQUE, PARAM; the printed name of others */
    const struct cel_type *p[2]; /* LIST: element; MAP: key, value; OPTIONAL, TYPE: of */
    struct cel_field *fields;    /* OBJECT */
    uint32_t n_fields, cap_fields;
    int64_t max;                  /* of a schema: most elements or bytes; 0: a scalar */
    uint64_t min_size;            /* of a schema: fewest bytes as JSON */
    const struct json *list_keys; /* LIST of listType map: array of property names */
};

const struct cel_field *type_field(const struct cel_type *t, const char *name);
/* An opaque type by name: a constant. NULL when unknown. */
const struct cel_type *type_opaque(const char *name);
extern const struct cel_type type_quantity, type_ip, type_cidr, type_url, type_format, type_semver, type_path_check,
    type_group_check, type_decision, type_error, type_jsonpatch, type_list_dyn, type_map_dyn, type_optional_dyn;
const struct cel_type *type_of_type(struct arena *a, const struct cel_type *t);
/* The type of a value: for messages and type(). */
const struct cel_type *type_of_val(const struct cel_val *v);
const struct cel_type *type_param(struct arena *a, const char *name);
/* A copy whose made parts live in `a`; declared objects are shared. */
const struct cel_type *type_keep(struct arena *a, const struct cel_type *t);

/* Substitutions of type parameters: a vector searched from its end, so that an attempt is undone by cutting it off.
 * Bindings that change are appended again. */
struct type_map {
    struct arena *a;
    struct {
        const struct cel_type *param, *is;
    } * items;
    uint32_t n, cap;
};
/* Is a value of type t2 good where t1 is wanted (or the other way: the relation is symmetric up to dyn)? Binds type
 * parameters; on false the map is as before. */
bool type_assignable(struct type_map *m, const struct cel_type *t1, const struct cel_type *t2);
bool type_assignable_list(struct type_map *m, const struct cel_type *const *l1, const struct cel_type *const *l2,
                          size_t n);
const struct cel_type *type_substitute(struct type_map *m, const struct cel_type *t, bool params_to_dyn);
const struct cel_type *type_most_general(const struct cel_type *t1, const struct cel_type *t2);
static inline bool type_is_dyn(const struct cel_type *t) { return t->kind == CEL_DYN; }

/* ---- source and its errors ---- */

struct issue {
    uint32_t pos; /* byte offset */
    const char *msg;
};
struct issues {
    struct arena *a;
    const char *src;
    size_t len;
    struct issue *items;
    uint32_t n, cap, seen;
};
enum { CEL_MAX_ISSUES = 100 };
void issue_add(struct issues *is, uint32_t pos, const char *fmt, ...) _printf_(3, 4);
const char *issues_text(struct issues *is);

/* Recursion is bounded in bytes too, as requests are served on stacks of a megabyte. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
enum { CEL_STACK = 4 << 20 }; /* frames are several times as big */
#else
enum { CEL_STACK = 512 << 10 };
#endif
static inline const char *stack_here(void) { return __builtin_frame_address(0); }
static inline bool stack_spent(const char *base) {
    const char *here = stack_here();
    return (here < base ? base - here : here - base) > CEL_STACK;
}

/* ---- nodes ---- */

enum node_kind { N_LIT, N_IDENT, N_SELECT, N_CALL, N_LIST, N_MAP, N_STRUCT, N_FOLD };
enum fold_kind { FOLD_ALL, FOLD_EXISTS, FOLD_EXISTS_ONE, FOLD_LIST, FOLD_MAP, FOLD_ENTRY, FOLD_BIND };

struct cel_fn;
struct regex;
struct node {
    uint8_t kind;      /* enum node_kind */
    uint8_t fold_kind; /* FOLD: enum fold_kind */
    bool test;         /* SELECT: has() */
    bool failed;       /* a syntax error stands here */
    uint8_t walked;    /* the last mark of node_walk */
    uint16_t depth;    /* of the tree below */
    uint32_t pos;      /* byte offset in the source, for messages */
    uint32_t n;        /* members of .args, .entries */
    const struct cel_type *type;
    const char *name; /* IDENT, SELECT's field, CALL's function, STRUCT's type */
    union {
        struct cel_val lit;
        struct {
            int32_t slot;  /* of the environment; -1 */
            int32_t local; /* place on the stack of locals; -1 */
        } id;
        struct node *of; /* SELECT */
        struct {
            struct node *target; /* NULL: a global function */
            struct node **args;
            const struct cel_fn **fns; /* candidates, first match wins */
            uint32_t n_fns;
            int32_t op;          /* enum call_op: what eval does itself */
            struct regex *regex; /* precompiled constant pattern */
        } call;
        struct {
            struct node **args;
            bool *optional;       /* NULL: none is */
            struct cel_val value; /* folded, when .done */
            bool done;
        } list;
        struct {
            struct entry *entries;
            const struct cel_type *obj; /* STRUCT */
            struct cel_val value;
            bool done;
        } map;
        struct {
            struct node *range, *init, *cond, *step,
                *result;                /* as cel-go expands the macro: check and cost walk these */
            struct node *filter, *body; /* what eval walks */
            const char *var, *var2, *accu;
            int32_t base; /* the first of the fold's locals: var, var2, accu */
        } fold;
    };
    /* of the estimate, while it is made */
    struct node_cost *cost;
};
struct entry {
    struct node *key, *value; /* key NULL: a field of a struct */
    const char *field;
    uint32_t pos;
    bool optional;
};

enum call_op {
    OP_CALL,
    OP_AND,
    OP_OR,
    OP_COND,
    OP_EQ,
    OP_NE,
    OP_INDEX,
    OP_OPT_INDEX,
    OP_OPT_SELECT,
    OP_OR_OPT,
    OP_OR_VALUE,
    OP_NOT_FALSE,
    OP_NONE
};

/* The names the parser gives to operators, as cel-go has them in messages. */
#define FN_COND "_?_:_"
#define FN_AND "_&&_"
#define FN_OR "_||_"
#define FN_NOT "!_"
#define FN_NEG "-_"
#define FN_EQ "_==_"
#define FN_NE "_!=_"
#define FN_LT "_<_"
#define FN_LE "_<=_"
#define FN_GT "_>_"
#define FN_GE "_>=_"
#define FN_ADD "_+_"
#define FN_SUB "_-_"
#define FN_MUL "_*_"
#define FN_DIV "_/_"
#define FN_MOD "_%_"
#define FN_IN "@in"
#define FN_INDEX "_[_]"
#define FN_OPT_INDEX "_[?_]"
#define FN_OPT_SELECT "_?._"
#define FN_NOT_FALSE "@not_strictly_false"
#define FN_MAP_INSERT "cel.@mapInsert"
#define ACCU "@result"

struct node *node_new(struct arena *a, enum node_kind k, uint32_t pos);
struct node *node_call(struct arena *a, uint32_t pos, const char *fn, struct node *target, struct node **args,
                       uint32_t n);
struct node *node_lit(struct arena *a, uint32_t pos, struct cel_val v);
struct node *node_ident(struct arena *a, uint32_t pos, const char *name);

/* ---- lexer and parser ---- */

enum tok {
    T_EOF,
    T_INT,
    T_UINT,
    T_FLOAT,
    T_STRING,
    T_BYTES,
    T_IDENT,
    T_ESC_IDENT,
    T_TRUE,
    T_FALSE,
    T_NULL,
    T_IN,
    T_EQ,
    T_NE,
    T_LT,
    T_LE,
    T_GT,
    T_GE,
    T_AND,
    T_OR,
    T_LBRACKET,
    T_RBRACKET,
    T_LBRACE,
    T_RBRACE,
    T_LPAREN,
    T_RPAREN,
    T_DOT,
    T_COMMA,
    T_MINUS,
    T_NOT,
    T_QUESTION,
    T_COLON,
    T_PLUS,
    T_STAR,
    T_SLASH,
    T_PERCENT,
};
struct lexer {
    struct issues *is;
    uint32_t at;
};
struct token {
    enum tok kind;
    uint32_t pos, len;
};
struct token lex_next(struct lexer *l);
/* The content of a string or bytes token; false with a message. `nul`: a NUL becomes C0 80 (strings). */
bool lex_unescape(struct arena *a, const char *p, size_t n, bool bytes, const char **out, size_t *out_n,
                  const char **msg);

struct cel_env {
    struct arena *a;
    unsigned libs;
    const char *container;
    struct env_var {
        const char *name;
        const struct cel_type *type;
    } * vars;
    uint32_t n_vars, cap_vars;
};

struct node *parse_expr(struct arena *a, const struct cel_env *env, struct issues *is);
struct parser_call { /* what a macro gets */
    struct arena *a;
    struct issues *is;
    unsigned libs;
    uint32_t pos;
    struct node *target, **args;
    uint32_t n;
};
/* The expansion, or NULL when `fn` is no macro with these arguments. */
struct node *macro_expand(struct parser_call *c, const char *fn);
bool macro_qualified_name(const struct node *n, struct buf *out);

/* ---- functions ---- */

struct ev;
typedef struct cel_val cel_impl(struct ev *E, const struct cel_val *args, int n);
/* One overload. The signature has a letter a type: b bool, i int, u uint, d double, s string, y bytes, t timestamp,
 * w duration, z null, * dyn, A B C type parameters, Lx list, Mkv map, Ox optional, Tx type, and opaque types: q
 * quantity, p ip, c cidr, l url, f format, v semver, a authorizer, h path check, g group check, r resource check, k
 * decision. The result stands after '>'. */
struct cel_fn {
    const char *name, *id, *sig;
    uint8_t member; /* called on its first argument */
    uint8_t op;     /* enum call_op */
    uint32_t libs;  /* any of these must be on; 0: always there */
    cel_impl *impl;
};
extern const struct cel_fn fns_std[], fns_time[], fns_convert[], fns_string[], fns_list[], fns_k8s[], fns_net[],
    fns_authz[], fns_math[], fns_optional[];
/* Overloads of the name in the environment; `out` may be NULL. Returns how many there are (at most max). */
bool env_has_fn(const struct cel_env *env, const char *name);
size_t env_fns(const struct cel_env *env, const char *name, const struct cel_fn **out, size_t max);
enum { FN_MAX_OVERLOADS = 24, FN_MAX_ARGS = 8 };
/* The types of a signature; fresh parameters are numbered by *vars. Returns the number of arguments; result last. */
size_t fn_types(struct arena *a, const struct cel_fn *f, unsigned *vars, const struct cel_type **args,
                const struct cel_type **result);
/* Do the values fit the signature? */
bool fn_accepts(const struct cel_fn *f, const struct cel_val *args, size_t n);
size_t fn_arity(const struct cel_fn *f);
/* A type by the name an expression gives it ("int", "google.protobuf.Timestamp"), or NULL. */
const struct cel_type *env_type_ident(const struct cel_env *env, const char *name);
/* An object type that can be built with Name{...}, or NULL. */
const struct cel_type *env_struct(struct arena *a, const struct cel_env *env, const char *name);

/* ---- the passes ---- */

struct cel_prog {
    const struct cel_env *env;
    const struct node *root;
    const struct cel_type *type;
    struct cel_range cost;
    const char *src;
    uint32_t n_locals, n_uses;
    bool *uses; /* by slot */
};
/* Resolves names and works out types, which live in `types`; problems go to `is`. */
void check_prog(struct arena *a, struct arena *types, struct cel_prog *p, struct node *root, struct issues *is);
/* The literals that must make sense: durations, timestamps, patterns, mixed lists. */
void validate_literals(const struct cel_env *env, struct node *root, struct issues *is);
/* Makes constant lists once and compiles constant patterns. */
void fold_constants(struct arena *a, struct node *n);
struct cel_range cost_estimate(const struct cel_env *env, struct node *root);
/* Visits all nodes below and including n, each once (macros share nodes): a mark of its own for every walk. */
typedef void node_visit(struct node *n, void *arg);
void node_walk(struct node *n, uint8_t mark, node_visit *visit, void *arg);

/* ---- values ---- */

enum val_form { FORM_BUILT, FORM_JSON, FORM_LAZY };
struct cel_list {
    uint32_t n;
    struct cel_val *v;
};
struct cel_map {
    uint32_t n, cap, mask; /* mask: slots of the index - 1; 0: no index */
    struct cel_val *kv;    /* key, value, key, value, ... in order of insertion */
    uint32_t *index;       /* place + 1 */
    const struct cel_val *otherwise; /* what selecting an absent key gives; NULL: an error */
};
struct cel_opaque {
    const struct cel_type *type;
    /* the library's own struct follows */
};

/* What an expression makes is bounded beside its cost, which counts some growth cheaply. */
enum { CEL_MAX_LIST = 1 << 20, CEL_MAX_STRING = 32 << 20, CEL_MAX_MEMORY = 128 << 20 };

struct ev { /* an evaluation under way */
    struct cel_run *run;
    const char *stack; /* where the outermost evaluation began */
    struct arena *a;
    const struct cel_prog *prog;
    struct cel_val *locals;
    uint64_t cost, limit;
    size_t memory; /* the arena's use when it began */
    uint32_t ticks;
    int fatal; /* -E2BIG, -ECANCELED: everything ends */
};

struct cel_val val_errf(struct arena *a, const char *fmt, ...) _printf_(2, 3);
static inline bool is_err(const struct cel_val *v) { return v->kind == CEL_ERR; }
/* "no such overload" */
struct cel_val err_overload(struct ev *E, const char *fn, const struct cel_val *args, int n);
struct cel_val val_copy_str(struct arena *a, const char *s, size_t n);
struct cel_val val_list(struct arena *a, struct cel_val *v, size_t n); /* takes v */
struct cel_val val_opaque(const struct cel_opaque *o);
struct cel_val val_type(const struct cel_type *t);
struct cel_val val_some(struct arena *a, struct cel_val v);
static inline struct cel_val val_none(void) { return (struct cel_val){.kind = CEL_OPTIONAL}; }
static inline struct cel_val val_duration(int64_t ns) { return (struct cel_val){.kind = CEL_DURATION, .i = ns}; }
static inline struct cel_val val_time(int64_t sec, uint32_t nsec) {
    return (struct cel_val){.kind = CEL_TIMESTAMP, .i = sec, .n = nsec};
}
static inline struct cel_val val_bytes(const char *s, size_t n) {
    return (struct cel_val){.kind = CEL_BYTES, .s = s, .n = (uint32_t)n};
}
const char *type_value_name(const struct cel_type *t); /* as type(x) prints: "google.protobuf.Timestamp" */
struct cel_val val_of_json(struct arena *a, const struct json *v, const struct cel_type *t);

size_t list_len(const struct cel_val *l);
struct cel_val list_at(struct arena *a, const struct cel_val *l, size_t i);
size_t map_len(const struct cel_val *m); /* maps and objects */
struct cel_val map_key_at(struct arena *a, const struct cel_val *m, size_t i);
struct cel_val map_val_at(struct arena *a, const struct cel_val *m, size_t i);
/* False when there is no such key. An error is a value. */
bool map_find(struct ev *E, const struct cel_val *m, const struct cel_val *key, struct cel_val *out);
bool map_find_str(struct ev *E, const struct cel_val *m, const char *key, struct cel_val *out);
struct cel_map *map_new(struct arena *a, size_t cap);
/* False when the key is there already. */
bool map_put_val(struct arena *a, struct cel_map *m, struct cel_val k, struct cel_val v);
bool map_get_val(const struct cel_map *m, const struct cel_val *k, struct cel_val *out);
struct cel_val val_map(struct cel_map *m);
/* The value of a lazy variable. */
bool lazy_value_find(struct ev *E, const struct cel_val *m, const char *key, struct cel_val *out);

/* Three-way comparison of values that < can compare: false when it cannot. NaN: *unordered. */
bool val_compare(const struct cel_val *x, const struct cel_val *y, int *out, bool *unordered);
bool val_is_zero(const struct cel_val *v);
/* UTF-8 by code points. */
size_t utf8_count(const char *s, size_t n);
uint32_t utf8_next(const char *s, size_t n, size_t *at);
/* Byte offset of the code point number i; n when beyond. */
size_t utf8_offset(const char *s, size_t n, size_t i);
size_t utf8_put(uint32_t c, char out[4]); /* strings: NUL as C0 80 */
bool utf8_valid(const char *s, size_t n);
/* What size() gives, or 1: for costs. */
uint64_t val_size(const struct cel_val *v);
bool double_to_i64(double d, int64_t *out); /* truncates; false out of range */
bool double_to_u64(double d, uint64_t *out);
/* cel-go's text of a value in string(): numbers, times. */
const char *double_text(struct arena *a, double d);
const char *time_text(struct arena *a, int64_t sec, uint32_t nsec);
const char *duration_text(struct arena *a, int64_t ns);

/* ---- time.c ---- */
bool time_in_range(int64_t sec);
bool time_parse(const char *s, size_t n, int64_t *sec, uint32_t *nsec);
bool duration_parse_n(const char *s, size_t n, int64_t *ns);
struct civil {
    int64_t year;
    int month, day, hour, minute, second, weekday, yearday; /* month 1.., day 1.., weekday 0 = Sunday, yearday 0.. */
};
void civil_of(int64_t sec, struct civil *c);
int64_t civil_days(int64_t year, int month, int day);
/* Offset of the zone ("Europe/Paris", "+01:30", "") at this moment; false when unknown. */
bool cel_zone_offset(const char *zone, size_t n, int64_t sec, int64_t *offset);

/* ---- regex.c ---- */
/* NULL with the reason in *err (as Go words it) when the pattern is bad or too big. */
struct regex *regex_new(struct arena *a, const char *p, size_t n, const char **err);
/* The leftmost match at or after byte `from`, of those at one place the one that the pattern prefers. start and end
 * may be NULL when only whether matters. Time: text times pattern. */
bool regex_find(struct arena *a, const struct regex *r, const char *s, size_t n, size_t from, size_t *start,
                size_t *end);

/* ---- format.c ---- */
struct cel_val string_format(struct ev *E, const struct cel_val *fmt, const struct cel_val *args);

/* ---- costs of calls while evaluating: cost_run.c ---- */
uint64_t cost_call(const struct cel_fn *f, const struct cel_val *args, int n, const struct cel_val *result);
uint64_t cost_equal(const struct cel_val *x, const struct cel_val *y);
/* Charges; false when the limit is passed, and then E->fatal is set. */
bool ev_charge(struct ev *E, uint64_t cost);
/* eval_fold.c, eval_access.c */
struct cel_val ev_fold(struct ev *E, const struct node *n);
struct cel_val ev_select(struct ev *E, const struct node *n);
struct cel_val ev_opt_select(struct ev *E, const struct node *n);
struct cel_val ev_index(struct ev *E, const struct node *n, bool optional);
struct cel_val ev_make_list(struct ev *E, const struct node *n);
struct cel_val ev_make_map(struct ev *E, const struct node *n);
struct cel_val ev_node(struct ev *E, const struct node *n);
/* Text of an opaque value and its equality: fn_k8s.c, fn_net.c. */
const char *opaque_text(struct arena *a, const struct cel_opaque *o);
bool opaque_equal(const struct cel_opaque *x, const struct cel_opaque *y);
uint64_t opaque_size(const struct cel_opaque *o); /* 1 unless it has size() */
