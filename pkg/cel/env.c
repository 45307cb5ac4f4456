/* Environments: variables, and the tables of functions with their signatures.
 *
 * A function's overloads are rows of constant tables with a signature of letters (internal.h); types are made of it
 * when an expression is checked, and values are held against it when a call has several candidates. So libraries cost
 * no memory until something is compiled. */
#include "pkg/cel/internal.h"

static const struct cel_fn *const tables[] = {fns_std,  fns_time, fns_convert, fns_optional, fns_string,
                                              fns_list, fns_k8s,  fns_net,     fns_authz,    fns_math};

struct cel_env *cel_env_new(struct arena *a, unsigned libs) {
    struct cel_env *env = arena_zalloc(a, sizeof(*env));
    env->a = a;
    env->libs = libs;
    env->container = "";
    return env;
}

void cel_env_container(struct cel_env *env, const char *name) { env->container = arena_strdup(env->a, name); }

int cel_env_var(struct cel_env *env, const char *name, const struct cel_type *t) {
    ARENA_GROW(env->a, env->vars, env->n_vars, env->cap_vars);
    env->vars[env->n_vars] = (struct env_var){arena_strdup(env->a, name), t};
    return (int)env->n_vars++;
}

int cel_env_slot(const struct cel_env *env, const char *name) {
    for (uint32_t i = 0; i < env->n_vars; i++)
        if (strcmp(env->vars[i].name, name) == 0) return (int)i;
    return -1;
}

/* ---- functions ---- */

size_t env_fns(const struct cel_env *env, const char *name, const struct cel_fn **out, size_t max) {
    size_t n = 0;
    for (size_t t = 0; t < ARRAY_LEN(tables); t++)
        for (const struct cel_fn *f = tables[t]; f->name; f++) {
            if (f->name[0] != name[0] || strcmp(f->name, name) != 0 || (f->libs && !(f->libs & env->libs)) || n == max)
                continue;
            if (out) out[n] = f;
            n++;
        }
    return n;
}

bool env_has_fn(const struct cel_env *env, const char *name) { return env_fns(env, name, NULL, 1) > 0; }

static const struct {
    char letter;
    const struct cel_type *type;
} letters[] = {
    {'b', &cel_t_bool},       {'i', &cel_t_int},       {'u', &cel_t_uint},       {'d', &cel_t_double},
    {'s', &cel_t_string},     {'y', &cel_t_bytes},     {'t', &cel_t_timestamp},  {'w', &cel_t_duration},
    {'z', &cel_t_null},       {'*', &cel_t_dyn},       {'q', &type_quantity},    {'p', &type_ip},
    {'c', &type_cidr},        {'l', &type_url},        {'f', &type_format},      {'v', &type_semver},
    {'a', &cel_t_authorizer}, {'h', &type_path_check}, {'g', &type_group_check}, {'r', &cel_t_resource_check},
    {'k', &type_decision},
};

static const struct cel_type *letter_type(char c) {
    for (size_t i = 0; i < ARRAY_LEN(letters); i++)
        if (letters[i].letter == c) return letters[i].type;
    abort(); /* a table has a bad signature */
}

struct sig {
    struct arena *a;
    const char *s;
    const struct cel_type *params[3];
    unsigned *vars;
};

static const struct cel_type *sig_type(struct sig *g) {
    char c = *g->s++;
    if (c >= 'A' && c <= 'C') {
        if (!g->params[c - 'A']) g->params[c - 'A'] = type_param(g->a, arena_printf(g->a, "_var%u", (*g->vars)++));
        return g->params[c - 'A'];
    }
    const struct cel_type *x, *y;
    switch (c) {
        case 'L': return cel_type_list(g->a, sig_type(g));
        case 'O': return cel_type_optional(g->a, sig_type(g));
        case 'T': return type_of_type(g->a, sig_type(g));
        case 'M':
            x = sig_type(g);
            y = sig_type(g);
            return cel_type_map(g->a, x, y);
        default: return letter_type(c);
    }
}

size_t fn_types(struct arena *a, const struct cel_fn *f, unsigned *vars, const struct cel_type **args,
                const struct cel_type **result) {
    struct sig g = {a, f->sig, {NULL}, vars};
    size_t n = 0;
    while (*g.s != '>') args[n++] = sig_type(&g);
    g.s++;
    *result = sig_type(&g);
    return n;
}

static const char *skip_type(const char *s) {
    char c = *s++;
    if (c == 'L' || c == 'O' || c == 'T') return skip_type(s);
    if (c == 'M') return skip_type(skip_type(s));
    return s;
}

size_t fn_arity(const struct cel_fn *f) {
    size_t n = 0;
    for (const char *s = f->sig; *s != '>'; n++) s = skip_type(s);
    return n;
}

static bool accepts(char c, const struct cel_val *v) {
    switch (c) {
        case 'A':
        case 'B':
        case 'C':
        case '*': return true;
        case 'L': return v->kind == CEL_LIST;
        case 'M': return v->kind == CEL_MAP || v->kind == CEL_OBJECT;
        case 'O': return v->kind == CEL_OPTIONAL;
        case 'T': return v->kind == CEL_TYPE;
        default: {
            const struct cel_type *t = letter_type(c);
            return t->kind == v->kind && (t->kind != CEL_OPAQUE || v->opaque->type == t);
        }
    }
}

bool fn_accepts(const struct cel_fn *f, const struct cel_val *args, size_t n) {
    const char *s = f->sig;
    for (size_t i = 0; i < n; i++) {
        if (*s == '>' || !accepts(*s, &args[i])) return false;
        s = skip_type(s);
    }
    return *s == '>';
}

/* ---- names of types ---- */

static const struct {
    const char *name;
    const struct cel_type *type;
} type_names[] = {
    {"bool", &cel_t_bool},
    {"int", &cel_t_int},
    {"uint", &cel_t_uint},
    {"double", &cel_t_double},
    {"string", &cel_t_string},
    {"bytes", &cel_t_bytes},
    {"list", &type_list_dyn},
    {"map", &type_map_dyn},
    {"null_type", &cel_t_null},
    {"type", &cel_t_type},
    {"google.protobuf.Timestamp", &cel_t_timestamp},
    {"google.protobuf.Duration", &cel_t_duration},
    {"optional_type", &type_optional_dyn},
    {"net.IP", &type_ip},
    {"net.CIDR", &type_cidr},
    {"kubernetes.Quantity", &type_quantity},
    {"kubernetes.URL", &type_url},
    {"kubernetes.NamedFormat", &type_format},
    {"kubernetes.Semver", &type_semver},
};

const struct cel_type *env_type_ident(const struct cel_env *env, const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(type_names); i++)
        if (strcmp(type_names[i].name, name) == 0) return type_names[i].type;
    return NULL;
}

const struct cel_type *env_struct(struct arena *a, const struct cel_env *env, const char *name) {
    if (!(env->libs & CEL_LIB_JSONPATCH)) return NULL;
    if (strcmp(name, "JSONPatch") == 0) return &type_jsonpatch;
    if (strcmp(name, "Object") != 0 && !str_has_prefix(name, "Object.")) return NULL;
    struct cel_type *t = cel_type_object(a, name);
    t->open = true;
    return t;
}
