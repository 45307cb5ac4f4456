/* A pool of threads with a bounded queue, for handlers that block. Threads are made when there is work and none is
 * idle, up to the pool's size, and leave after WORKER_IDLE_S without any, so that an idle program holds no stacks. */
#include <pthread.h>
#include <time.h>

#include "pkg/http/server.h"

enum { WORKER_IDLE_S = 30 };

struct task {
    void (*fn)(void *arg);
    void *arg;
};

struct http_workers {
    pthread_mutex_t lock;
    pthread_cond_t work, gone;
    struct task *ring;
    size_t cap, head, n;
    bool stopping;
    unsigned max, n_threads, idle;
};

/* Waits for work; false when the thread is to leave. */
static bool wait_work(struct http_workers *w) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WORKER_IDLE_S;
    int rc = 0;
    w->idle++;
    while (!w->n && !w->stopping && rc != ETIMEDOUT) rc = pthread_cond_timedwait(&w->work, &w->lock, &until);
    w->idle--;
    return w->n > 0;
}

static void *worker(void *arg) {
    struct http_workers *w = arg;
    pthread_mutex_lock(&w->lock);
    while (wait_work(w)) {
        struct task t = w->ring[w->head];
        w->head = (w->head + 1) % w->cap;
        w->n--;
        pthread_mutex_unlock(&w->lock);
        t.fn(t.arg);
        pthread_mutex_lock(&w->lock);
    }
    if (--w->n_threads == 0) pthread_cond_signal(&w->gone);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void start_thread(struct http_workers *w) {
    pthread_t t;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, HTTP_WORKER_STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&t, &attr, worker, w) == 0) w->n_threads++;
    pthread_attr_destroy(&attr);
}

struct http_workers *http_workers_new(unsigned threads, size_t queue) {
    struct http_workers *w = xcalloc(1, sizeof(*w));
    w->max = threads ? threads : 1;
    w->cap = queue ? queue : 1;
    w->ring = xcalloc(w->cap, sizeof(*w->ring));
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->work, &attr);
    pthread_condattr_destroy(&attr);
    pthread_cond_init(&w->gone, NULL);
    pthread_mutex_init(&w->lock, NULL);
    return w;
}

int http_dispatch(struct http_workers *w, void (*fn)(void *arg), void *arg) {
    int rc = 0;
    bool wake = false;
    pthread_mutex_lock(&w->lock);
    if (w->n >= w->idle && w->n_threads < w->max && !w->stopping) start_thread(w);
    if (w->stopping) {
        rc = -ESHUTDOWN;
    } else if (w->n == w->cap || !w->n_threads) {
        rc = -EAGAIN;
    } else {
        w->ring[(w->head + w->n++) % w->cap] = (struct task){fn, arg};
        wake = w->idle > 0;
    }
    pthread_mutex_unlock(&w->lock);
    if (wake) pthread_cond_signal(&w->work); /* unlocked: whom it wakes would only wait for the lock */
    return rc;
}

struct http_workers *http_workers_free(struct http_workers *w) {
    if (!w) return NULL;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_broadcast(&w->work);
    while (w->n_threads) pthread_cond_wait(&w->gone, &w->lock);
    pthread_mutex_unlock(&w->lock);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->gone);
    free(w->ring);
    free(w);
    return NULL;
}

size_t http_workers_queued(struct http_workers *w) {
    pthread_mutex_lock(&w->lock);
    size_t n = w->n;
    pthread_mutex_unlock(&w->lock);
    return n;
}
