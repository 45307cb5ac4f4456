/* The part of eviction.h that touches nothing: thresholds as text, and the order of candidates. */
#include "kubelet/eviction.h"
#include "kubelet/pods.h"

static const char *const signal_names[EVICTION_SIGNALS] = {
    [SIGNAL_MEMORY] = "memory.available",           [SIGNAL_NODEFS] = "nodefs.available",
    [SIGNAL_NODEFS_INODES] = "nodefs.inodesFree",   [SIGNAL_IMAGEFS] = "imagefs.available",
    [SIGNAL_IMAGEFS_INODES] = "imagefs.inodesFree", [SIGNAL_PID] = "pid.available",
};

int64_t eviction_amount_of(struct eviction_amount q, int64_t capacity) {
    return q.is_share ? (int64_t)((double)capacity * q.share) : q.absolute;
}

static int parse_amount(const char *text, struct eviction_amount *out) {
    size_t n = strlen(text);
    struct quantity q;
    char *end;
    if (n && text[n - 1] == '%') {
        double percent = strtod(text, &end);
        if (end != text + n - 1 || !(percent >= 0 && percent <= 100)) return -EINVAL;
        *out = (struct eviction_amount){.share = percent / 100, .is_share = true};
        return 0;
    }
    if (quantity_parse(text, &q) < 0 || q.nano < 0) return -EINVAL;
    *out = (struct eviction_amount){.absolute = quantity_value(q)};
    return 0;
}

/* One "signal<value" of a list: the rest in *list, the signal (-EINVAL: none of ours), the value in `a`. 0 at the end. */
static int next_item(struct arena *a, const char **list, char sep, int *signal, const char **value, struct err *e) {
    while (**list == ',' || **list == ' ') (*list)++;
    if (!**list) return 0;
    size_t n = strcspn(*list, ",");
    const char *item = arena_strndup(a, *list, n), *at = strchr(item, sep);
    *list += n;
    if (!at) return err_set(e, -EINVAL, "eviction: \"%s\" should be SIGNAL%cVALUE", item, sep);
    *value = at + 1;
    /* the file system of containers is the one of images here */
    const char *name = arena_strndup(a, item, (size_t)(at - item));
    if (str_has_prefix(name, "containerfs.")) name = arena_printf(a, "imagefs.%s", name + strlen("containerfs."));
    for (*signal = 0; *signal < EVICTION_SIGNALS; (*signal)++)
        if (str_eq(name, signal_names[*signal])) return 1;
    return err_set(e, -EINVAL, "eviction: unknown signal \"%s\"", name);
}

static int parse_list(struct arena *a, const char *list, bool soft, struct eviction_thresholds *out, struct err *e) {
    int signal, r;
    const char *value;
    while ((r = next_item(a, &list, '<', &signal, &value, e)) > 0) {
        struct eviction_threshold t = {.signal = (enum eviction_signal)signal, .soft = soft, .grace_ns = soft ? -1 : 0};
        if (parse_amount(value, &t.amount) < 0)
            return err_set(e, -EINVAL, "eviction: \"%s\" is no amount for %s", value, signal_names[signal]);
        for (size_t i = 0; i < out->n; i++)
            if (out->items[i].signal == t.signal && out->items[i].soft == soft)
                return err_set(e, -EINVAL, "eviction: %s has two thresholds", signal_names[signal]);
        if (t.amount.is_share ? t.amount.share > 0 : t.amount.absolute > 0)
            out->items[out->n++] = t; /* 0 turns it off */
    }
    return r;
}

static int apply_grace(struct arena *a, const char *list, struct eviction_thresholds *out, struct err *e) {
    int signal, r;
    const char *value;
    while ((r = next_item(a, &list, '=', &signal, &value, e)) > 0) {
        int64_t ns;
        if (duration_parse(value, &ns) < 0 || ns < 0)
            return err_set(e, -EINVAL, "eviction: \"%s\" is no grace period for %s", value, signal_names[signal]);
        for (size_t i = 0; i < out->n; i++)
            if (out->items[i].soft && out->items[i].signal == (enum eviction_signal)signal) out->items[i].grace_ns = ns;
    }
    for (size_t i = 0; r == 0 && i < out->n; i++)
        if (out->items[i].grace_ns < 0)
            return err_set(e, -EINVAL, "eviction: the soft threshold of %s needs a grace period",
                           signal_names[out->items[i].signal]);
    return r;
}

static int apply_reclaim(struct arena *a, const char *list, struct eviction_thresholds *out, struct err *e) {
    int signal, r;
    const char *value;
    while ((r = next_item(a, &list, '=', &signal, &value, e)) > 0) {
        struct eviction_amount q;
        if (parse_amount(value, &q) < 0)
            return err_set(e, -EINVAL, "eviction: \"%s\" is no amount for %s", value, signal_names[signal]);
        for (size_t i = 0; i < out->n; i++)
            if (out->items[i].signal == (enum eviction_signal)signal) out->items[i].min_reclaim = q;
    }
    return r;
}

int eviction_parse(const char *hard, const char *soft, const char *soft_grace, const char *min_reclaim,
                   struct eviction_thresholds *out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    *out = (struct eviction_thresholds){0};
    int r = parse_list(a, str_or_empty(hard), false, out, e);
    if (r == 0) r = parse_list(a, str_or_empty(soft), true, out, e);
    if (r == 0) r = apply_grace(a, str_or_empty(soft_grace), out, e);
    if (r == 0) r = apply_reclaim(a, str_or_empty(min_reclaim), out, e);
    return r;
}

static int by_usage(const void *x, const void *y) {
    const struct eviction_candidate *a = x, *b = y;
    int64_t over_a = a->usage - a->request, over_b = b->usage - b->request;
    if ((over_a > 0) != (over_b > 0)) return over_a > 0 ? -1 : 1;
    if (a->priority != b->priority) return a->priority < b->priority ? -1 : 1;
    return over_a > over_b ? -1 : over_a < over_b;
}

static int by_count(const void *x, const void *y) {
    const struct eviction_candidate *a = x, *b = y;
    if (a->priority != b->priority) return a->priority < b->priority ? -1 : 1;
    return a->usage > b->usage ? -1 : a->usage < b->usage;
}

void eviction_rank(struct eviction_candidate *c, size_t n, enum eviction_signal signal) {
    if (n) qsort(c, n, sizeof(*c), signal == SIGNAL_PID ? by_count : by_usage);
}
