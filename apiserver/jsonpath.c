#include "apiserver/jsonpath.h"

#include <ctype.h>

struct results {
    struct json **out;
    size_t n;
};

static void walk(struct arena *a, struct json *v, const char *p, struct results *r);

/* A name after a dot ends at the next . or [; a backslash takes the next character as it is. */
static char *read_name(struct arena *a, const char **p) {
    char *out = arena_alloc(a, strlen(*p) + 1), *o = out;
    const char *s = *p;
    while (*s && *s != '.' && *s != '[') {
        if (*s == '\\' && s[1]) s++;
        *o++ = *s++;
    }
    *o = 0;
    *p = s;
    return out;
}

/* [?(@.a.b=="x")]: `p` is behind "[?(". Returns the text behind ")]" or NULL. */
static const char *read_filter(struct arena *a, const char *p, const char **path, bool *negated, const char **value) {
    const char *op = strpbrk(p, "=!"), *end = strstr(p, ")]");
    if (*p != '@' || !op || !end || op > end || op[1] != '=') return NULL;
    *negated = *op == '!';
    const char *stop = op;
    while (stop > p && isspace((unsigned char)stop[-1])) stop--;
    *path = arena_strndup(a, p + 1, (size_t)(stop - p - 1));
    const char *v = op + 2, *ve = end;
    while (v < ve && isspace((unsigned char)*v)) v++;
    while (ve > v && isspace((unsigned char)ve[-1])) ve--;
    if (ve - v >= 2 && (*v == '"' || *v == '\'')) v++, ve--;
    *value = arena_strndup(a, v, (size_t)(ve - v));
    return end + 2;
}

static bool value_is(struct arena *a, const struct json *v, const char *text) {
    if (json_is(v, JSON_STRING)) return str_eq(v->str, text);
    return v && str_eq(json_text(a, v), text);
}

static void walk_bracket(struct arena *a, struct json *v, const char *p, struct results *r) {
    struct json *x;
    if (*p == '?' && p[1] == '(') {
        const char *path, *value, *rest;
        bool negated;
        if (!(rest = read_filter(a, p + 2, &path, &negated, &value))) return;
        JSON_FOREACH(x, v) {
            struct json *found = jsonpath_first(a, x, path);
            if ((found && value_is(a, found, value)) != negated) walk(a, x, rest, r);
        }
        return;
    }
    const char *end = strchr(p, ']');
    if (!end) return;
    if (*p == '*') {
        JSON_FOREACH(x, v) walk(a, x, end + 1, r);
        if (json_is(v, JSON_OBJECT))
            for (uint32_t i = 0; i < v->n; i++) walk(a, v->members[i].value, end + 1, r);
        return;
    }
    if ((*p == '\'' || *p == '"') && end - p >= 2) {
        walk(a, json_get(v, arena_strndup(a, p + 1, (size_t)(end - p - 2))), end + 1, r);
        return;
    }
    int64_t i;
    if (str_to_i64(arena_strndup(a, p, (size_t)(end - p)), &i) || !json_is(v, JSON_ARRAY)) return;
    if (i < 0) i += v->n;
    if (i >= 0 && i < v->n) walk(a, v->items[i], end + 1, r);
}

static void walk(struct arena *a, struct json *v, const char *p, struct results *r) {
    if (!v || r->n >= JSONPATH_MAX_RESULTS) return;
    if (!*p || str_eq(p, ".")) {
        r->out[r->n++] = v;
    } else if (*p == '[') {
        walk_bracket(a, v, p + 1, r);
    } else if (*p == '.') {
        p++;
        if (*p == '[') {
            walk(a, v, p, r);
            return;
        }
        const char *name = read_name(a, &p);
        struct json *x;
        if (!str_eq(name, "*")) {
            walk(a, json_get(v, name), p, r);
        } else {
            JSON_FOREACH(x, v) walk(a, x, p, r);
        }
    }
}

size_t jsonpath_find(struct arena *a, const struct json *v, const char *path, struct json **out) {
    struct results r = {out, 0};
    if (str_empty(path)) return 0;
    if (*path == '{') { /* {.a.b}, as kubectl writes it */
        size_t n = strlen(path);
        path = path[n - 1] == '}' ? arena_strndup(a, path + 1, n - 2) : path;
    }
    if (*path != '.' && *path != '[') path = arena_printf(a, ".%s", path);
    walk(a, (struct json *)v, path, &r);
    return r.n;
}

struct json *jsonpath_first(struct arena *a, const struct json *v, const char *path) {
    struct json *out[JSONPATH_MAX_RESULTS];
    return jsonpath_find(a, v, path, out) ? out[0] : NULL;
}

bool jsonpath_set(struct arena *a, struct json *v, const char *path, struct json *value) {
    while (*path == '.') {
        path++;
        const char *name = read_name(a, &path);
        if (!*name || !json_is(v, JSON_OBJECT)) return false;
        if (!*path) {
            json_set(a, v, name, value);
            return true;
        }
        v = json_ensure_object(a, v, name);
    }
    return false;
}
