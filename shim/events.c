#include <time.h>

#include "pkg/base/ktime.h"
#include "shim.h"

void event_emit(struct shim *s, int32_t type, const char *id, const char *sandbox) {
    pthread_mutex_lock(&s->lock);
    struct event *ev = &s->events[s->next_event % SHIM_EVENTS];
    ev->seq = s->next_event++;
    ev->type = type;
    ev->at_ns = ktime_unix_ns(ktime_now());
    snprintf(ev->id, sizeof(ev->id), "%s", id);
    snprintf(ev->sandbox, sizeof(ev->sandbox), "%s", sandbox);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

size_t event_wait(struct shim *s, uint64_t *seq, struct event *out, size_t max, int timeout_ms) {
    struct timespec end;
    size_t n = 0;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += timeout_ms % 1000 * NS_PER_MS;
    if (end.tv_nsec >= NS_PER_SEC) end.tv_sec++, end.tv_nsec -= NS_PER_SEC;
    pthread_mutex_lock(&s->lock);
    if (*seq == 0) *seq = s->next_event - 1; /* a new listener: from now on */
    while (*seq + 1 >= s->next_event && !s->stopping)
        if (pthread_cond_timedwait(&s->changed, &s->lock, &end) == ETIMEDOUT) break;
    if (s->next_event - *seq > SHIM_EVENTS) *seq = s->next_event - SHIM_EVENTS; /* too slow: the oldest are lost */
    while (n < max && *seq + 1 < s->next_event) out[n++] = s->events[++*seq % SHIM_EVENTS];
    pthread_mutex_unlock(&s->lock);
    return n;
}
