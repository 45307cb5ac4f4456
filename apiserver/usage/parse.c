/* The Prometheus text that a kubelet serves at /metrics/resource: lines `name{label="value",...} number
 * [milliseconds]`. Only the six metrics of the table below are looked at. */
#include <math.h>

#include "apiserver/usage/usage.h"

enum { LABELS_MAX = 16, METRIC_NAME_MAX = 64 };

struct line {
    char name[METRIC_NAME_MAX];
    const char *container, *ns, *pod;
    double value;
    int64_t at_ms; /* 0: not said */
};

/* ---- reading a line ---- */

/* A label's value, with its escapes undone; *p is behind the closing quote. NULL when there is none. */
static const char *label_value(struct arena *a, const char **p, const char *end) {
    const char *s = *p;
    if (s >= end || *s != '"') return NULL;
    const char *close = ++s;
    while (close < end && *close != '"') close += *close == '\\' ? 2 : 1;
    if (close >= end) return NULL;
    char *out = arena_alloc(a, (size_t)(close - s) + 1), *o = out;
    for (; s < close; s++) {
        if (*s == '\\') {
            s++;
            *o++ = *s == 'n' ? '\n' : *s;
        } else {
            *o++ = *s;
        }
    }
    *o = 0;
    *p = close + 1;
    return out;
}

static bool read_labels(struct arena *a, struct line *l, const char **p, const char *end) {
    const char *s = *p;
    for (int i = 0; i < LABELS_MAX && s < end; i++) {
        while (s < end && (*s == ',' || *s == ' ')) s++;
        if (s < end && *s == '}') {
            *p = s + 1;
            return true;
        }
        const char *key = s;
        while (s < end && *s != '=' && *s != '}') s++;
        size_t n = (size_t)(s - key);
        if (s >= end || *s != '=') return false;
        s++;
        const char *v = label_value(a, &s, end);
        if (!v) return false;
        if (n == 9 && memcmp(key, "container", n) == 0)
            l->container = v;
        else if (n == 9 && memcmp(key, "namespace", n) == 0)
            l->ns = v;
        else if (n == 3 && memcmp(key, "pod", n) == 0)
            l->pod = v;
    }
    return false;
}

/* A number of at most 63 characters, ended by white space or `end`. */
static bool read_number(const char **p, const char *end, double *out) {
    char text[64], *stop;
    while (*p < end && **p == ' ') (*p)++;
    size_t n = 0;
    while (*p + n < end && (*p)[n] != ' ') n++;
    if (!n || n >= sizeof(text)) return false;
    memcpy(text, *p, n);
    text[n] = 0;
    *out = strtod(text, &stop);
    *p += n;
    return *stop == 0 && isfinite(*out);
}

static bool read_line(struct arena *a, struct line *l, const char *p, const char *end) {
    double at;
    size_t n = 0;
    *l = (struct line){.container = "", .ns = "", .pod = ""};
    while (p + n < end && p[n] != '{' && p[n] != ' ') n++;
    if (!n || n >= sizeof(l->name)) return false;
    memcpy(l->name, p, n);
    p += n;
    if (p < end && *p == '{') {
        p++;
        if (!read_labels(a, l, &p, end)) return false;
    }
    if (!read_number(&p, end, &l->value)) return false;
    while (p < end && *p == ' ') p++;
    if (p == end) return true;
    if (!read_number(&p, end, &at) || fabs(at) > 9e15) return false;
    l->at_ms = (int64_t)at;
    return true;
}

/* ---- into the sample ---- */

static int compare(const char *ns, const char *pod, const char *container, const struct usage_point *p) {
    int c = strcmp(ns, p->ns);
    if (!c) c = strcmp(pod, p->pod);
    return c ? c : strcmp(container, p->container);
}

static int by_name(const void *x, const void *y) {
    const struct usage_point *p = x;
    return compare(p->ns, p->pod, p->container, y);
}

static int64_t bytes_of(double v) { return v < 0 ? 0 : v > 9e18 ? INT64_MAX : (int64_t)v; }

/* A line is a point of its own; points of one container are put together when all are read. */
static int take(struct usage_sample *s, const struct line *l, struct err *e) {
    struct usage_point p = {.ns = l->ns, .pod = l->pod, .container = l->container};
    bool container = str_has_prefix(l->name, "container_"), pod = str_has_prefix(l->name, "pod_");
    const char *what = l->name + (container ? strlen("container_") : pod ? strlen("pod_") : strlen("node_"));
    if (l->at_ms > s->at_ms) s->at_ms = l->at_ms;
    if (str_eq(what, "cpu_usage_seconds_total"))
        p.cpu_seconds = l->value, p.has_cpu = true;
    else if (str_eq(what, "memory_working_set_bytes"))
        p.memory = bytes_of(l->value), p.has_memory = true;
    else if (str_eq(what, "start_time_seconds"))
        p.started = l->value;
    else
        return 0;
    if (!container && !pod) {
        if (p.has_cpu) s->node_cpu_seconds = p.cpu_seconds, s->has_node = true;
        if (p.has_memory) s->node_memory = p.memory;
        return 0;
    }
    if (!*p.pod) return err_set(e, -EINVAL, "%s without a pod", l->name);
    if (s->n >= USAGE_POINTS_MAX) return err_set(e, -E2BIG, "more than %d containers", USAGE_POINTS_MAX);
    ARENA_GROW(s->arena, s->points, s->n, s->cap);
    s->points[s->n++] = p;
    return 0;
}

static void put_together(struct usage_sample *s) {
    size_t n = 0;
    if (s->n) qsort(s->points, s->n, sizeof(*s->points), by_name);
    for (size_t i = 0; i < s->n; i++) {
        struct usage_point *p = &s->points[i], *to = n ? &s->points[n - 1] : NULL;
        if (!to || by_name(p, to)) {
            s->points[n++] = *p;
            continue;
        }
        if (p->has_cpu) to->cpu_seconds = p->cpu_seconds, to->has_cpu = true;
        if (p->has_memory) to->memory = p->memory, to->has_memory = true;
        if (p->started > 0) to->started = p->started;
    }
    s->n = n;
}

static bool of_interest(const char *p, size_t n) {
    static const char *const prefixes[] = {"container_", "pod_", "node_"};
    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        if (n > strlen(prefixes[i]) && memcmp(p, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

int usage_parse(const char *text, size_t len, struct usage_sample **out, struct err *e) {
    struct usage_sample *s = xcalloc(1, sizeof(*s));
    struct line l;
    int rc = 0;
    s->arena = arena_new();
    for (const char *p = text, *end = text + len; p < end && !rc;) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((eol ? eol : end) - p);
        if (of_interest(p, n))
            rc = read_line(s->arena, &l, p, p + n)
                     ? take(s, &l, e)
                     : err_set(e, -EINVAL, "broken metric: %.*s", (int)MIN_OF(n, (size_t)100), p);
        p += n + 1;
    }
    if (rc) {
        usage_sample_free(s);
        return rc;
    }
    put_together(s);
    *out = s;
    return 0;
}

void usage_sample_free(struct usage_sample *s) {
    if (!s) return;
    arena_free(s->arena);
    free(s);
}

/* ---- looking ---- */

/* The first point that is not before the name. */
static size_t lower_bound(const struct usage_sample *s, const char *ns, const char *pod, const char *container) {
    size_t lo = 0, hi = s->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (compare(ns, pod, container, &s->points[mid]) > 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct usage_point *usage_find(const struct usage_sample *s, const char *ns, const char *pod,
                                     const char *container) {
    size_t i = s ? lower_bound(s, ns, pod, container) : 0;
    return s && i < s->n && compare(ns, pod, container, &s->points[i]) == 0 ? &s->points[i] : NULL;
}

const struct usage_point *usage_pod(const struct usage_sample *s, const char *ns, const char *pod, size_t *n) {
    *n = 0;
    if (!s) return NULL;
    size_t i = lower_bound(s, ns, pod, "");
    while (i + *n < s->n && str_eq(s->points[i + *n].ns, ns) && str_eq(s->points[i + *n].pod, pod)) (*n)++;
    return *n ? &s->points[i] : NULL;
}
