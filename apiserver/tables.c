/* Tables: from a list of cached objects to metav1.Table. The columns and cells are the printers' (printers_*.c). */
#include "apiserver/tables.h"

#include "apiserver/convert.h"

/* ---- cells ---- */

void cell_str(struct cells *c, const char *s) { json_append(c->a, c->out, json_str(c->a, str_or_empty(s))); }
void cell_int(struct cells *c, int64_t i) { json_append(c->a, c->out, json_int(c->a, i)); }
void cell_bool(struct cells *c, bool b) { json_append(c->a, c->out, json_bool(c->a, b)); }

void cell_fmt(struct cells *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    cell_str(c, arena_vprintf(c->a, fmt, ap));
    va_end(ap);
}

void cell_name(struct cells *c, const struct json *o) {
    cell_str(c, json_as_str(json_at(o, "metadata", "name", NULL)));
}

/* As duration.HumanDuration of apimachinery: two units while the larger one is small. */
static const char *human(struct arena *a, int64_t s) {
    if (s < -1) return "<invalid>";
    if (s < 0) return "0s";
    if (s < 120) return arena_printf(a, "%llds", (long long)s);
    int64_t m = s / 60, h = s / 3600, d = h / 24, y = d / 365;
    if (m < 10)
        return s % 60 ? arena_printf(a, "%lldm%llds", (long long)m, (long long)(s % 60))
                      : arena_printf(a, "%lldm", (long long)m);
    if (m < 180) return arena_printf(a, "%lldm", (long long)m);
    if (h < 8)
        return m % 60 ? arena_printf(a, "%lldh%lldm", (long long)h, (long long)(m % 60))
                      : arena_printf(a, "%lldh", (long long)h);
    if (h < 48) return arena_printf(a, "%lldh", (long long)h);
    if (d < 8)
        return h % 24 ? arena_printf(a, "%lldd%lldh", (long long)d, (long long)(h % 24))
                      : arena_printf(a, "%lldd", (long long)d);
    if (d < 730) return arena_printf(a, "%lldd", (long long)d);
    if (y < 8)
        return d % 365 ? arena_printf(a, "%lldy%lldd", (long long)y, (long long)(d % 365))
                       : arena_printf(a, "%lldy", (long long)y);
    return arena_printf(a, "%lldy", (long long)y);
}

const char *human_duration(struct arena *a, int64_t seconds) { return human(a, seconds); }

const char *human_age(struct arena *a, const char *time, struct ktime now) {
    struct ktime t;
    if (str_empty(time) || ktime_parse(time, &t)) return "<unknown>";
    return human(a, now.sec - t.sec);
}

void cell_age(struct cells *c, const struct json *o) {
    cell_str(c, human_age(c->a, json_as_str(json_at(o, "metadata", "creationTimestamp", NULL)), c->now));
}

/* ---- columns ---- */

static struct json *column(struct arena *a, const char *spec, size_t n) {
    struct json *c = json_object(a);
    bool wide = *spec == '+';
    if (wide) spec++, n--;
    const char *type = "string";
    if (n > 2 && spec[n - 2] == ':') {
        type = spec[n - 1] == 'i' ? "integer" : spec[n - 1] == 'b' ? "boolean" : "date";
        n -= 2;
    }
    bool name_format = n > 1 && spec[n - 1] == '*';
    bool no_format = n > 1 && spec[n - 1] == '!';
    if (name_format || no_format) n--;
    char *name = arena_strndup(a, spec, n);
    for (char *p = name; *p; p++)
        if (*p == '_') *p = ' ';
    json_set_str(a, c, "name", name);
    json_set_str(a, c, "type", type);
    json_set_str(a, c, "format", name_format || (str_eq(name, "Name") && !no_format) ? "name" : "");
    json_set_str(a, c, "description", "");
    json_set_int(a, c, "priority", wide);
    return c;
}

static struct json *custom_column(struct arena *a, const struct custom_column *d) {
    struct json *c = json_object(a);
    json_set_str(a, c, "name", d->name);
    json_set_str(a, c, "type", d->type);
    json_set_str(a, c, "format", d->format);
    json_set_str(a, c, "description", d->description);
    json_set_int(a, c, "priority", d->priority);
    return c;
}

bool table_printer_same(const struct table_printer *x, const struct table_printer *y) {
    if (x->cells != y->cells || x->n_custom != y->n_custom) return false;
    for (size_t i = 0; i < x->n_custom; i++) {
        const struct custom_column *c = &x->custom[i], *d = &y->custom[i];
        if (!str_eq(c->name, d->name) || !str_eq(c->type, d->type) || !str_eq(c->format, d->format) ||
            !str_eq(c->description, d->description) || !str_eq(c->path, d->path) || c->priority != d->priority)
            return false;
    }
    return true;
}

static struct json *columns(struct arena *a, const struct table_printer *p) {
    struct json *out = json_array(a);
    for (size_t i = 0; i < p->n_custom; i++) json_append(a, out, custom_column(a, &p->custom[i]));
    if (p->n_custom) return out;
    for (const char *s = p->columns; *s;) {
        size_t n = strcspn(s, " ");
        json_append(a, out, column(a, s, n));
        s += n;
        while (*s == ' ') s++;
    }
    return out;
}

/* ---- rows ---- */

struct json *partial_tree(struct arena *a, struct json *v, const char *version) {
    if (!v) return NULL;
    struct json *out = json_object(a);
    json_set_str(a, out, "kind", "PartialObjectMetadata");
    json_set(a, out, "apiVersion", json_strf(a, "meta.k8s.io/%s", version));
    struct json *meta = json_get(v, "metadata"), *notes = json_get(meta, "annotations");
    if (str_eq(json_get_str(v, "kind"), "DaemonSet") && notes) { /* a field of the spec, in upstream's internal form */
        json_del(notes, "deprecated.daemonset.template.generation");
        if (!json_len(notes)) json_del(meta, "annotations");
    }
    json_set(a, out, "metadata", meta ? meta : json_object(a));
    return out;
}

/* Pods that have ended say so beside their cells. */
static void row_conditions(struct arena *a, struct json *row, const struct table_printer *p, const struct json *v) {
    const char *phase = S(v, "status", "phase");
    bool failed = str_eq(phase, "Failed");
    if (!str_eq(p->resource, "v1/pods") || (!failed && !str_eq(phase, "Succeeded"))) return;
    struct json *cond = json_object(a);
    json_set_str(a, cond, "type", "Completed");
    json_set_str(a, cond, "status", "True");
    json_set_str(a, cond, "reason", phase);
    json_set_str(a, cond, "message", failed ? "The pod failed." : "The pod has completed successfully.");
    json_append(a, json_ensure_array(a, row, "conditions"), cond);
}

static void write_row(struct buf *b, struct request *q, const struct table_printer *p, struct arena *a, struct json *v,
                      struct ktime now) {
    struct json *row = json_object(a);
    struct cells c = {p, a, json_array(a), now};
    const char *include = http_query(q->http, "includeObject");
    p->cells(&c, v);
    json_set(a, row, "cells", c.out);
    row_conditions(a, row, p, v);
    if (str_eq(include, "None") && !json_at(v, "metadata", "annotations", INITIAL_END, NULL))
        v = json_null(a);
    else if (!str_eq(include, "Object"))
        v = partial_tree(a, v, q->as_version);
    else if (q->res->storage && !q->res->custom && str_empty(q->subresource))
        v = convert_view(a, q->res->storage, q->res, v);
    json_set(a, row, "object", v);
    json_write(b, row);
}

static void write_object(struct buf *b, struct request *q, const struct object *o, struct ktime now) {
    _cleanup_arena_ struct arena *a = arena_new();
    write_row(b, q, q->res->printer, a, object_tree(a, o), now);
}

static void write_head(struct buf *b, struct request *q, const struct table_printer *p, const char *rv,
                       const char *token, int64_t remaining) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *t = json_object(a), *m = json_object(a);
    json_set_str(a, t, "kind", "Table");
    json_set(a, t, "apiVersion", json_strf(a, "meta.k8s.io/%s", q->as_version));
    json_set_str(a, m, "resourceVersion", rv);
    if (token) json_set_str(a, m, "continue", token);
    if (token && remaining > 0) json_set_int(a, m, "remainingItemCount", remaining);
    json_set(a, t, "metadata", m);
    json_set(a, t, "columnDefinitions", p ? columns(a, p) : json_null(a));
    json_write(b, t);
    b->len--; /* the closing brace */
    buf_adds(b, ",\"rows\":[");
}

void table_write(struct buf *b, struct request *q, const struct wc_list *l, const char *token) {
    char rv[24];
    struct ktime now = ktime_now();
    snprintf(rv, sizeof(rv), "%lld", (long long)l->rev);
    write_head(b, q, q->res->printer, rv, token, l->remaining);
    for (size_t i = 0; i < l->n; i++) {
        if (i) buf_addc(b, ',');
        write_object(b, q, l->items[i], now);
    }
    buf_adds(b, "]}\n");
}

void table_write_event(struct buf *b, struct request *q, const struct object *o, bool head) {
    char rv[24];
    snprintf(rv, sizeof(rv), "%lld", (long long)o->rev);
    write_head(b, q, head ? q->res->printer : NULL, rv, NULL, 0);
    write_object(b, q, o, ktime_now());
    buf_adds(b, "]}");
}

void table_write_bookmark(struct buf *b, struct request *q, struct json *v, bool head) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *rv = json_as_str(json_at(v, "metadata", "resourceVersion", NULL));
    write_head(b, q, head ? q->res->printer : NULL, rv, NULL, 0);
    write_row(b, q, q->res->printer, a, v, ktime_now());
    buf_adds(b, "]}");
}

int table_options(struct request *q, struct err *e) {
    const char *include = http_query(q->http, "includeObject");
    if (str_empty(include) || str_eq(include, "Metadata") || str_eq(include, "None") || str_eq(include, "Object"))
        return 0;
    return err_status(e, 400, "BadRequest",
                      "Unable to convert to Table as requested: includeObject: Invalid value: \"%.60s\": must be "
                      "'Metadata', 'Object', 'None', or empty",
                      include);
}

/* ---- which printer ---- */

static void plain_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, json_as_str(json_at(o, "metadata", "creationTimestamp", NULL)));
}
static const struct table_printer plain_printer = {
    .resource = "", .columns = "Name Created_At:d", .cells = plain_cells};

static const struct table_printer *find_by_name(const char *name) {
    for (const struct table_printer *const *set = table_printers; *set; set++)
        for (const struct table_printer *p = *set; p->resource; p++)
            if (str_eq(p->resource, name)) return p;
    return &plain_printer;
}

const struct table_printer *table_printer_find(const char *group, const char *version, const char *plural) {
    char name[300];
    snprintf(name, sizeof(name), "%s%s%s/%s", group, *group ? "/" : "", version, plural);
    return find_by_name(name);
}

void table_write_tree(struct buf *b, struct request *q, const char *printer, struct json *v) {
    const struct table_printer *p = find_by_name(printer);
    const char *rv = str_or_empty(json_as_str(json_at(v, "metadata", "resourceVersion", NULL)));
    write_head(b, q, p, rv, NULL, 0);
    write_row(b, q, p, q->a, v, ktime_now());
    buf_adds(b, "]}\n");
}
