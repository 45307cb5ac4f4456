/* Exponential back-off of restarts and image pulls: 10 s doubling to 5 min, forgotten after twice the maximum
 * without use. The rule is upstream's flowcontrol.Backoff as kuberuntime uses it. Times are nanoseconds of
 * whatever clock the caller uses consistently; nothing here reads a clock. */
#pragma once

#include "pkg/base/ktime.h"

struct backoff {
    int64_t initial, max;
    int64_t delay; /* 0: nothing happened yet */
    int64_t last_update;
};

#define BACKOFF_INITIAL (10 * NS_PER_SEC)
#define BACKOFF_MAX (300 * NS_PER_SEC)

static inline void backoff_init(struct backoff *b, int64_t initial, int64_t max) {
    *b = (struct backoff){.initial = initial, .max = max};
}
/* One more failure at `now`: starts at the initial delay, doubles, or starts over when the last was long ago.
 */
void backoff_next(struct backoff *b, int64_t now);
/* Nanoseconds still to wait when the event that counts (an exit, a failed pull) was at `since`; 0 when none.
 */
int64_t backoff_remaining(const struct backoff *b, int64_t since, int64_t now);
void backoff_reset(struct backoff *b);
