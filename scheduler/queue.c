/* Pods that await a node: an active heap by priority and age, a back-off heap by due time, and those that
 * wait for something to change.
 *
 * A pod whose cycle failed waits; an event that may help moves it to back-off, and from there, 1 s to 10 s
 * after its last attempt, it becomes active again. A pod that failed while such an event came in goes to
 * back-off at once. */
#include "scheduler.h"

#define BACKOFF_FIRST NS_PER_SEC
#define BACKOFF_MAX (10 * NS_PER_SEC)

static bool more_urgent(const struct sched_pod *a, const struct sched_pod *b) {
    if (a->priority != b->priority) return a->priority > b->priority;
    return a->seq < b->seq;
}

static bool due_before(const struct sched_pod *a, const struct sched_pod *b) { return a->due < b->due; }

static void heap_set(struct pod_heap *h, size_t at, struct sched_pod *sp) {
    h->items[at - 1] = sp;
    sp->heap_at = at;
}

static void heap_fix(struct pod_heap *h, size_t at) {
    struct sched_pod *sp = h->items[at - 1];
    for (; at > 1 && h->before(sp, h->items[at / 2 - 1]); at /= 2) heap_set(h, at, h->items[at / 2 - 1]);
    for (size_t child; (child = at * 2) <= h->n; at = child) {
        if (child < h->n && h->before(h->items[child], h->items[child - 1])) child++;
        if (!h->before(h->items[child - 1], sp)) break;
        heap_set(h, at, h->items[child - 1]);
    }
    heap_set(h, at, sp);
}

static void heap_add(struct pod_heap *h, struct sched_pod *sp) {
    VEC_GROW(h->items, h->n, h->cap);
    h->items[h->n++] = sp;
    sp->heap_at = h->n;
    heap_fix(h, h->n);
}

static void heap_remove(struct pod_heap *h, struct sched_pod *sp) {
    size_t at = sp->heap_at;
    if (!at) return;
    sp->heap_at = 0;
    struct sched_pod *last = h->items[--h->n];
    if (last == sp) return;
    heap_set(h, at, last);
    heap_fix(h, at);
}

void queue_init(struct sched *s) {
    s->active.before = more_urgent;
    s->backoff.before = due_before;
    s->waiting.before = due_before;
}

void queue_done(struct sched *s) {
    free(s->active.items);
    free(s->backoff.items);
    free(s->waiting.items);
}

void queue_remove(struct sched *s, struct sched_pod *sp) {
    if (sp->state == POD_ACTIVE) heap_remove(&s->active, sp);
    if (sp->state == POD_BACKOFF) heap_remove(&s->backoff, sp);
    if (sp->state == POD_WAITING) heap_remove(&s->waiting, sp);
}

void queue_push(struct sched *s, struct sched_pod *sp) {
    queue_remove(s, sp);
    sp->state = POD_ACTIVE;
    sp->seq = ++s->seq;
    heap_add(&s->active, sp);
    pthread_cond_signal(&s->work);
}

static void back_off(struct sched *s, struct sched_pod *sp) {
    if (sp->due <= mono_ns()) {
        queue_push(s, sp);
        return;
    }
    sp->state = POD_BACKOFF;
    heap_add(&s->backoff, sp);
    pthread_cond_signal(&s->work);
}

void queue_keep(struct sched *s, struct sched_pod *sp, enum pod_state was) {
    if (was == POD_ACTIVE) {
        queue_push(s, sp);
        return;
    }
    sp->state = was;
    if (was == POD_BACKOFF) heap_add(&s->backoff, sp);
    if (was == POD_WAITING) heap_add(&s->waiting, sp);
}

void queue_fail(struct sched *s, struct sched_pod *sp) {
    unsigned n = MIN_OF(sp->attempts, 10u);
    sp->attempts++;
    sp->due = mono_ns() + MIN_OF(BACKOFF_FIRST << n, BACKOFF_MAX);
    bool again = sp->moved_seen != s->moves;
    s->metrics.incoming[again ? IN_FAILED_BACKOFF : IN_FAILED_WAITING]++;
    if (again) {
        back_off(s, sp);
        return;
    }
    sp->state = POD_WAITING;
    heap_add(&s->waiting, sp);
}

void queue_move_all(struct sched *s) {
    s->moves++;
    while (s->waiting.n) {
        struct sched_pod *sp = s->waiting.items[s->waiting.n - 1];
        heap_remove(&s->waiting, sp);
        back_off(s, sp);
    }
}

void queue_move_if(struct sched *s, bool (*helps)(const struct sched_pod *sp, void *arg), void *arg) {
    s->moves++;
    if (!s->waiting.n) return;
    struct sched_pod **chosen = xmalloc(s->waiting.n * sizeof(*chosen)); /* the heap changes as they leave it */
    size_t n = 0;
    for (size_t i = 0; i < s->waiting.n; i++)
        if (helps(s->waiting.items[i], arg)) chosen[n++] = s->waiting.items[i];
    for (size_t i = 0; i < n; i++) {
        heap_remove(&s->waiting, chosen[i]);
        back_off(s, chosen[i]);
    }
    free(chosen);
}

struct sched_pod *queue_pop(struct sched *s, int64_t *wait_ns) {
    int64_t now = mono_ns();
    while (s->backoff.n && s->backoff.items[0]->due <= now) {
        struct sched_pod *sp = s->backoff.items[0];
        queue_push(s, sp);
        s->metrics.incoming[IN_BACKOFF_OVER]++;
    }
    *wait_ns = s->backoff.n ? s->backoff.items[0]->due - now : -1;
    if (!s->active.n) return NULL;
    struct sched_pod *sp = s->active.items[0];
    heap_remove(&s->active, sp);
    sp->state = POD_CYCLE;
    sp->moved_seen = s->moves;
    return sp;
}
