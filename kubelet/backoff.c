/* See backoff.h. */
#include "kubelet/backoff.h"

static bool expired(const struct backoff *b, int64_t now) { return now - b->last_update > 2 * b->max; }

void backoff_next(struct backoff *b, int64_t now) {
    if (!b->delay || expired(b, now))
        b->delay = b->initial;
    else
        b->delay = MIN_OF(b->delay * 2, b->max);
    b->last_update = now;
}

int64_t backoff_remaining(const struct backoff *b, int64_t since, int64_t now) {
    if (!b->delay || expired(b, since)) return 0;
    int64_t left = since + b->delay - now;
    return left > 0 ? left : 0;
}

void backoff_reset(struct backoff *b) { b->delay = 0; }
