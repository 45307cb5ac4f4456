/* Selector grammar (upstream: apimachinery labels.Parse and fields.ParseSelector).
 *
 *   labels   req {"," req};  req = key | "!" key | key ("=" | "==" | "!=") value | key ("in" | "notin") "(" v {"," v} ")"
 *            | key (">" | "<") integer
 *   fields   term {"," term};  term = key ("=" | "==" | "!=") value, with \, \= \\ escapes in values
 */
#include "apiserver/selector.h"

#include <ctype.h>

struct lex {
    const char *p;
    struct arena *a;
};

enum lex_tok { T_END, T_WORD, T_COMMA, T_OPEN, T_CLOSE, T_BANG, T_EQ, T_NE, T_GT, T_LT, T_BAD };

static enum lex_tok lex_next(struct lex *l, const char **word) {
    while (isspace((unsigned char)*l->p)) l->p++;
    switch (*l->p) {
        case 0: return T_END;
        case ',': l->p++; return T_COMMA;
        case '(': l->p++; return T_OPEN;
        case ')': l->p++; return T_CLOSE;
        case '>': l->p++; return T_GT;
        case '<': l->p++; return T_LT;
        case '=': l->p += l->p[1] == '=' ? 2 : 1; return T_EQ;
        case '!':
            if (l->p[1] == '=') {
                l->p += 2;
                return T_NE;
            }
            l->p++;
            return T_BANG;
    }
    const char *start = l->p;
    while (*l->p && !strchr(",()=!<> \t\r\n", *l->p)) l->p++;
    *word = arena_strndup(l->a, start, (size_t)(l->p - start));
    return T_WORD;
}

static enum lex_tok lex_peek(struct lex *l, const char **word) {
    struct lex save = *l;
    enum lex_tok t = lex_next(&save, word);
    return t;
}

/* A label's name part or value: alphanumeric at both ends, -_. inside, at most 63. */
static bool name_part_ok(const char *s, size_t n, bool may_be_empty) {
    if (n == 0) return may_be_empty;
    if (n > 63 || !isalnum((unsigned char)s[0]) || !isalnum((unsigned char)s[n - 1])) return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("-_.", s[i])) return false;
    return true;
}

static bool label_key_ok(const char *k) {
    const char *slash = strchr(k, '/');
    if (!slash) return name_part_ok(k, strlen(k), false);
    size_t n = (size_t)(slash - k);
    if (n == 0 || n > 253 || strchr(slash + 1, '/')) return false;
    for (size_t i = 0; i < n; i++)
        if (!islower((unsigned char)k[i]) && !isdigit((unsigned char)k[i]) && !strchr("-.", k[i])) return false;
    return name_part_ok(slash + 1, strlen(slash + 1), false);
}

static int bad_label(struct err *e, const char *text, const char *why) {
    return err_status(e, 400, "BadRequest", "unable to parse requirement: %s in selector \"%.200s\"", why, text);
}

static void add_value(struct arena *a, struct selector_req *r, size_t *cap, const char *v) {
    ARENA_GROW(a, r->values, r->n_values, *cap);
    r->values[r->n_values++] = v;
}

/* "(" value {"," value} ")"; values may be empty, as in "in (a,)". */
static bool parse_set(struct lex *l, struct selector_req *r) {
    size_t cap = 0;
    const char *w = NULL;
    if (lex_next(l, &w) != T_OPEN) return false;
    for (;;) {
        enum lex_tok t = lex_next(l, &w);
        const char *value = "";
        if (t == T_WORD) {
            value = w;
            t = lex_next(l, &w);
        }
        if (t != T_COMMA && t != T_CLOSE) return false;
        if (r->n_values >= SELECTOR_MAX_VALUES || !name_part_ok(value, strlen(value), true)) return false;
        add_value(l->a, r, &cap, value);
        if (t == T_CLOSE) return true;
    }
}

static bool parse_after_key(struct lex *l, struct selector_req *r) {
    const char *w = NULL;
    size_t cap = 0;
    enum lex_tok t = lex_peek(l, &w);
    if (t == T_END || t == T_COMMA) {
        r->op = SEL_EXISTS;
        return true;
    }
    lex_next(l, &w);
    if (t == T_WORD && (str_eq(w, "in") || str_eq(w, "notin"))) {
        r->op = str_eq(w, "in") ? SEL_IN : SEL_NOT_IN;
        return parse_set(l, r);
    }
    if (t != T_EQ && t != T_NE && t != T_GT && t != T_LT) return false;
    r->op = t == T_EQ ? SEL_EQ : t == T_NE ? SEL_NE : t == T_GT ? SEL_GT : SEL_LT;
    const char *value = "";
    enum lex_tok v = lex_peek(l, &w);
    if (v == T_WORD) {
        lex_next(l, &w);
        value = w;
    } else if (v != T_END && v != T_COMMA) {
        return false;
    }
    int64_t num;
    if ((r->op == SEL_GT || r->op == SEL_LT) ? str_to_i64(value, &num) != 0 : !name_part_ok(value, strlen(value), true))
        return false;
    add_value(l->a, r, &cap, value);
    return true;
}

int selector_parse_labels(struct arena *a, const char *text, struct selector *out, struct err *e) {
    struct lex l = {str_or_empty(text), a};
    size_t cap = 0;
    const char *w = NULL;
    if (lex_peek(&l, &w) == T_END) return 0;
    for (;;) {
        struct selector_req r = {0};
        enum lex_tok t = lex_next(&l, &w);
        bool negated = t == T_BANG;
        if (negated) t = lex_next(&l, &w);
        if (t != T_WORD) return bad_label(e, text, "found no key");
        r.key = w;
        if (!label_key_ok(r.key)) return bad_label(e, text, "invalid label key");
        if (negated)
            r.op = SEL_NOT_EXISTS;
        else if (!parse_after_key(&l, &r))
            return bad_label(e, text, "unexpected operator or value");
        if (out->n_labels >= SELECTOR_MAX_REQS) return bad_label(e, text, "too many requirements");
        ARENA_GROW(a, out->labels, out->n_labels, cap);
        out->labels[out->n_labels++] = r;
        t = lex_next(&l, &w);
        if (t == T_END) return 0;
        if (t != T_COMMA) return bad_label(e, text, "expected ','");
        if (lex_peek(&l, &w) == T_END) return bad_label(e, text, "found no key after ','");
    }
}

/* ---- fields ---- */

static int field_index(const struct resource *r, const char *key) {
    if (str_eq(key, "metadata.name")) return SEL_FIELD_NAME;
    bool no_namespace = (!*r->group && (str_eq(r->plural, "nodes") || str_eq(r->plural, "namespaces"))) ||
                        str_eq(r->plural, "certificatesigningrequests") || (r->custom && !r->namespaced);
    if (str_eq(key, "metadata.namespace") && !no_namespace) return SEL_FIELD_NAMESPACE;
    if (str_eq(key, "spec.host") && str_eq(r->plural, "pods"))
        key = "spec.nodeName"; /* its name in the first version */
    const char *const *stored = resource_stored(r)->fields;
    size_t n = strlen(key);
    for (int i = 0; r->fields && r->fields[i]; i++) {
        const char *f = r->fields[i];
        if (strncmp(f, key, n) != 0 || (f[n] && f[n] != '=')) continue;
        if (stored == r->fields) return i;
        for (int j = 0; stored && stored[j]; j++) /* the objects are those of another row */
            if (str_eq(resource_field_path(stored[j]), resource_field_path(f))) return j;
    }
    return -3;
}

static int parse_term(struct arena *a, const struct resource *res, const char *p, size_t n, struct selector_req *r,
                      struct err *e) {
    size_t i = 0;
    while (i < n && p[i] != '=' && !(p[i] == '!' && i + 1 < n && p[i + 1] == '=')) i++;
    if (i == n)
        return err_status(e, 400, "BadRequest", "invalid field selector: '%.*s'; can't understand '%.*s'", (int)n, p,
                          (int)n, p);
    r->key = arena_strndup(a, p, i);
    r->op = p[i] == '!' ? SEL_NE : SEL_EQ;
    i += p[i] == '!' ? 2 : (i + 1 < n && p[i + 1] == '=') ? 2 : 1;
    char *v = arena_alloc(a, n - i + 1), *o = v;
    for (; i < n; i++) {
        if (p[i] == '\\') {
            if (i + 1 >= n || !strchr("\\,=", p[i + 1]))
                return err_status(e, 400, "BadRequest", "invalid field selector: invalid escape sequence");
            i++;
        } else if (p[i] == '=') {
            return err_status(e, 400, "BadRequest", "invalid field selector: unescaped '=' in value");
        }
        *o++ = p[i];
    }
    *o = 0;
    size_t cap = 0;
    add_value(a, r, &cap, v);
    r->field = res ? field_index(res, r->key) : SEL_FIELD_NAME;
    if (r->field < SEL_FIELD_NAMESPACE)
        return err_status(e, 400, "BadRequest", "field label not supported: %s", r->key);
    return 0;
}

static int parse_fields(struct arena *a, const struct resource *res, const char *text, struct selector *out,
                        struct err *e) {
    size_t cap = 0;
    for (const char *p = str_or_empty(text); *p;) {
        const char *q = p;
        while (*q && *q != ',') q += *q == '\\' && q[1] ? 2 : 1;
        if (q > p) {
            struct selector_req r = {0};
            int rc = parse_term(a, res, p, (size_t)(q - p), &r, e);
            if (rc) return rc;
            if (out->n_fields >= SELECTOR_MAX_REQS)
                return err_status(e, 400, "BadRequest", "field selector has too many terms");
            ARENA_GROW(a, out->fields, out->n_fields, cap);
            out->fields[out->n_fields++] = r;
            if (r.field == SEL_FIELD_NAME && r.op == SEL_EQ) out->only_name = r.values[0];
        }
        p = *q ? q + 1 : q;
    }
    return 0;
}

int selector_parse_fields(struct arena *a, const char *text, struct selector *out, struct err *e) {
    return parse_fields(a, NULL, text, out, e);
}

int selector_parse(struct arena *a, const struct resource *r, const char *labels, const char *fields,
                   struct selector *out, struct err *e) {
    *out = (struct selector){0};
    int rc = str_empty(labels) ? 0 : selector_parse_labels(a, labels, out, e);
    return rc ? rc : parse_fields(a, r, fields, out, e);
}

/* ---- matching ---- */

static bool span_is(const struct object *o, struct span s, const char *text) {
    return strlen(text) == s.len && memcmp(object_at(o, s), text, s.len) == 0;
}

static const struct object_label *find_label(const struct object *o, const char *key) {
    for (uint32_t i = 0; i < o->n_labels; i++)
        if (span_is(o, o->labels[i].key, key)) return &o->labels[i];
    return NULL;
}

static bool compare_number(const struct object *o, struct span s, const struct selector_req *r) {
    char text[24];
    int64_t have, want;
    if (s.len >= sizeof(text)) return false;
    memcpy(text, object_at(o, s), s.len);
    text[s.len] = 0;
    if (str_to_i64(text, &have) || str_to_i64(r->values[0], &want)) return false;
    return r->op == SEL_GT ? have > want : have < want;
}

static bool match_label(const struct selector_req *r, const struct object *o) {
    const struct object_label *l = find_label(o, r->key);
    bool in = false;
    if (l)
        for (size_t i = 0; i < r->n_values && !in; i++) in = span_is(o, l->value, r->values[i]);
    switch (r->op) {
        case SEL_EXISTS: return l != NULL;
        case SEL_NOT_EXISTS: return l == NULL;
        case SEL_EQ:
        case SEL_IN: return in;
        case SEL_NE:
        case SEL_NOT_IN: return !in;
        case SEL_GT:
        case SEL_LT: return l && compare_number(o, l->value, r);
    }
    return false;
}

/* Fields that are false when they are absent are compared as "false". */
static bool is_bool_field(const char *key) {
    return str_eq(key, "spec.unschedulable") || str_eq(key, "spec.hostNetwork");
}
static bool is_number_field(const char *key) {
    return str_eq(key, "status.replicas") || str_eq(key, "status.successful");
}

static bool match_field(const struct selector_req *r, const struct object *o) {
    const char *want = r->values[0];
    bool eq;
    if (r->field == SEL_FIELD_NAME) {
        eq = str_eq(object_name(o), want);
    } else if (r->field == SEL_FIELD_NAMESPACE) {
        eq = strlen(want) == o->ns_len && strncmp(o->key, want, o->ns_len) == 0;
    } else {
        struct span s = (uint32_t)r->field < o->n_fields ? o->fields[r->field] : (struct span){0, 0};
        if (s.len)
            eq = span_is(o, s, want);
        else
            eq = str_eq(want, is_bool_field(r->key) ? "false" : is_number_field(r->key) ? "0" : "");
    }
    return r->op == SEL_NE ? !eq : eq;
}

bool selector_match(const struct selector *s, const struct object *o) {
    for (size_t i = 0; i < s->n_fields; i++)
        if (!match_field(&s->fields[i], o)) return false;
    for (size_t i = 0; i < s->n_labels; i++)
        if (!match_label(&s->labels[i], o)) return false;
    return true;
}

/* ---- heap copies: an arena of their own ---- */

struct owned_selector {
    struct selector s;
    struct arena *a;
};

static struct selector_req *dup_reqs(struct arena *a, const struct selector_req *r, size_t n) {
    if (!n) return NULL;
    struct selector_req *out = arena_memdup(a, r, n * sizeof(*r));
    for (size_t i = 0; i < n; i++) {
        out[i].key = arena_strdup(a, r[i].key);
        out[i].values = r[i].n_values ? arena_alloc(a, r[i].n_values * sizeof(char *)) : NULL;
        for (size_t j = 0; j < r[i].n_values; j++) out[i].values[j] = arena_strdup(a, r[i].values[j]);
    }
    return out;
}

struct selector *selector_dup(const struct selector *s) {
    struct owned_selector *o = xcalloc(1, sizeof(*o));
    o->s = *s;
    if (selector_empty(s)) return &o->s;
    o->a = arena_new();
    o->s.labels = dup_reqs(o->a, s->labels, s->n_labels);
    o->s.fields = dup_reqs(o->a, s->fields, s->n_fields);
    o->s.only_name = arena_strdup(o->a, s->only_name);
    return &o->s;
}

void selector_free(struct selector *s) {
    if (!s) return;
    struct owned_selector *o = CONTAINER_OF(s, struct owned_selector, s);
    arena_free(o->a);
    free(o);
}
