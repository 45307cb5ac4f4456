/* See jsonpath.h. A path is read step by step; each step maps the values found so far to those of the next step. */
#include "apiserver/crd/jsonpath.h"

#include <ctype.h>

enum step_kind { STEP_NAME, STEP_INDEX, STEP_ALL, STEP_FILTER };

struct step {
    enum step_kind kind;
    const char *name; /* NAME; FILTER: path below the element */
    int64_t index;
    const char *op; /* FILTER: NULL asks for presence */
    struct json *operand;
};

/* The text up to `end`, with escapes taken out. NULL when it is not ended. */
static const char *quoted(struct arena *a, const char **p, char end) {
    const char *s = *p;
    char *out = arena_alloc(a, strlen(s) + 1), *o = out;
    while (*s && *s != end) {
        if (*s == '\\' && s[1]) s++;
        *o++ = *s++;
    }
    *o = 0;
    if (*s != end) return NULL;
    *p = s + 1;
    return out;
}

static const char *name_of(struct arena *a, const char **p) {
    const char *s = *p;
    char *out = arena_alloc(a, strlen(s) + 1), *o = out;
    while (*s && *s != '.' && *s != '[' && *s != '}' && !isspace((unsigned char)*s)) {
        if (*s == '\\' && s[1]) s++;
        *o++ = *s++;
    }
    *o = 0;
    *p = s;
    return out;
}

static void skip_space(const char **p) {
    while (isspace((unsigned char)**p)) (*p)++;
}

/* ?(@.path op literal) */
static const char *filter_of(struct arena *a, const char **p, struct step *st) {
    static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">"};
    if (strncmp(*p, "?(", 2) != 0) return "unrecognized filter";
    *p += 2;
    skip_space(p);
    if (**p != '@') return "a filter compares something of the element (@)";
    const char *start = ++*p;
    size_t n = 0;
    for (char quote = 0; start[n]; n++) { /* the path ends at an operator or the bracket */
        if (quote) {
            if (start[n] == quote) quote = 0;
        } else if (start[n] == '\'' || start[n] == '"') {
            quote = start[n];
        } else if (strchr("=!<>) ", start[n])) {
            break;
        }
    }
    st->name = arena_strndup(a, start, n);
    *p = start + n;
    skip_space(p);
    for (size_t i = 0; i < ARRAY_LEN(ops) && !st->op; i++)
        if (strncmp(*p, ops[i], strlen(ops[i])) == 0) st->op = ops[i];
    if (st->op) {
        *p += strlen(st->op);
        skip_space(p);
        if (**p == '"' || **p == '\'') {
            char q = *(*p)++;
            const char *text = quoted(a, p, q);
            if (!text) return "unterminated string";
            st->operand = json_str(a, text);
        } else {
            size_t len = strcspn(*p, ") ");
            if (json_parse(a, *p, len, &st->operand, NULL, NULL)) return "a filter compares with a literal";
            *p += len;
        }
        skip_space(p);
    }
    if (strncmp(*p, ")]", 2) != 0) return "unterminated filter";
    *p += 2;
    return NULL;
}

static const char *bracket_of(struct arena *a, const char **p, struct step *st) {
    if (**p == '?') {
        st->kind = STEP_FILTER;
        return filter_of(a, p, st);
    }
    if (**p == '\'' || **p == '"') {
        char q = *(*p)++;
        st->kind = STEP_NAME;
        if (!(st->name = quoted(a, p, q))) return "unterminated string";
    } else if (**p == '*') {
        st->kind = STEP_ALL;
        (*p)++;
    } else {
        size_t n = strcspn(*p, "]");
        st->kind = STEP_INDEX;
        if (n > 12 || str_to_i64(arena_strndup(a, *p, n), &st->index)) return "invalid array index";
        *p += n;
    }
    if (**p != ']') return "unterminated array";
    (*p)++;
    return NULL;
}

/* 1 with a step, 0 at the end, -1 with *fault. */
static int next_step(struct arena *a, const char **p, struct step *st, const char **fault) {
    *st = (struct step){0};
    if (**p == '{' || **p == '$' || **p == '}') {
        (*p)++;
        return next_step(a, p, st, fault);
    }
    if (!**p) return 0;
    if (**p == '[') {
        (*p)++;
        *fault = bracket_of(a, p, st);
        return *fault ? -1 : 1;
    }
    if (**p == '.')
        (*p)++;
    else
        *fault = "a name is behind a dot";
    if (*fault) return -1;
    if (!**p || **p == '}') return 0; /* "." is the whole object */
    if (**p == '[') return next_step(a, p, st, fault);
    if (**p == '*') {
        st->kind = STEP_ALL;
        (*p)++;
        return 1;
    }
    st->kind = STEP_NAME;
    st->name = name_of(a, p);
    if (!*st->name) *fault = "a name is missing";
    return *fault ? -1 : 1;
}

static bool compare(const char *op, const struct json *x, const struct json *y) {
    int cmp;
    if (json_is(x, JSON_STRING) && json_is(y, JSON_STRING)) {
        cmp = strcmp(x->str, y->str);
    } else if ((json_is(x, JSON_INT) || json_is(x, JSON_NUMBER)) && (json_is(y, JSON_INT) || json_is(y, JSON_NUMBER))) {
        double d = json_as_double(x, 0), e = json_as_double(y, 0);
        cmp = d < e ? -1 : d > e;
    } else {
        bool same = json_equal(x, y);
        return op[0] == '!' ? !same : same && op[1] == '=';
    }
    if (op[0] == '!') return cmp != 0;
    if (op[0] == '=') return cmp == 0;
    return op[0] == '<' ? cmp < 0 || (op[1] && cmp == 0) : cmp > 0 || (op[1] && cmp == 0);
}

static void put(struct arena *a, struct json *out, const struct json *v) {
    if (v && json_len(out) < JSONPATH_MAX_RESULTS) json_append(a, out, (struct json *)v);
}

static void apply(struct arena *a, const struct step *st, const struct json *v, struct json *out) {
    const struct json *it;
    switch (st->kind) {
        case STEP_NAME: put(a, out, json_is(v, JSON_OBJECT) ? json_get(v, st->name) : NULL); break;
        case STEP_INDEX: {
            int64_t i = st->index < 0 ? (int64_t)json_len(v) + st->index : st->index;
            if (json_is(v, JSON_ARRAY) && i >= 0) put(a, out, json_item(v, (size_t)i));
            break;
        }
        case STEP_ALL:
            if (json_is(v, JSON_ARRAY))
                JSON_FOREACH(it, v) put(a, out, it);
            JSON_FOREACH_MEMBER(m, v) put(a, out, m->value);
            break;
        case STEP_FILTER:
            if (!json_is(v, JSON_ARRAY)) break;
            JSON_FOREACH(it, v) {
                const struct json *x = jsonpath_first(a, st->name, it);
                if (x && (!st->op || compare(st->op, x, st->operand))) put(a, out, it);
            }
            break;
    }
}

static const char *walk(struct arena *a, const char *path, const struct json *v, struct json **out) {
    const char *p = path, *fault = NULL;
    struct step st;
    size_t depth = 0;
    int rc;
    *out = json_array(a);
    put(a, *out, v);
    while ((rc = next_step(a, &p, &st, &fault)) == 1) {
        struct json *found = json_array(a), *it;
        if (++depth > JSONPATH_MAX_DEPTH) return "too many steps";
        JSON_FOREACH(it, *out) apply(a, &st, it, found);
        *out = found;
    }
    return rc < 0 ? fault : NULL;
}

struct json *jsonpath_find(struct arena *a, const char *path, const struct json *v) {
    struct json *out;
    return walk(a, path, v, &out) ? json_array(a) : out;
}

const struct json *jsonpath_first(struct arena *a, const char *path, const struct json *v) {
    struct json *out;
    return path && !walk(a, path, v, &out) ? json_item(out, 0) : NULL;
}

const char *jsonpath_fault(struct arena *a, const char *path) {
    struct json *out;
    return walk(a, path, NULL, &out);
}

int jsonpath_set(struct arena *a, const char *path, struct json *v, struct json *value) {
    const char *p = path, *fault = NULL;
    struct step st, next;
    int rc = next_step(a, &p, &st, &fault);
    while (rc == 1) {
        if (st.kind != STEP_NAME || !json_is(v, JSON_OBJECT)) return -EINVAL;
        rc = next_step(a, &p, &next, &fault);
        if (rc == 0) {
            json_set(a, v, st.name, value);
            return 0;
        }
        const struct json *there = json_get(v, st.name);
        if (there && there->type != JSON_NULL && there->type != JSON_OBJECT) return -EINVAL;
        v = json_ensure_object(a, v, st.name);
        st = next;
    }
    return -EINVAL;
}
