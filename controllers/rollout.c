/* The arithmetic of Deployments (rules: upstream pkg/controller/deployment). */
#include "rollout.h"

#include <math.h>

int32_t int_or_percent(const struct int_or_string *v, int32_t total, bool round_up) {
    if (!v->set) return 0;
    if (!v->is_str) return v->i;
    char *end = NULL;
    long percent = strtol(str_or_empty(v->s), &end, 10);
    if (!end || strcmp(end, "%") != 0 || percent < 0) return 0;
    int64_t product = (int64_t)percent * total;
    return (int32_t)((product + (round_up ? 99 : 0)) / 100);
}

static int32_t replicas(const struct apps_deployment *d) { return d->spec.replicas ? *d->spec.replicas : 1; }

static bool rolling(const struct apps_deployment *d) { return !str_eq(d->spec.strategy.type, "Recreate"); }

/* Both at once, as zero surge and zero unavailable together would never move. */
static void fenceposts(const struct apps_deployment *d, int32_t *surge, int32_t *unavailable) {
    const struct apps_rolling_update_deployment *u = d->spec.strategy.rolling_update;
    *surge = u ? int_or_percent(&u->max_surge, replicas(d), true) : 0;
    *unavailable = u ? int_or_percent(&u->max_unavailable, replicas(d), false) : 0;
    if (*surge == 0 && *unavailable == 0) *unavailable = 1;
}

int32_t deployment_max_surge(const struct apps_deployment *d) {
    int32_t surge, unavailable;
    if (!rolling(d)) return 0;
    fenceposts(d, &surge, &unavailable);
    return surge;
}

int32_t deployment_max_unavailable(const struct apps_deployment *d) {
    int32_t surge, unavailable;
    if (!rolling(d) || replicas(d) == 0) return 0;
    fenceposts(d, &surge, &unavailable);
    return MIN_OF(unavailable, replicas(d));
}

int32_t rollout_new_size(const struct apps_deployment *d, int32_t new_size, int32_t all_sizes) {
    if (!rolling(d)) return replicas(d);
    int32_t room = replicas(d) + deployment_max_surge(d) - all_sizes;
    if (room <= 0) return new_size;
    return new_size + MIN_OF(room, replicas(d) - new_size);
}

bool rollout_shrink_old(const struct apps_deployment *d, struct rollout_set *old, size_t n,
                        const struct rollout_set *new_set) {
    int32_t sizes = new_set->size, available = new_set->available;
    for (size_t i = 0; i < n; i++) sizes += old[i].size;
    int32_t min_available = replicas(d) - deployment_max_unavailable(d);
    /* surge pods and what may be unavailable can go, less what the new set still owes */
    int32_t budget = sizes - min_available - (new_set->size - new_set->available);
    bool changed = false;
    for (size_t i = 0; i < n && budget > 0; i++) {
        int32_t sick = MIN_OF(old[i].size - old[i].available, budget);
        if (old[i].size == 0 || sick <= 0) continue;
        old[i].size -= sick;
        budget -= sick;
        changed = true;
    }
    if (sizes - min_available - (new_set->size - new_set->available) <= 0) return false;
    for (size_t i = 0; i < n; i++) available += old[i].available;
    int32_t spare = available - min_available;
    for (size_t i = 0; i < n && spare > 0; i++) {
        int32_t cut = MIN_OF(old[i].size, spare);
        if (cut <= 0) continue;
        old[i].size -= cut;
        spare -= cut;
        changed = true;
    }
    return changed;
}

/* How much of the change belongs to one set. */
static int32_t share(const struct apps_deployment *d, const struct rollout_set *s, int32_t to_add, int32_t added) {
    if (s->size == 0 || to_add == added) return 0;
    int32_t mine;
    if (replicas(d) == 0) {
        mine = -s->size;
    } else {
        int32_t before = s->max_replicas ? s->max_replicas : d->status.replicas;
        if (before == 0) return 0;
        double size = (double)s->size * (replicas(d) + deployment_max_surge(d)) / before;
        mine = (int32_t)lround(size) - s->size;
    }
    int32_t left = to_add - added;
    return to_add > 0 ? MIN_OF(mine, left) : MAX_OF(mine, left);
}

static int by_size_newer(const void *x, const void *y) {
    const struct rollout_set *a = *(struct rollout_set *const *)x, *b = *(struct rollout_set *const *)y;
    if (a->size != b->size) return a->size > b->size ? -1 : 1;
    return a->created > b->created ? -1 : a->created < b->created;
}

static int by_size_older(const void *x, const void *y) {
    const struct rollout_set *a = *(struct rollout_set *const *)x, *b = *(struct rollout_set *const *)y;
    if (a->size != b->size) return a->size > b->size ? -1 : 1;
    return a->created < b->created ? -1 : a->created > b->created;
}

void rollout_scale_proportionally(const struct apps_deployment *d, struct rollout_set **sets, size_t n) {
    int32_t sum = 0, added = 0;
    for (size_t i = 0; i < n; i++) sum += sets[i]->size;
    int32_t allowed = replicas(d) > 0 ? replicas(d) + deployment_max_surge(d) : 0, to_add = allowed - sum;
    qsort(sets, n, sizeof(*sets), to_add > 0 ? by_size_newer : by_size_older);
    for (size_t i = 0; i < n && to_add; i++) {
        int32_t mine = share(d, sets[i], to_add, added);
        sets[i]->size += mine;
        added += mine;
    }
    if (n && to_add) sets[0]->size = MAX_OF(sets[0]->size + to_add - added, 0); /* what rounding left over */
}
