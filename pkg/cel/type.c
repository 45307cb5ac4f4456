/* Types: their constants, making, printing and equality, and the unification of type parameters that the checker
 * needs.
 *
 * Assignability is symmetric up to dyn: a dyn fits everything, a parameter fits what it is bound to or becomes bound.
 * The rules for null are cel-go's: it fits objects, opaque types, durations and timestamps. Upstream:
 * checker/types.go, common/types/types.go. */
#include "pkg/cel/internal.h"

#define SCALAR(id, k, text) const struct cel_type cel_t_##id = {.kind = k, .name = text}
SCALAR(dyn, CEL_DYN, "dyn");
SCALAR(null, CEL_NULL, "null");
SCALAR(bool, CEL_BOOL, "bool");
SCALAR(int, CEL_INT, "int");
SCALAR(uint, CEL_UINT, "uint");
SCALAR(double, CEL_DOUBLE, "double");
SCALAR(string, CEL_STRING, "string");
SCALAR(bytes, CEL_BYTES, "bytes");
SCALAR(timestamp, CEL_TIMESTAMP, "timestamp");
SCALAR(duration, CEL_DURATION, "duration");
SCALAR(type, CEL_TYPE, "type");
#define OPAQUE(id, text) const struct cel_type id = {.kind = CEL_OPAQUE, .name = text}
OPAQUE(type_quantity, "kubernetes.Quantity");
OPAQUE(type_ip, "net.IP");
OPAQUE(type_cidr, "net.CIDR");
OPAQUE(type_url, "kubernetes.URL");
OPAQUE(type_format, "kubernetes.NamedFormat");
OPAQUE(type_semver, "kubernetes.Semver");
OPAQUE(cel_t_authorizer, "kubernetes.authorization.Authorizer");
OPAQUE(type_path_check, "kubernetes.authorization.PathCheck");
OPAQUE(type_group_check, "kubernetes.authorization.GroupCheck");
OPAQUE(cel_t_resource_check, "kubernetes.authorization.ResourceCheck");
OPAQUE(type_decision, "kubernetes.authorization.Decision");
const struct cel_type type_error = {.kind = CEL_DYN, .name = "!error!", .is_error = true};
const struct cel_type type_list_dyn = {.kind = CEL_LIST, .p = {&cel_t_dyn}};
const struct cel_type type_map_dyn = {.kind = CEL_MAP, .p = {&cel_t_dyn, &cel_t_dyn}};
const struct cel_type type_optional_dyn = {.kind = CEL_OPTIONAL, .p = {&cel_t_dyn}};
static struct cel_field jsonpatch_fields[] = {{"op", "op", &cel_t_string},
                                              {"from", "from", &cel_t_string},
                                              {"path", "path", &cel_t_string},
                                              {"value", "value", &cel_t_dyn}};
const struct cel_type type_jsonpatch = {
    .kind = CEL_OBJECT, .name = "JSONPatch", .fields = jsonpatch_fields, .n_fields = 4};

static const struct cel_type *const opaques[] = {
    &type_quantity, &type_ip,          &type_cidr,       &type_url,         &type_format,
    &type_semver,   &cel_t_authorizer, &type_path_check, &type_group_check, &cel_t_resource_check,
    &type_decision,
};

const struct cel_type *type_opaque(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(opaques); i++)
        if (strcmp(opaques[i]->name, name) == 0) return opaques[i];
    return NULL;
}

/* ---- making ---- */

static struct cel_type *type_new(struct arena *a, enum cel_kind k, const struct cel_type *p0,
                                 const struct cel_type *p1) {
    struct cel_type *t = arena_zalloc(a, sizeof(*t));
    t->kind = k;
    t->p[0] = p0;
    t->p[1] = p1;
    t->max = CEL_NO_MAX;
    return t;
}

const struct cel_type *cel_type_list(struct arena *a, const struct cel_type *elem) {
    return elem == &cel_t_dyn ? &type_list_dyn : type_new(a, CEL_LIST, elem, NULL);
}
const struct cel_type *cel_type_map(struct arena *a, const struct cel_type *key, const struct cel_type *value) {
    return key == &cel_t_dyn && value == &cel_t_dyn ? &type_map_dyn : type_new(a, CEL_MAP, key, value);
}
const struct cel_type *cel_type_optional(struct arena *a, const struct cel_type *of) {
    return of == &cel_t_dyn ? &type_optional_dyn : type_new(a, CEL_OPTIONAL, of, NULL);
}
const struct cel_type *type_of_type(struct arena *a, const struct cel_type *t) {
    return type_new(a, CEL_TYPE, t, NULL);
}
const struct cel_type *type_param(struct arena *a, const char *name) {
    struct cel_type *t = type_new(a, CEL_PARAM, NULL, NULL);
    t->name = name;
    return t;
}
const struct cel_type *type_keep(struct arena *a, const struct cel_type *t) {
    if (!t || (t->kind != CEL_LIST && t->kind != CEL_MAP && t->kind != CEL_OPTIONAL && t->kind != CEL_TYPE)) return t;
    return type_new(a, t->kind, type_keep(a, t->p[0]), type_keep(a, t->p[1]));
}
struct cel_type *cel_type_object(struct arena *a, const char *name) {
    struct cel_type *t = type_new(a, CEL_OBJECT, NULL, NULL);
    t->name = arena_strdup(a, name);
    return t;
}

void cel_type_add_field(struct arena *a, struct cel_type *t, const char *name, const struct cel_type *field) {
    for (uint32_t i = 0; i < t->n_fields; i++)
        if (strcmp(t->fields[i].name, name) == 0) {
            t->fields[i].type = field;
            return;
        }
    ARENA_GROW(a, t->fields, t->n_fields, t->cap_fields);
    const char *copy = arena_strdup(a, name);
    t->fields[t->n_fields++] = (struct cel_field){copy, copy, field};
}

const struct cel_field *type_field(const struct cel_type *t, const char *name) {
    for (uint32_t i = 0; i < t->n_fields; i++)
        if (strcmp(t->fields[i].name, name) == 0) return &t->fields[i];
    return NULL;
}

enum cel_kind cel_type_kind(const struct cel_type *t) { return t->kind; }
uint64_t cel_type_min_size(const struct cel_type *t) { return t->min_size; }

const struct cel_type *cel_type_field(const struct cel_type *t, const char *name) {
    const struct cel_field *f = t->kind == CEL_OBJECT ? type_field(t, name) : NULL;
    return f ? f->type : NULL;
}

const struct cel_type *cel_type_elem(const struct cel_type *t) {
    if (t->kind == CEL_LIST || t->kind == CEL_OPTIONAL) return t->p[0];
    return t->kind == CEL_MAP ? t->p[1] : NULL;
}

/* ---- text and equality ---- */

static void type_write(struct buf *b, const struct cel_type *t) {
    static const char *const names[] = {
        [CEL_LIST] = "list", [CEL_MAP] = "map", [CEL_OPTIONAL] = "optional_type", [CEL_TYPE] = "type"};
    if (t->kind >= ARRAY_LEN(names) || !names[t->kind]) {
        buf_adds(b, str_or_empty(t->name));
        return;
    }
    buf_adds(b, names[t->kind]);
    if (!t->p[0]) return;
    buf_addc(b, '(');
    type_write(b, t->p[0]);
    if (t->p[1]) {
        buf_adds(b, ", ");
        type_write(b, t->p[1]);
    }
    buf_addc(b, ')');
}

const char *cel_type_text(struct arena *a, const struct cel_type *t) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    type_write(&b, t);
    return arena_strndup(a, b.data ? b.data : "", b.len);
}

bool cel_type_eq(const struct cel_type *x, const struct cel_type *y) {
    if (x == y) return true;
    if (x->kind != y->kind || x->is_error != y->is_error) return false;
    switch (x->kind) {
        case CEL_OBJECT:
        case CEL_OPAQUE:
        case CEL_PARAM: return strcmp(x->name, y->name) == 0;
        case CEL_LIST:
        case CEL_MAP:
        case CEL_OPTIONAL:
        case CEL_TYPE:
            for (int i = 0; i < 2; i++) {
                if (!x->p[i] != !y->p[i]) return false;
                if (x->p[i] && !cel_type_eq(x->p[i], y->p[i])) return false;
            }
            return true;
        default: return true;
    }
}

/* ---- unification ---- */

static const struct cel_type *map_lookup(const struct type_map *m, const struct cel_type *param) {
    for (uint32_t i = m->n; i > 0; i--)
        if (strcmp(m->items[i - 1].param->name, param->name) == 0) return m->items[i - 1].is;
    return NULL;
}

static void map_bind(struct type_map *m, const struct cel_type *param, const struct cel_type *is) {
    ARENA_GROW(m->a, m->items, m->n, m->cap);
    m->items[m->n].param = param;
    m->items[m->n++].is = is;
}

static bool less_specific(const struct cel_type *t1, const struct cel_type *t2) {
    if (type_is_dyn(t1) || t1->kind == CEL_PARAM) return true;
    if (type_is_dyn(t2) || t2->kind == CEL_PARAM || t1->kind != t2->kind) return false;
    switch (t1->kind) {
        case CEL_LIST:
        case CEL_OPTIONAL: return less_specific(t1->p[0], t2->p[0]);
        case CEL_MAP: return less_specific(t1->p[0], t2->p[0]) && less_specific(t1->p[1], t2->p[1]);
        case CEL_TYPE: return true;
        default: return cel_type_eq(t1, t2);
    }
}

const struct cel_type *type_most_general(const struct cel_type *t1, const struct cel_type *t2) {
    return less_specific(t1, t2) ? t1 : t2;
}

static bool not_within(struct type_map *m, const struct cel_type *t, const struct cel_type *within) {
    if (cel_type_eq(t, within)) return false;
    if (within->kind == CEL_PARAM) {
        const struct cel_type *is = map_lookup(m, within);
        return !is || not_within(m, t, is);
    }
    for (int i = 0; i < 2; i++)
        if (within->p[i] && !not_within(m, t, within->p[i])) return false;
    return true;
}

static bool assignable(struct type_map *m, const struct cel_type *t1, const struct cel_type *t2);

/* May t1 stand for the parameter t2? */
static bool valid_substitution(struct type_map *m, const struct cel_type *t1, const struct cel_type *t2, bool *bound) {
    *bound = true;
    if (cel_type_eq(t1, t2)) return true;
    const struct cel_type *is = map_lookup(m, t2);
    if (is) {
        if (cel_type_eq(t1, is)) return true;
        if (!assignable(m, t1, is)) return false;
        const struct cel_type *more = type_most_general(t1, is);
        if (not_within(m, t2, more)) map_bind(m, t2, more);
        return true;
    }
    *bound = false;
    if (!not_within(m, t2, t1)) return false;
    map_bind(m, t2, t1);
    return true;
}

static bool nullable(const struct cel_type *t) {
    return t->kind == CEL_OPAQUE || t->kind == CEL_OPTIONAL || t->kind == CEL_OBJECT || t->kind == CEL_DURATION ||
           t->kind == CEL_TIMESTAMP || t->kind == CEL_NULL;
}

static bool assignable(struct type_map *m, const struct cel_type *t1, const struct cel_type *t2) {
    bool bound;
    if (t2->kind == CEL_PARAM) {
        if (valid_substitution(m, t1, t2, &bound)) return true;
        if (bound) return false;
    }
    if (t1->kind == CEL_PARAM) return valid_substitution(m, t2, t1, &bound);
    if (type_is_dyn(t1) || type_is_dyn(t2)) return true;
    if (t1->kind == CEL_NULL) return nullable(t2);
    if (t2->kind == CEL_NULL) return nullable(t1);
    if (t1->kind != t2->kind) return false;
    switch (t1->kind) {
        case CEL_TYPE: return true;
        case CEL_LIST:
        case CEL_OPTIONAL: return assignable(m, t1->p[0], t2->p[0]);
        case CEL_MAP: return assignable(m, t1->p[0], t2->p[0]) && assignable(m, t1->p[1], t2->p[1]);
        default: return cel_type_eq(t1, t2);
    }
}

bool type_assignable(struct type_map *m, const struct cel_type *t1, const struct cel_type *t2) {
    return type_assignable_list(m, &t1, &t2, 1);
}

bool type_assignable_list(struct type_map *m, const struct cel_type *const *l1, const struct cel_type *const *l2,
                          size_t n) {
    uint32_t before = m->n;
    for (size_t i = 0; i < n; i++)
        if (!assignable(m, l1[i], l2[i])) {
            m->n = before;
            return false;
        }
    return true;
}

const struct cel_type *type_substitute(struct type_map *m, const struct cel_type *t, bool params_to_dyn) {
    if (t->kind == CEL_PARAM) {
        const struct cel_type *is = map_lookup(m, t);
        if (is) return type_substitute(m, is, params_to_dyn);
        return params_to_dyn ? &cel_t_dyn : t;
    }
    if (t->kind != CEL_LIST && t->kind != CEL_MAP && t->kind != CEL_OPTIONAL && t->kind != CEL_TYPE) return t;
    const struct cel_type *p0 = t->p[0] ? type_substitute(m, t->p[0], params_to_dyn) : NULL;
    const struct cel_type *p1 = t->p[1] ? type_substitute(m, t->p[1], params_to_dyn) : NULL;
    if (p0 == t->p[0] && p1 == t->p[1]) return t;
    return type_new(m->a, t->kind, p0, p1);
}

const struct cel_type *cel_type_quantity(void) { return &type_quantity; }
