#include "apiserver/tables.h"

const char *join(struct arena *a, const struct json *list, const char *field, const char *sep) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *x;
    JSON_FOREACH(x, list) {
        const char *s = field ? json_get_str(x, field) : json_as_str(x);
        if (!s) continue;
        if (b.len) buf_adds(&b, sep);
        buf_adds(&b, s);
    }
    return arena_strdup(a, str_or_empty(b.data));
}

static int cmp_member(const void *x, const void *y) {
    return strcmp(((const struct json_member *)x)->key, ((const struct json_member *)y)->key);
}

static void add_labels(struct arena *a, struct buf *b, const struct json *map) {
    if (!json_len(map)) return;
    struct json_member *m = arena_memdup(a, map->members, map->n * sizeof(*m));
    qsort(m, map->n, sizeof(*m), cmp_member);
    for (size_t i = 0; i < map->n; i++)
        buf_printf(b, "%s%s=%s", b->len ? "," : "", m[i].key, str_or_empty(json_as_str(m[i].value)));
}

const char *labels_text(struct arena *a, const struct json *map) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    add_labels(a, &b, map);
    return b.len ? arena_strdup(a, b.data) : "<none>";
}

const char *selector_text(struct arena *a, const struct json *sel) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *x;
    add_labels(a, &b, json_get(sel, "matchLabels"));
    JSON_FOREACH(x, json_get(sel, "matchExpressions")) {
        const char *key = str_or_empty(json_get_str(x, "key")), *op = json_get_str(x, "operator");
        const char *comma = b.len ? "," : "";
        if (str_eq(op, "Exists"))
            buf_printf(&b, "%s%s", comma, key);
        else if (str_eq(op, "DoesNotExist"))
            buf_printf(&b, "%s!%s", comma, key);
        else
            buf_printf(&b, "%s%s %s (%s)", comma, key, str_eq(op, "In") ? "in" : "notin",
                       join(a, json_get(x, "values"), NULL, ","));
    }
    return b.len ? arena_strdup(a, b.data) : "<none>";
}

const char *first_three(struct arena *a, const char *const *list, size_t n, const char *none) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (!n) return none;
    for (size_t i = 0; i < n && i < 3; i++) buf_printf(&b, "%s%s", i ? "," : "", list[i]);
    if (n > 3) buf_printf(&b, " + %zu more...", n - 3);
    return arena_strdup(a, b.data);
}

const struct json *find_condition(const struct json *conditions, const char *type) {
    struct json *x;
    JSON_FOREACH(x, conditions) {
        if (str_eq(json_get_str(x, "type"), type)) return x;
    }
    return NULL;
}

bool condition_true(const struct json *conditions, const char *type) {
    return str_eq(json_get_str(find_condition(conditions, type), "status"), "True");
}

void cell_containers(struct cells *c, const struct json *pod_spec) {
    const struct json *list = json_get(pod_spec, "containers");
    cell_str(c, join(c->a, list, "name", ","));
    cell_str(c, join(c->a, list, "image", ","));
}

const char *access_modes_text(struct arena *a, const struct json *modes) {
    static const char *const map[][2] = {
        {"ReadWriteOnce", "RWO"}, {"ReadOnlyMany", "ROX"}, {"ReadWriteMany", "RWX"}, {"ReadWriteOncePod", "RWOP"}};
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < ARRAY_LEN(map); i++) {
        struct json *x;
        bool has = false;
        JSON_FOREACH(x, modes) has |= str_eq(json_as_str(x), map[i][0]);
        if (has) buf_printf(&b, "%s%s", b.len ? "," : "", map[i][1]);
    }
    return arena_strdup(a, str_or_empty(b.data));
}

const char *scalar_text(struct arena *a, const struct json *v, const char *dflt) {
    if (json_is(v, JSON_STRING) || json_is(v, JSON_NUMBER)) return v->str;
    if (json_is(v, JSON_INT)) return arena_printf(a, "%lld", (long long)v->i);
    if (json_is(v, JSON_BOOL)) return v->b ? "true" : "false";
    return dflt;
}

static int by_text(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

const char *load_balancer_points(struct arena *a, const struct json *lb) {
    const struct json *list = json_get(lb, "ingress"), *x;
    const char **at = arena_alloc(a, (json_len(list) + 1) * sizeof(*at));
    _cleanup_buf_ struct buf b = BUF_INIT;
    size_t n = 0;
    JSON_FOREACH(x, list) {
        at[n] = or_text(json_get_str(x, "ip"), str_or_empty(json_get_str(x, "hostname")));
        n += *at[n] != '\0';
    }
    qsort(at, n, sizeof(*at), by_text);
    for (size_t i = 0; i < n; i++)
        if (!i || !str_eq(at[i], at[i - 1])) buf_printf(&b, "%s%s", b.len ? "," : "", at[i]);
    return arena_strdup(a, str_or_empty(b.data));
}
