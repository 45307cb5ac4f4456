/* The Common Expression Language in Kubernetes' dialect: what x-kubernetes-validations, admission policies and
 * matchConditions are written in.
 *
 *   env    what an expression may name: variables with types, function libraries. Made once, then constant.
 *   prog   a compiled expression: parsed, type-checked, its cost estimated. Constant, so threads share it.
 *   run    one evaluation (or several that share variables): values in, a value or an error out.
 *
 * Memory. Types, environments and programs live in the arena given when they are made, and a program refers to its
 * environment and its types: keep all of a definition (a CRD version, a policy) in one arena and free that. Values
 * are 24 bytes and refer to the JSON trees they came from, which are never copied or changed; what an evaluation
 * makes lives in the run's arena. Nothing is global; an environment costs memory only once somebody makes one.
 *
 * Strings are UTF-8 with the length known; a NUL inside one is held as C0 80, as in pkg/json.
 * Upstream: cel-go v0.26 with k8s.io/apiserver/pkg/cel (v1.36). */
#pragma once

#include "pkg/base/ktime.h"
#include "pkg/json/json.h"

struct api_type;

/* ---- limits: Kubernetes' own numbers (k8s.io/apiserver/pkg/apis/cel) ---- */
#define CEL_PER_CALL_LIMIT UINT64_C(1000000)       /* run-time cost of one expression */
#define CEL_RUNTIME_BUDGET UINT64_C(10000000)      /* run-time cost of all expressions of a policy or an object */
#define CEL_RUNTIME_BUDGET_MATCH UINT64_C(2500000) /* of all matchConditions of a webhook or a policy */
#define CEL_EXPR_ESTIMATE_LIMIT UINT64_C(10000000) /* estimated, one rule of a CRD */
#define CEL_CRD_ESTIMATE_LIMIT UINT64_C(100000000) /* estimated, all rules of a CRD version */
enum {
    CEL_MAX_EXPR_BYTES = 100000, /* code points in an expression (cel-go's default) */
    CEL_MAX_DEPTH = 250,         /* nesting of an expression (cel-go's default) */
    CEL_CHECK_EVERY = 100,       /* iterations between two looks at `interrupted` */
};

/* ---- types ---- */

enum cel_kind { /* of types and of values; CEL_DYN, CEL_ANY and CEL_PARAM are of types alone, CEL_ERR of values */
                CEL_DYN,
                CEL_NULL,
                CEL_BOOL,
                CEL_INT,
                CEL_UINT,
                CEL_DOUBLE,
                CEL_STRING,
                CEL_BYTES,
                CEL_TIMESTAMP,
                CEL_DURATION,
                CEL_LIST,
                CEL_MAP,
                CEL_OBJECT, /* fields declared */
                CEL_OPTIONAL,
                CEL_TYPE,
                CEL_OPAQUE, /* Quantity, IP, authorizer, ...: by name */
                CEL_PARAM,  /* a type parameter of an overload */
                CEL_ERR,
};

struct cel_type;
extern const struct cel_type cel_t_dyn, cel_t_null, cel_t_bool, cel_t_int, cel_t_uint, cel_t_double, cel_t_string,
    cel_t_bytes, cel_t_timestamp, cel_t_duration, cel_t_type;
/* kubernetes.authorization.Authorizer (`authorizer`) and ...ResourceCheck (`authorizer.requestResource`). */
extern const struct cel_type cel_t_authorizer, cel_t_resource_check;
/* kubernetes.Quantity */
const struct cel_type *cel_type_quantity(void);

const struct cel_type *cel_type_list(struct arena *a, const struct cel_type *elem);
const struct cel_type *cel_type_map(struct arena *a, const struct cel_type *key, const struct cel_type *value);
const struct cel_type *cel_type_optional(struct arena *a, const struct cel_type *of);
/* An object type with no fields yet: "kubernetes.AdmissionRequest". The name is copied. */
struct cel_type *cel_type_object(struct arena *a, const char *name);
/* Adds a field (or replaces it). `name` is what expressions write; values are looked up under the same name. Fields
 * may be added after an environment refers to the type (variables.x): later compilations see them. */
void cel_type_add_field(struct arena *a, struct cel_type *t, const char *name, const struct cel_type *field);
/* The declared type of values that fit a structural schema (openAPIV3Schema, or OpenAPI with $refs already resolved):
 * objects by their properties (names escaped: `__dash__`), maps, lists, strings by format, x-kubernetes-int-or-string
 * as dyn. `name` names it in messages; its parts are called name.field, name.field.@idx. `root`: apiVersion, kind and
 * metadata.name, metadata.generateName are there whatever the schema says. NULL where CEL cannot see the value at all
 * (an object without properties that preserves nothing). Refers to `schema`. */
const struct cel_type *cel_type_of_schema(struct arena *a, const struct json *schema, const char *name, bool root);
/* The declared type of a built-in type, as upstream derives it from its OpenAPI schema: for type checking policies.
 */
const struct cel_type *cel_type_of_api(struct arena *a, const struct api_type *t);
/* As cel-go prints it: "list(string)", "map(string, dyn)". */
const char *cel_type_text(struct arena *a, const struct cel_type *t);
enum cel_kind cel_type_kind(const struct cel_type *t);
/* The same type (not merely assignable): what a rule's result is held against. */
bool cel_type_eq(const struct cel_type *x, const struct cel_type *y);
/* The type of a declared field, or NULL. */
const struct cel_type *cel_type_field(const struct cel_type *t, const char *name);
/* Of a schema's type: the fewest bytes a value takes as JSON. */
uint64_t cel_type_min_size(const struct cel_type *t);
/* The element of a list or optional, or the value of a map; NULL for others. */
const struct cel_type *cel_type_elem(const struct cel_type *t);
/* A property name as expressions write it ("a-b" is a__dash__b), or NULL when it cannot be written; and back. */
const char *cel_escape(struct arena *a, const char *property);
const char *cel_unescape(struct arena *a, const char *ident);

/* ---- environments ---- */

enum cel_libs {
    CEL_LIB_K8S = 1 << 0,       /* what every Kubernetes v1.36 expression has: lists, regex, url, quantity, ip, cidr,
                                   format,       semver, sets, strings, optionals, authorizer, comprehensions of two variables */
    CEL_LIB_JSONPATCH = 1 << 1, /* mutations: Object{...}, Object.spec{...}, JSONPatch{...}, jsonpatch.escapeKey() */
    CEL_LIB_EXTRA = 1 << 2, /* what cel-go has and Kubernetes leaves out: math, cel.bind(), base64, string.reverse(),
                               format() of a newer version */
    CEL_MIXED_LITERALS = 1 << 5, /* lets [1, "a"] pass, which Kubernetes refuses */
    CEL_NO_CHECK = 1 << 6,       /* parse only; overloads are found at run time (tests) */
};

struct cel_env;
struct cel_env *cel_env_new(struct arena *a, unsigned libs);
/* Declares a variable and returns its slot: 0, 1, 2, ... The name may be qualified ("authorizer.requestResource"). */
int cel_env_var(struct cel_env *env, const char *name, const struct cel_type *t);
/* The slot, or -1. */
int cel_env_slot(const struct cel_env *env, const char *name);
/* Names resolve in this container first ("a.b"); "" by default. */
void cel_env_container(struct cel_env *env, const char *name);

/* ---- compiling ---- */

struct cel_prog;
struct cel_range { /* a cost: least and most */
    uint64_t min, max;
};

/* Compiles `src`. On -EINVAL *issues (in `a`; may be NULL) holds all errors as cel-go prints them:
 *   ERROR: <input>:1:6: undeclared reference to 'foo' (in container '')
 *    | self.foo
 *    | .....^
 * Callers put "compilation failed: " before it. */
int cel_compile(struct arena *a, const struct cel_env *env, const char *src, const struct cel_prog **out,
                const char **issues);
/* The checked type of the result. */
const struct cel_type *cel_prog_type(const struct cel_prog *p);
/* The estimate for one evaluation: sizes come from the declared types. Upstream: checker.Cost with
 * library.CostEstimator. Saturates at UINT64_MAX. */
struct cel_range cel_prog_cost(const struct cel_prog *p);
/* Does the expression refer to this variable? */
bool cel_prog_uses(const struct cel_prog *p, const char *var);

/* ---- values ---- */

struct cel_list;
struct cel_map;
struct cel_opaque;
struct cel_val {
    uint8_t kind;   /* enum cel_kind */
    uint8_t form;   /* how a list, map or object is held; private */
    uint16_t flags; /* private */
    uint32_t n;     /* STRING, BYTES: length in bytes; TIMESTAMP: nanoseconds */
    union {
        bool b;
        int64_t i; /* INT; DURATION: nanoseconds; TIMESTAMP: seconds since 1970 */
        uint64_t u;
        double d;
        const char *s; /* STRING, BYTES; ERR: the message */
        const struct json *json;
        const struct cel_list *list;
        const struct cel_map *map;
        const struct cel_opaque *opaque;
        const struct cel_val *some;     /* OPTIONAL: NULL for none */
        const struct cel_type *t_value; /* TYPE */
    };
    const struct cel_type *type; /* the declared type, where there is one */
};

static inline struct cel_val cel_null(void) { return (struct cel_val){.kind = CEL_NULL}; }
static inline struct cel_val cel_bool(bool b) { return (struct cel_val){.kind = CEL_BOOL, .b = b}; }
static inline struct cel_val cel_int(int64_t i) { return (struct cel_val){.kind = CEL_INT, .i = i}; }
static inline struct cel_val cel_uint(uint64_t u) { return (struct cel_val){.kind = CEL_UINT, .u = u}; }
static inline struct cel_val cel_double(double d) { return (struct cel_val){.kind = CEL_DOUBLE, .d = d}; }
/* Not copied. */
static inline struct cel_val cel_strn(const char *s, size_t n) {
    return (struct cel_val){.kind = CEL_STRING, .s = s, .n = (uint32_t)n};
}
static inline struct cel_val cel_str(const char *s) { return cel_strn(s, strlen(s)); }
/* A JSON tree as a value of the declared type (NULL: dyn): strings of format date-time become timestamps, and so on,
 * when they are looked at. NULL json gives null. The tree must outlive the value; `a` holds what a scalar is
 * converted to. */
struct cel_val cel_json(struct arena *a, const struct json *v, const struct cel_type *t);
/* optional.of(*v), or with NULL optional.none(). */
struct cel_val cel_optional(struct arena *a, const struct cel_val *v);
/* "true", "[1, 2]", ...: for messages. */
const char *cel_val_text(struct arena *a, struct cel_val v);
/* The value as JSON (new nodes in `a`, leaves shared). Optionals that are none are left out of lists and maps; a
 * type, an authorizer and the like give -EINVAL with cel-go's words. */
int cel_to_json(struct arena *a, struct cel_val v, struct json **out, struct err *e);
/* Equality as == has it. */
bool cel_equal(struct cel_val x, struct cel_val y);

/* ---- the authorizer library ---- */

struct cel_authz {
    const char *path;                                              /* non-resource; else NULL */
    const char *verb, *group, *resource, *subresource, *ns, *name; /* "" when unset */
    const char *sa_ns, *sa_name;                 /* ask for this service account; NULL: for the request's user */
    const char *field_selector, *label_selector; /* "" when unset */
};
struct cel_decision {
    bool allowed;
    const char *reason, *error; /* in the run's arena or constant; NULL: "" and none */
};
typedef void cel_authorize_fn(void *arg, struct arena *a, const struct cel_authz *ask, struct cel_decision *out);
/* `authorizer`, and `authorizer.requestResource` for the resource that is asked for. */
struct cel_val cel_authorizer(struct arena *a);
struct cel_val cel_authorizer_resource(struct arena *a, const struct cel_authz *of);

/* ---- evaluation ---- */

struct cel_run {
    struct arena *arena;            /* values that are made live here */
    const struct cel_val *vars;     /* by slot */
    size_t n_vars;                  /* slots beyond have no value: an error when used */
    uint64_t limit;                 /* of cost; 0: CEL_PER_CALL_LIMIT */
    bool (*interrupted)(void *arg); /* asked now and then; may be NULL */
    void *interrupted_arg;
    cel_authorize_fn *authorize; /* NULL: every check is an error */
    void *authorize_arg;
    uint64_t cost;     /* out: of the last cel_eval, without that of lazy variables */
    const char *stack; /* private: where the outermost evaluation began */
};

/* Evaluates. 0: *out is the value. Otherwise *out is of kind CEL_ERR and out->s the message:
 *   -EINVAL     the expression failed ("no such key: x")
 *   -E2BIG      "operation cancelled: actual cost limit exceeded"
 *   -ECANCELED  "operation interrupted" */
int cel_eval(const struct cel_prog *p, struct cel_run *run, struct cel_val *out);

/* `variables`: an object whose fields are programs that are evaluated when first read, with the variables of `run`
 * (which must outlive the value), each with a limit of its own. A field whose program is NULL reads as the error
 * `failed`. */
struct cel_lazy;
struct cel_lazy *cel_lazy_new(struct arena *a, const struct cel_type *t, struct cel_run *run);
void cel_lazy_add(struct cel_lazy *l, const char *name, const struct cel_prog *p, const char *failed);
struct cel_val cel_lazy_value(struct cel_lazy *l);
/* What reading them has cost since the last call. */
uint64_t cel_lazy_take_cost(struct cel_lazy *l);
