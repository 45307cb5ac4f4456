/* The audit webhook: events wait in a bounded queue, a thread sends them as EventLists: as many as fit into one list, or what
 * there is after a while. A list that cannot be sent is tried again with growing pauses, while the queue fills; after five
 * attempts its events are lost and counted. Upstream: plugin/pkg/audit/{buffered,webhook}; there lists are sent side by
 * side, and there is a mode in which requests wait for it, which would hold up the loop thread here. */
#include <pthread.h>
#include <stdatomic.h>

#include "apiserver/audit/audit.h"
#include "apiserver/auth/remote.h"
#include "pkg/base/log.h"

enum { ATTEMPTS = 5 };

struct audit_hook {
    struct audit_hook_options o;
    struct remote *remote;
    pthread_mutex_t lock; /* of the queue */
    pthread_cond_t cond;
    char **events; /* a ring of o.queue lines, without their newline */
    size_t first, n;
    int64_t first_ns;  /* mono: when the first of those came */
    int64_t tokens_ns; /* mono: up to then lists are spent */
    _Atomic bool stop;
    bool started;
    pthread_t thread;
    _Atomic uint64_t lost;
};

/* An item of a list has no kind of its own. */
static void add_item(struct buf *b, const char *line, size_t len) {
    static const char head[] = AUDIT_EVENT_HEAD;
    size_t n = sizeof(head) - 1;
    if (len && line[len - 1] == '\n') len--;
    if (len > n && memcmp(line, head, n) == 0) {
        buf_addc(b, '{');
        line += n;
        len -= n;
    }
    buf_add(b, line, len);
}

static bool send(struct audit_hook *h, const struct buf *items, size_t n, int attempts) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    _cleanup_err_ struct err e = {0};
    buf_adds(&b, "{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[");
    buf_add(&b, items->data, items->len);
    buf_adds(&b, "]}");
    int rc = b.failed ? -ENOMEM : remote_post(h->remote, b.data, b.len, attempts, h->o.backoff_ns, &h->stop, &e);
    if (rc == 0) return true;
    atomic_fetch_add(&h->lost, n);
    log_warn("audit events are lost", "error", e.msg, NULL);
    return false;
}

/* ---- batches ---- */

/* Under the lock: up to one list out of the queue. */
static size_t take(struct audit_hook *h, struct buf *items) {
    size_t n = 0;
    for (; h->n && n < (size_t)h->o.batch_size; n++) {
        char *line = h->events[h->first];
        if (n) buf_addc(items, ',');
        add_item(items, line, strlen(line));
        free(line);
        h->first = (h->first + 1) % (size_t)h->o.queue;
        h->n--;
    }
    h->first_ns = mono_ns();
    return n;
}

/* How long until the next list may go: 0 now, -1 when there is nothing to send. */
static int64_t wait_for(struct audit_hook *h, int64_t now) {
    if (!h->n) return -1;
    if (atomic_load(&h->stop)) return 0;
    int64_t wait = (int64_t)h->n >= h->o.batch_size ? 0 : MAX_OF(h->first_ns + h->o.batch_wait_ns - now, INT64_C(0));
    return h->o.qps ? MAX_OF(wait, h->tokens_ns - now) : wait;
}

static void spend(struct audit_hook *h, int64_t now) {
    if (!h->o.qps) return;
    int64_t each = NS_PER_SEC / h->o.qps, floor = now - MAX_OF(h->o.burst - 1, INT64_C(0)) * each;
    h->tokens_ns = MAX_OF(h->tokens_ns, floor) + each;
}

static void *run(void *arg) {
    struct audit_hook *h = arg;
    pthread_mutex_lock(&h->lock);
    while (!atomic_load(&h->stop) || h->n) {
        int64_t now = mono_ns(), wait = wait_for(h, now);
        if (wait < 0) {
            pthread_cond_wait(&h->cond, &h->lock);
        } else if (wait > 0) {
            struct timespec ts = {.tv_sec = (now + wait) / NS_PER_SEC, .tv_nsec = (now + wait) % NS_PER_SEC};
            pthread_cond_timedwait(&h->cond, &h->lock, &ts);
        } else {
            _cleanup_buf_ struct buf items = BUF_INIT;
            size_t n = take(h, &items);
            spend(h, now);
            pthread_mutex_unlock(&h->lock);
            send(h, &items, n, atomic_load(&h->stop) ? 1 : ATTEMPTS);
            pthread_mutex_lock(&h->lock);
        }
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

bool audit_hook_write(struct audit_hook *h, const char *line, size_t len) {
    if (len && line[len - 1] == '\n') len--;
    pthread_mutex_lock(&h->lock);
    bool room = h->n < (size_t)h->o.queue && !atomic_load(&h->stop);
    if (room) {
        if (!h->n) h->first_ns = mono_ns();
        h->events[(h->first + h->n++) % (size_t)h->o.queue] = xstrndup(line, len);
        if (h->n == 1 || (int64_t)h->n == h->o.batch_size) pthread_cond_signal(&h->cond);
    }
    pthread_mutex_unlock(&h->lock);
    if (!room) atomic_fetch_add(&h->lost, 1);
    return room;
}

uint64_t audit_hook_lost(const struct audit_hook *h) { return atomic_load(&((struct audit_hook *)h)->lost); }

/* ---- opening ---- */

int audit_hook_open(const struct audit_hook_options *o, struct audit_hook **out, struct err *e) {
    struct audit_hook *h = xcalloc(1, sizeof(*h));
    pthread_condattr_t ca;
    h->o = *o;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->cond, &ca);
    pthread_condattr_destroy(&ca);
    int rc = remote_new(o->file, 0, &h->remote, e);
    if (!rc) {
        h->events = xcalloc((size_t)o->queue, sizeof(*h->events));
        rc = pthread_create(&h->thread, NULL, run, h);
        if (rc) rc = err_errno(e, rc, "a thread for the audit webhook");
        h->started = !rc;
    }
    if (rc)
        audit_hook_close(h);
    else
        *out = h;
    return rc;
}

void audit_hook_close(struct audit_hook *h) {
    if (!h) return;
    atomic_store(&h->stop, true);
    pthread_mutex_lock(&h->lock);
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
    if (h->started) pthread_join(h->thread, NULL);
    remote_free(h->remote);
    free(h->events);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->cond);
    free(h);
}
