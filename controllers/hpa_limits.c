/* Stabilisation, rates and bounds (upstream: the normalisation in horizontal.go). Without a behavior in the spec: on
 * the way down the highest wish of the last five minutes counts, on the way up at most twice what is there (or four).
 * With one, each direction has a window, and policies that say how much may change in how many seconds. */
#include <math.h>

#include "hpa.h"

enum { BUILT_IN_FACTOR = 2, BUILT_IN_MINIMUM = 4 };

typedef const struct autoscaling_v2_hpa_scaling_rules rules_t;

void hpa_history_done(struct hpa_history *h) {
    free(h->wanted.items);
    free(h->ups.items);
    free(h->downs.items);
    *h = (struct hpa_history){0};
}

/* Adds a mark, and drops those that are older than `keep_ns`. */
static void mark(struct hpa_marks *m, int64_t now, int64_t keep_ns, int32_t n) {
    size_t old = 0;
    while (old < m->n && (now - m->items[old].at_ns > keep_ns || m->n - old >= HPA_MARKS_MAX)) old++;
    if (old) memmove(m->items, m->items + old, (m->n - old) * sizeof(*m->items));
    m->n -= old;
    VEC_GROW(m->items, m->n, m->cap);
    m->items[m->n++] = (struct hpa_mark){now, n};
}

void hpa_history_start(struct hpa_history *h, int32_t current, int64_t now_ns) {
    if (!h->wanted.n) mark(&h->wanted, now_ns, 0, current);
}

/* ---- policies ---- */

static int32_t changed_in(const struct hpa_marks *m, int64_t now, int64_t period_ns) {
    int32_t sum = 0;
    for (size_t i = 0; i < m->n; i++)
        if (now - m->items[i].at_ns < period_ns) sum += m->items[i].n;
    return sum;
}

static int32_t clamp32(double x) { return x >= INT32_MAX ? INT32_MAX : x <= INT32_MIN ? INT32_MIN : (int32_t)x; }

/* How far the policies let the number go now: up when `up`, else down. */
static int32_t rate_limit(const struct hpa_history *h, rules_t *r, bool up, int32_t current, int64_t now) {
    if (str_eq(r->select_policy, "Disabled")) return current;
    bool least = str_eq(r->select_policy, "Min"); /* the smallest change counts, not the largest */
    bool lowest = up == least;                    /* of the numbers proposed */
    int32_t result = lowest ? INT32_MAX : INT32_MIN;
    for (size_t i = 0; i < r->policies.n; i++) {
        const struct autoscaling_v2_hpa_scaling_policy *p = &r->policies.items[i];
        int64_t period = p->period_seconds * NS_PER_SEC;
        double start = (double)current - changed_in(&h->ups, now, period) + changed_in(&h->downs, now, period);
        double part = str_eq(p->type, "Percent") ? start * p->value / 100 : p->value;
        int32_t n = clamp32(up ? ceil(start + part) : start - part);
        result = lowest ? MIN_OF(result, n) : MAX_OF(result, n);
    }
    return result;
}

static int64_t longest_period(rules_t *r) {
    int64_t longest = 0;
    for (size_t i = 0; r && i < r->policies.n; i++)
        longest = MAX_OF(longest, r->policies.items[i].period_seconds * NS_PER_SEC);
    return longest;
}

void hpa_history_scaled(struct hpa_history *h, const struct hpa_limits *l, int32_t from, int32_t to, int64_t now_ns) {
    if (!l->behavior) return;
    if (to > from)
        mark(&h->ups, now_ns, longest_period(l->behavior->scale_up), to - from);
    else
        mark(&h->downs, now_ns, longest_period(l->behavior->scale_down), from - to);
}

/* ---- stabilisation ---- */

#define UP_STABILIZED "recent recommendations were lower than current one, applying the lowest recent recommendation"
#define DOWN_STABILIZED \
    "recent recommendations were higher than current one, applying the highest recent recommendation"

static int64_t window_of(rules_t *r, int64_t dflt) {
    return r && r->stabilization_window_seconds ? *r->stabilization_window_seconds * NS_PER_SEC : dflt;
}

static int32_t stabilize(struct hpa_history *h, const struct hpa_limits *l, int32_t current, int32_t wanted,
                         int64_t now) {
    int64_t up_ns = l->behavior ? window_of(l->behavior->scale_up, 0) : 0;
    int64_t down_ns = l->behavior ? window_of(l->behavior->scale_down, l->down_window_ns) : l->down_window_ns;
    int32_t low = wanted, high = wanted;
    for (size_t i = 0; i < h->wanted.n; i++) {
        const struct hpa_mark *m = &h->wanted.items[i];
        if (now - m->at_ns < up_ns) low = MIN_OF(low, m->n);
        if (now - m->at_ns < down_ns) high = MAX_OF(high, m->n);
    }
    mark(&h->wanted, now, MAX_OF(up_ns, down_ns), wanted);
    if (!l->behavior) return high;
    return MIN_OF(MAX_OF(current, low), high);
}

/* ---- bounds ---- */

struct bound {
    int32_t n;
    const char *reason, *message;
};
#define RATE_UP "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
#define RATE_DOWN "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
#define TOO_MANY "TooManyReplicas", "the desired replica count is more than the maximum replica count"
#define TOO_FEW "TooFewReplicas", "the desired replica count is less than the minimum replica count"

static void bounds(const struct hpa_history *h, const struct hpa_limits *l, int32_t current, int32_t wanted,
                   int64_t now, struct bound *least, struct bound *most) {
    *least = (struct bound){l->min, TOO_FEW};
    *most = (struct bound){l->max, TOO_MANY};
    if (!l->behavior) {
        int64_t rate = MAX_OF((int64_t)BUILT_IN_FACTOR * current, BUILT_IN_MINIMUM);
        if (l->max > rate) *most = (struct bound){(int32_t)rate, RATE_UP};
        return;
    }
    if (wanted > current) {
        int32_t rate =
            l->behavior->scale_up ? MAX_OF(rate_limit(h, l->behavior->scale_up, true, current, now), current) : l->max;
        if (l->max > rate) *most = (struct bound){rate, RATE_UP};
        least->n = INT32_MIN;
    } else {
        int32_t rate = l->behavior->scale_down
                           ? MIN_OF(rate_limit(h, l->behavior->scale_down, false, current, now), current)
                           : l->min;
        if (l->min < rate) *least = (struct bound){rate, RATE_DOWN};
        if (wanted == current) least->n = INT32_MIN;
        most->n = INT32_MAX;
    }
}

void hpa_limit(struct hpa_history *h, const struct hpa_limits *l, int32_t current, int32_t wanted, int64_t now_ns,
               struct hpa_verdict *out) {
    *out = (struct hpa_verdict){.able_reason = "ReadyForNewScale",
                                .able_message = "recommended size matches current size",
                                .limit_reason = "DesiredWithinRange",
                                .limit_message = "the desired count is within the acceptable range"};
    int32_t stable = stabilize(h, l, current, wanted, now_ns);
    if (stable != wanted) {
        bool up = l->behavior && wanted >= current;
        out->able_reason = up ? "ScaleUpStabilized" : "ScaleDownStabilized";
        out->able_message = up ? UP_STABILIZED : DOWN_STABILIZED;
    }
    struct bound least, most;
    bounds(h, l, current, stable, now_ns, &least, &most);
    const struct bound *hit = stable < least.n ? &least : stable > most.n ? &most : NULL;
    out->replicas = hit ? hit->n : stable;
    out->limited = hit != NULL;
    if (hit) {
        out->limit_reason = hit->reason;
        out->limit_message = hit->message;
    }
}
