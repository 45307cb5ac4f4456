/* A fixed pool of threads with a bounded queue, for handlers that block. */
#include <pthread.h>

#include "pkg/http/server.h"

struct task {
    void (*fn)(void *arg);
    void *arg;
};

struct http_workers {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct task *ring;
    size_t cap, head, n;
    bool stopping;
    unsigned n_threads;
    pthread_t threads[];
};

static void *worker(void *arg) {
    struct http_workers *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->n && !w->stopping) pthread_cond_wait(&w->work, &w->lock);
        if (!w->n) break;
        struct task t = w->ring[w->head];
        w->head = (w->head + 1) % w->cap;
        w->n--;
        pthread_mutex_unlock(&w->lock);
        t.fn(t.arg);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

struct http_workers *http_workers_new(unsigned threads, size_t queue) {
    if (!threads) threads = 1;
    if (!queue) queue = 1;
    struct http_workers *w = xcalloc(1, sizeof(*w) + threads * sizeof(pthread_t));
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    w->ring = xcalloc(queue, sizeof(*w->ring));
    w->cap = queue;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, HTTP_WORKER_STACK);
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&w->threads[i], &attr, worker, w) == 0) w->n_threads++;
        else break;
    pthread_attr_destroy(&attr);
    if (!w->n_threads) abort(); /* not one thread at start-up */
    return w;
}

int http_dispatch(struct http_workers *w, void (*fn)(void *arg), void *arg) {
    int rc = 0;
    pthread_mutex_lock(&w->lock);
    if (w->stopping) {
        rc = -ESHUTDOWN;
    } else if (w->n == w->cap) {
        rc = -EAGAIN;
    } else {
        w->ring[(w->head + w->n++) % w->cap] = (struct task){fn, arg};
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}

struct http_workers *http_workers_free(struct http_workers *w) {
    if (!w) return NULL;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->n_threads; i++) pthread_join(w->threads[i], NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->work);
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
