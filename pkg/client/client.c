/* The client's thread: one curl multi handle, and every request and watch of the program on it.
 *
 * Other threads only append to the inbox (transfers to start, streams to end) and wake the thread; everything
 * else is touched by the thread alone, so callbacks need no locks. A transfer is a request and its curl
 * handle; it waits in the backlog while max_in_flight others run (streams do not count: a program has few,
 * and they must not starve).
 *
 * The thread sleeps in curl_multi_poll until a socket, the inbox or a timer wants it: an idle client costs
 * nothing. */
#include "client.h"

#include <assert.h>

#include "transfer.h"

enum { THREAD_STACK = 512 * 1024 };

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static void curl_start(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

const char *client_user_agent(const struct client *c) { return c->cfg.user_agent; }
const char *client_server(const struct client *c) { return c->cfg.server; }
bool client_on_thread(const struct client *c) { return pthread_equal(pthread_self(), c->thread); }

static void wake(struct client *c) { curl_multi_wakeup(c->multi); }

static void submit(struct client *c, struct transfer *t) {
    pthread_mutex_lock(&c->lock);
    *c->inbox_tail = t;
    c->inbox_tail = &t->next;
    pthread_mutex_unlock(&c->lock);
    wake(c);
}

/* ---- the thread ---- */

static void timer_insert(struct client *c, struct timer *t) {
    struct timer **p = &c->timers;
    while (*p && (*p)->due <= t->due) p = &(*p)->next;
    t->next = *p;
    *p = t;
}

/* Ends a stream on the thread: takes its transfer out wherever it is. */
static void stream_stop(struct client *c, struct client_stream *s) {
    struct transfer *t = s->t;
    if (!t) return;
    if (s->started) {
        transfer_unlink(c, t);
        curl_multi_remove_handle(c->multi, t->easy);
    } else {
        for (struct transfer **p = &c->backlog; *p; p = &(*p)->next)
            if (*p == t) {
                if (c->backlog_tail == &t->next) c->backlog_tail = p;
                *p = t->next;
                break;
            }
    }
    s->t = NULL;
    transfer_free(t);
}

static void take_inbox(struct client *c) {
    pthread_mutex_lock(&c->lock);
    struct transfer *in = c->inbox;
    struct timer *timers = c->timer_inbox;
    struct client_stream *closing = c->close_inbox;
    c->inbox = NULL;
    c->inbox_tail = &c->inbox;
    c->timer_inbox = NULL;
    c->timer_inbox_tail = &c->timer_inbox;
    c->close_inbox = NULL;
    if (c->reset) c->files.looked_at = 0;
    c->reset = false;
    pthread_mutex_unlock(&c->lock);
    while (in) {
        struct transfer *t = in;
        in = t->next;
        t->next = NULL;
        *c->backlog_tail = t;
        c->backlog_tail = &t->next;
    }
    while (timers) {
        struct timer *t = timers;
        timers = t->next;
        timer_insert(c, t);
    }
    while (closing) {
        struct client_stream *s = closing;
        closing = s->next_close;
        stream_stop(c, s);
        pthread_mutex_lock(&c->lock);
        s->next_close = s; /* tells the waiter that it is done */
        pthread_cond_broadcast(&c->closed);
        pthread_mutex_unlock(&c->lock);
    }
}

static void bury_zombies(struct client *c) {
    if (c->zombies) take_inbox(c); /* one may not even have been taken up */
    while (c->zombies) {
        struct client_stream *s = c->zombies;
        c->zombies = s->next_close;
        stream_stop(c, s);
        free(s);
    }
}

static void start_backlog(struct client *c) {
    struct transfer **p = &c->backlog;
    while (*p) {
        struct transfer *t = *p;
        if (!t->stream && c->in_flight >= c->cfg.max_in_flight) {
            p = &t->next;
            continue;
        }
        if (c->backlog_tail == &t->next) c->backlog_tail = p;
        *p = t->next;
        transfer_start(c, t);
    }
}

/* Runs what is due; milliseconds until the next timer, at most an hour. */
static int run_timers(struct client *c) {
    for (;;) {
        struct timer *t = c->timers;
        if (!t) return 3600 * 1000;
        int64_t left = t->due - mono_ns();
        if (left > 0) return (int)MIN_OF(left / NS_PER_MS + 1, (int64_t)3600 * 1000);
        c->timers = t->next;
        t->fn(t->arg);
        free(t);
    }
}

static void *client_thread(void *arg) {
    struct client *c = arg;
    for (;;) {
        take_inbox(c);
        pthread_mutex_lock(&c->lock);
        bool stop = c->stop;
        pthread_mutex_unlock(&c->lock);
        if (stop) break;
        start_backlog(c);
        int n = 0, left;
        curl_multi_perform(c->multi, &n);
        CURLMsg *m;
        while ((m = curl_multi_info_read(c->multi, &left))) {
            if (m->msg != CURLMSG_DONE) continue;
            struct transfer *t = NULL;
            CURLcode rc = m->data.result;
            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&t);
            transfer_finish(c, t, rc);
        }
        int timeout = run_timers(c);
        bury_zombies(c);
        pthread_mutex_lock(&c->lock);
        bool more = c->inbox || c->timer_inbox || c->close_inbox || c->stop;
        pthread_mutex_unlock(&c->lock);
        if (c->backlog && c->in_flight < c->cfg.max_in_flight) more = true;
        if (!more) curl_multi_poll(c->multi, NULL, 0, timeout, NULL);
    }
    return NULL;
}

static int thread_start(struct client *c, struct err *e) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    int r = pthread_create(&c->thread, &attr, client_thread, c);
    pthread_attr_destroy(&attr);
    if (r) return err_errno(e, r, "client thread");
    pthread_setname_np(c->thread, "client");
    return 0;
}

int client_new(const struct client_config *cfg, struct client **out, struct err *e) {
    if (str_empty(cfg->server)) return err_set(e, -EINVAL, "client: no server given");
    pthread_once(&curl_once, curl_start);
    struct client *c = xcalloc(1, sizeof(*c));
    c->arena = arena_new();
    c->cfg = *cfg;
    const char **strings[] = {&c->cfg.server,     &c->cfg.ca_file,    &c->cfg.ca_data,        &c->cfg.cert_file,
                              &c->cfg.cert_data,  &c->cfg.key_file,   &c->cfg.key_data,       &c->cfg.token,
                              &c->cfg.token_file, &c->cfg.user_agent, &c->cfg.tls_server_name};
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) *strings[i] = arena_strdup(c->arena, *strings[i]);
    char *server = (char *)c->cfg.server;
    for (size_t n = strlen(server); n && server[n - 1] == '/';) server[--n] = 0;
    if (!str_empty(c->cfg.tls_server_name)) {
        arena_free(c->arena);
        free(c);
        return err_set(e, -ENOTSUP, "client: tls-server-name is not supported");
    }
    if (!c->cfg.user_agent) c->cfg.user_agent = "coracle";
    if (!c->cfg.timeout_ms) c->cfg.timeout_ms = CLIENT_TIMEOUT_MS;
    if (!c->cfg.max_in_flight) c->cfg.max_in_flight = CLIENT_IN_FLIGHT;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->closed, NULL);
    c->inbox_tail = &c->inbox;
    c->timer_inbox_tail = &c->timer_inbox;
    c->backlog_tail = &c->backlog;
    c->multi = curl_multi_init();
    curl_multi_setopt(c->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    curl_multi_setopt(c->multi, CURLMOPT_MAX_CONCURRENT_STREAMS, 1000L);
    int r = thread_start(c, e);
    if (r < 0) {
        curl_multi_cleanup(c->multi);
        arena_free(c->arena);
        free(c);
        return r;
    }
    *out = c;
    return 0;
}

static void abandon(struct transfer *t) {
    _cleanup_err_ struct err e = {0};
    err_set(&e, -ECANCELED, "the client is closing");
    struct client_response r = {0};
    if (t->done) t->done(t->arg, -ECANCELED, &r, &e);
    transfer_free(t);
}

void client_free(struct client *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    wake(c);
    pthread_join(c->thread, NULL);
    c->thread = pthread_self(); /* what is left runs here */
    for (take_inbox(c); c->timers; take_inbox(c)) {
        struct timer *t = c->timers;
        c->timers = t->next;
        t->fn(t->arg);
        free(t);
    }
    bury_zombies(c);
    for (struct transfer *t = c->running, *next; t; t = next) {
        next = t->next;
        curl_multi_remove_handle(c->multi, t->easy);
        abandon(t);
    }
    struct transfer *waiting = take_ptr(c->backlog);
    c->backlog_tail = &c->backlog;
    for (struct transfer *t = waiting, *next; t; t = next) {
        next = t->next;
        abandon(t);
    }
    take_inbox(c); /* what those callbacks asked for */
    for (struct transfer *t = c->backlog, *next; t; t = next) {
        next = t->next;
        abandon(t);
    }
    for (struct timer *t = c->timers, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    for (unsigned i = 0; i < c->n_spare; i++) curl_easy_cleanup(c->spare[i]);
    curl_multi_cleanup(c->multi);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->closed);
    free(c->token);
    arena_free(c->arena);
    free(c);
}

void client_reset_connections(struct client *c) {
    pthread_mutex_lock(&c->lock);
    c->reset = true;
    pthread_mutex_unlock(&c->lock);
    wake(c);
}

/* ---- requests ---- */

void client_do_async(struct client *c, const struct client_request *rq, client_done_fn *fn, void *arg) {
    struct transfer *t = transfer_new(c, rq);
    if (!t->timeout_ms) t->timeout_ms = c->cfg.timeout_ms;
    t->done = fn;
    t->arg = arg;
    submit(c, t);
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    int result;
    struct client_response r;
    struct err e;
};

static void wait_done(void *arg, int result, const struct client_response *r, struct err *e) {
    struct waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->result = result;
    w->r = *r;
    if (r->body) { /* the caller of the callback frees its own */
        w->r.body = r->body;
        ((struct client_response *)r)->body = NULL;
    }
    err_move(&w->e, e);
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

void client_response_done(struct client_response *r) {
    free(r->body);
    *r = (struct client_response){0};
}

static int do_once(struct client *c, const struct client_request *rq, struct client_response *out, struct err *e) {
    struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    client_do_async(c, rq, wait_done, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.done) pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
    if (w.result < 0) err_move(e, &w.e);
    *out = w.r;
    return w.result;
}

int client_do(struct client *c, const struct client_request *rq, struct client_response *out, struct err *e) {
    assert(!client_on_thread(c));
    _cleanup_err_ struct err local = {0};
    bool eviction = str_has_suffix(rq->path, "/eviction");
    for (int tries = 0;; tries++) {
        int r = do_once(c, rq, out, &local);
        bool again = r < 0 && (local.status == 429 || local.status == 503) && local.retry_after_seconds > 0;
        if (!again || eviction || tries >= CLIENT_RETRIES) {
            if (r < 0) err_move(e, &local);
            return r;
        }
        usleep((useconds_t)MIN_OF(local.retry_after_seconds, 10) * 1000000u);
        err_done(&local);
    }
}

/* ---- streams ---- */

struct client_stream *client_stream_open(struct client *c, const struct client_request *rq,
                                         const struct client_stream_ops *ops, void *arg) {
    struct client_stream *s = xcalloc(1, sizeof(*s));
    s->c = c;
    s->ops = ops;
    s->arg = arg;
    struct transfer *t = transfer_new(c, rq);
    t->stream = s;
    s->t = t;
    submit(c, t);
    return s;
}

void client_stream_close(struct client_stream *s) {
    if (!s) return;
    struct client *c = s->c;
    if (client_on_thread(c)) { /* perhaps inside a callback of curl's, where no handle may be removed */
        s->closed = true;
        s->next_close = c->zombies;
        c->zombies = s;
        return;
    }
    pthread_mutex_lock(&c->lock);
    s->next_close = c->close_inbox;
    c->close_inbox = s;
    pthread_mutex_unlock(&c->lock);
    wake(c);
    pthread_mutex_lock(&c->lock);
    while (s->next_close != s) pthread_cond_wait(&c->closed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    free(s);
}

void client_call_later(struct client *c, int64_t delay_ns, void (*fn)(void *arg), void *arg) {
    struct timer *t = xcalloc(1, sizeof(*t));
    t->due = mono_ns() + delay_ns;
    t->fn = fn;
    t->arg = arg;
    pthread_mutex_lock(&c->lock);
    *c->timer_inbox_tail = t;
    c->timer_inbox_tail = &t->next;
    pthread_mutex_unlock(&c->lock);
    wake(c);
}
