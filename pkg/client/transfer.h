/* A client's insides, shared by client.c (the thread) and transfer.c (one request or stream on its curl
 * handle). Everything that is not marked as under the lock belongs to the thread. */
#pragma once

#include <curl/curl.h>
#include <pthread.h>

#include "client.h"
#include "pkg/base/buf.h"
#include "pkg/base/ktime.h"
#include "pkg/base/prom.h"
#include "private.h"

enum { SPARE_HANDLES = 8, CLIENT_COUNTS = 32, CLIENT_VERBS = 5 };
extern const char *const client_verbs[CLIENT_VERBS];

struct client_count { /* answers of one code (0: none came) to one method */
    char method[8];
    int code;
    uint64_t n;
};

struct transfer {
    struct transfer *next;
    struct client *c;
    CURL *easy;
    struct curl_slist *headers;
    char *method, *path, *content_type, *accept, *cause;
    char *body;
    size_t body_len;
    int64_t timeout_ms, started_ns;
    struct buf in;
    char curl_error[CURL_ERROR_SIZE];
    client_done_fn *done; /* unary */
    void *arg;
    struct client_stream *stream; /* else */
};

struct client_stream {
    struct transfer *t;
    struct client *c;
    const struct client_stream_ops *ops;
    void *arg;
    bool closed, started;
    struct client_stream *next_close;
};

struct timer {
    struct timer *next;
    int64_t due;
    void (*fn)(void *arg);
    void *arg;
};

/* The client certificate as its files last said. libcurl only shares a connection between transfers that give the same
 * PEM texts: so a renewed certificate has connections of its own, and those of the old one end with their requests. */
struct client_files {
    char *cert, *key; /* PEM; old ones stay in the client's arena: transfers may still point to them */
    int64_t looked_at, cert_mtime, key_mtime;
};

struct client {
    struct client_config cfg; /* strings live in `arena` */
    struct arena *arena;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t closed; /* a stream has been closed for another thread */
    /* inbox, under lock */
    struct transfer *inbox, **inbox_tail;
    struct timer *timer_inbox, **timer_inbox_tail;
    struct client_stream *close_inbox;
    bool stop, reset;
    struct client_count counts[CLIENT_COUNTS]; /* the last: all others; under lock, as are */
    struct prom_histogram took[CLIENT_VERBS];
    /* the thread's own */
    CURLM *multi;
    struct transfer *backlog, **backlog_tail;
    struct transfer *running;
    struct timer *timers; /* by due time */
    unsigned in_flight;
    CURL *spare[SPARE_HANDLES];
    unsigned n_spare;
    struct client_stream *zombies; /* closed on the thread, to be freed by it */
    char *token;                   /* from token_file */
    int64_t token_read_at;
    struct client_files files;
};

/* metrics.c: an answer, for what the client says of itself. */
void client_count(struct client *c, const char *method, long code, int64_t took_ns, bool stream);

struct transfer *transfer_new(struct client *c, const struct client_request *rq);
void transfer_free(struct transfer *t);
/* Onto the multi handle, from the backlog; the list of the running has it then. */
void transfer_start(struct client *c, struct transfer *t);
void transfer_unlink(struct client *c, struct transfer *t);
/* curl is done with it: the result goes to its callback, and it is freed. */
void transfer_finish(struct client *c, struct transfer *t, CURLcode rc);
