/* The etcd back end's inner interface; the essay is in etcd.c. */
#pragma once

#include <curl/curl.h>
#include <pthread.h>
#include <semaphore.h>

#include "pkg/api/etcd.h"
#include "pkg/base/buf.h"
#include "pkg/store/internal.h"

enum {
    ETCD_RESPONSE_MAX = 64 << 20, /* bytes of one answer, or of one message of a watch */
    ETCD_IN_FLIGHT = 128,         /* exchanges at a time; others wait */
    ETCD_ENDPOINTS_MAX = 16,
    ETCD_PAGE = 1000, /* keys asked for at once */
    ETCD_CONNECT_MS = 2000,
    ETCD_ATTEMPT_MS = 7000,  /* one try of a call */
    ETCD_GIVE_UP_MS = 15000, /* all tries of a call */
    ETCD_BACKOFF_MS = 50,    /* first pause between tries, doubled up to ETCD_BACKOFF_MAX_MS */
    ETCD_BACKOFF_MAX_MS = 1000,
    ETCD_REPLAY_MS = 10000, /* reading history for a watch that begins in the past */
};

enum etcd_rpc { ETCD_RANGE, ETCD_TXN, ETCD_COMPACT, ETCD_WATCH, ETCD_GRANT };

struct etcd;

/* One HTTP exchange, on the stack of its caller or (the store's watch) in struct etcd. */
struct etcd_call {
    struct etcd *s;
    enum etcd_rpc rpc;
    struct buf out, in;
    size_t sent;     /* of `out` */
    long timeout_ms; /* 0: none */
    /* A stream's messages, on the I/O thread; false ends the exchange. NULL: the answer is one message, left in `in`. */
    bool (*on_message)(struct etcd_call *c, const struct etcd_watch_response *m);
    void (*on_end)(struct etcd_call *c); /* on the I/O thread; NULL: `done` is posted */
    void *arg;
    sem_t done;
    /* outcome */
    CURLcode rc;
    long http;
    int grpc_status; /* -1: none came */
    char message[256];
    bool bad; /* a message that cannot be read */
    /* private */
    CURL *easy;
    unsigned endpoint;
    struct etcd_call *next;
};

struct etcd {
    struct store base;
    bool grpc;
    char *endpoints[ETCD_ENDPOINTS_MAX];
    unsigned n_endpoints;
    _Atomic unsigned endpoint; /* in use; the next one after a failure */
    char *ca, *cert, *key;
    struct curl_slist *headers;
    CURLM *multi;
    pthread_t io;
    pthread_mutex_t lock;
    _Atomic bool stopping;
    struct etcd_call *head, **tail; /* waiting for the I/O thread */
    struct etcd_call *running;      /* the I/O thread's own */
    unsigned n_running;
    /* reads of the current revision: numbered, one at a time */
    pthread_mutex_t rev_lock;
    pthread_cond_t rev_read;
    uint64_t rev_started, rev_done;
    bool rev_reading;
    int64_t rev; /* the last one's outcome */
    struct err rev_err;
    /* the watch that feeds the hub */
    struct hub *hub; /* made by the first watch; guarded by lock */
    struct etcd_call watch;
    bool watch_running;
    int64_t watch_at; /* mono_ns of the next try, 0: none due; the I/O thread's own */
    int64_t watch_backoff_ms;
};

/* etcd_rpc.c: the transport */
int etcd_io_start(struct etcd *s, const struct store_options *o, struct err *e);
void etcd_io_stop(struct etcd *s);
void etcd_io_free(struct etcd *s);
/* Hands the exchange to the I/O thread. The body is the encoded request. */
void etcd_submit(struct etcd_call *c);
void etcd_body(struct etcd_call *c, const struct api_type *type, const void *request);
void etcd_call_done(struct etcd_call *c);
/* 0 when the answer came; else the error: -EAGAIN (etcd has not acted), -ETIMEDOUT (it may have), -ESTALE, -ERANGE, ... */
int etcd_outcome(const struct etcd_call *c, struct err *e);
/* A call with retries. *unsure (may be NULL) is set when a try failed whose effect is unknown. */
int etcd_invoke(struct etcd *s, struct arena *a, enum etcd_rpc rpc, const struct api_type *request_type,
                const void *request, const struct api_type *response_type, void *response, bool *unsure, struct err *e);

/* etcd_watch.c */
int etcd_watch(struct store *st, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
               struct store_watch **out, struct err *e);
/* On the I/O thread: starts the watch when it is due; returns milliseconds until then, or -1. */
int etcd_watch_tick(struct etcd *s);
