/* Inside the server: connections, requests, output queues, operations posted to the loop.
 *
 * Threads. Everything here belongs to the loop thread but for the fields marked (any): those are atomic or under the
 * server's lock. Other threads act by posting operations (ops.c), which run on the loop in order.
 *
 * Flow of output. A request's response bytes wait in its outq as references to shared bytes. conn_flush moves them,
 * framed, through TLS into the socket while the socket takes them (about FLUSH_SIZE bytes wait inside libuv), so a
 * slow client costs references, not copies. Nothing is written while input is being parsed: connections are marked
 * dirty and flushed once a loop turn, and that is also the only place (with libuv's own callbacks) where connections
 * die, so no function has to fear that its connection vanished during a call. */
#pragma once

#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>
#include <pthread.h>

#include "pkg/base/buf.h"
#include "pkg/base/ktime.h"
#include "pkg/http/h1parse.h"
#include "pkg/http/record.h"
#include "pkg/http/server.h"

enum {
    READ_SIZE = 64 * 1024, /* one read from a socket */
    GATHER_SIZE = TLS_RECORD_MAX,
    FLUSH_SIZE = 6 * GATHER_SIZE, /* given to the socket at once: under two segments of the loopback, and fits in L2 */
    TURN_PIECES = 8, /* of FLUSH_SIZE that a connection may send in a turn of the loop: then others have theirs; */
    TURN_BULK = 64,  /* and that all connections with more than that to send may: they take turns */
    PIPELINE_MAX = 64 * 1024, /* bytes kept behind a request that is being handled */
    TUNNEL_HIGH = 256 * 1024, /* bytes waiting in one direction of a tunnel */
    LINGER_MS = 2000,         /* reading on after the last answer, so that it is not lost to a reset */
    LISTEN_BACKLOG = 1024,
    H2_STREAM_WINDOW = 1024 * 1024,
    H2_CONN_WINDOW = 4 * 1024 * 1024,
    H2_RESET_BURST = 5000, /* streams a client may reset at once (cancelled watches), */
    H2_RESET_RATE = 500,   /* and per second */
    RESP_HEADERS_MAX = 64,
};

/* ---- queue of shared bytes ---- */

struct seg {
    struct rbytes *b;
    size_t off;
};
struct outq {
    struct seg few[2];   /* where they are until there are more: most answers are one or two pieces */
    struct seg *items;   /* NULL: `few` */
    size_t head, n, cap; /* items[head .. head+n) */
    size_t bytes;
};
void outq_push(struct outq *q, struct rbytes *b); /* takes over the reference */
/* The front bytes, at most `max`; 0 when empty. */
size_t outq_peek(const struct outq *q, size_t max, const char **p);
void outq_pop(struct outq *q, size_t n);
void outq_clear(struct outq *q);

/* ---- request ---- */

enum req_state {
    REQ_READING,   /* head or body incomplete */
    REQ_HANDLING,  /* the handler has it */
    REQ_STREAMING, /* head sent or queued, more to come */
    REQ_ENDED,     /* all is queued */
};

/* Headers packed in one block, so that an operation can carry them between threads. */
struct hdrs {
    size_t n;
    struct http_header h[];
};

struct peer {
    struct http_peer pub;
    _Atomic uint32_t refs; /* (any) */
    struct arena *arena;
};

struct hreq {
    struct http_req pub;        /* first: http_req and hreq are cast into each other */
    _Atomic uint32_t refs;      /* (any) */
    struct http_server *server; /* (any) referenced */
    struct peer *peer;
    struct conn *conn; /* NULL when the connection or stream is gone */
    enum req_state state;
    int32_t stream_id;        /* HTTP/2 */
    uint64_t progress_ms;     /* HTTP/2: when bytes of it last came */
    struct hreq *prev, *next; /* HTTP/2: streams of the connection */
    bool is_head;
    bool no_body_response;     /* HEAD, 204, 304 */
    bool chunked, close_after; /* HTTP/1.1 response framing */
    bool data_deferred, submitted;
    bool drain_wanted;
    int early_status; /* HTTP/2: refused with this status before it was read */
    size_t dropped;   /* HTTP/2: bytes of a refused body */
    size_t body_limit, header_bytes, cap_headers;
    int64_t content_length; /* announced, -1 unknown */
    struct buf body;
    struct outq out;
    struct hdrs *trailers;
    _Atomic size_t queued;         /* (any) bytes of `out`, and those still on their way to it */
    _Atomic bool closed, finished; /* (any) */
    void (*on_close)(struct http_req *r, void *arg);
    void *on_close_arg;
    void (*on_drain)(struct http_req *r, void *arg);
    void *on_drain_arg;
    void (*on_input)(struct http_req *r, const char *p, size_t n, void *arg); /* of an upgraded stream */
    void *on_input_arg;
    void *data;
    void (*free_data)(void *);
    _Atomic int status; /* (any) of the answer */
    void (*observe)(struct http_req *r, enum http_req_stage stage, void *arg);
    void *observe_arg;
};
static inline struct hreq *hreq_of(const struct http_req *r) { return (struct hreq *)(uintptr_t)r; }

/* The answer begins. */
void hreq_started(struct http_req *r, int status);
struct hreq *hreq_new(struct conn *c);
/* The client is gone: tells the handler (when it has the request) and drops the connection's reference. */
void hreq_detach(struct hreq *r);
/* Splits pub.target into path and query. */
void hreq_split_target(struct hreq *r);
/* Gives a complete request to the handler. */
void hreq_dispatch(struct hreq *r);
const char *http_status_text(int status);

/* ---- operations: what answering means on the loop ---- */

enum op_kind { OP_RESPOND, OP_BEGIN, OP_WRITE, OP_END, OP_ABORT, OP_TUNNEL, OP_CALL };

struct op {
    struct op *next;
    enum op_kind kind;
    struct hreq *r; /* the handler's reference when the operation finishes the request */
    int status;
    unsigned flags;
    struct hdrs *hdrs;
    struct rbytes *bytes; /* OP_WRITE; head of OP_TUNNEL */
    int fd;
    void (*fn)(void *arg);
    void *arg;
    size_t n_parts;
    struct rbytes *parts[];
};
void op_run(struct op *op);     /* on the loop; frees op */
void op_discard(struct op *op); /* frees op and what it holds */

/* ---- connection ---- */

enum conn_proto {
    CONN_TLS_HELLO, /* handshake running */
    CONN_DETECT,    /* plaintext: HTTP/2 preface or HTTP/1 */
    CONN_H1,
    CONN_H2,
    CONN_TUNNEL,
    CONN_LINGER, /* all sent; input is thrown away until the peer closes */
};

enum deadline_kind { DL_NONE, DL_HELLO, DL_IDLE, DL_HEADER, DL_BODY, DL_LINGER };

struct listener;
struct tls_conf;

struct conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    struct http_server *srv;
    struct listener *lst;
    enum conn_proto proto;
    struct conn *prev, *next; /* all connections */
    struct conn *dirty_next;
    bool bulk; /* had more to send than a turn gives */
    bool dirty, dead, closing, reading, eof, close_after, fin_sent;
    SSL *ssl;
    struct tls_records *records; /* once the keys are with the BIO; */
    uint8_t record_type;         /* of the next one, 0: application data */
    bool keys_over;              /* the client expects other keys from now on */
    struct tls_conf *tls;
    const char *cipher_in; /* what the TLS BIO reads from, during conn_on_read */
    size_t cipher_in_len;
    struct peer *peer;
    struct buf in;              /* bytes not parsed yet */
    struct outq out;            /* goes out before the current request's bytes */
    size_t inflight;            /* given to libuv, not written yet */
    uint64_t write_progress_ms; /* when inflight last shrank or became non-zero */
    enum deadline_kind dl_kind;
    uint64_t deadline_ms;
    /* HTTP/1.1 */
    struct hreq *cur;
    struct h1_chunked chunked_in;
    bool body_chunked, in_body;
    size_t scanned; /* of `in`, for the end of the head */
    /* HTTP/2 */
    nghttp2_session *h2;
    struct hreq *streams;
    size_t n_streams, h2_buffered;
    bool h2_full; /* the output is to be sent before more is asked for */
    /* tunnel */
    struct tunnel *tun;
};

struct conn_list {
    struct conn *head, *tail;
};

/* A machine may have BBR as its congestion control, whose timers pace every segment; a socket that had it once stays
 * paced. Between programs of one machine that only costs, half of what the kernel does for a long answer. So a
 * listener (fd) is given LOCAL_CONGESTION, which paces nothing, and connections from elsewhere get the machine's. */
#define LOCAL_CONGESTION "reno"
void conn_congestion(struct listener *l, int fd);
void conn_accept(struct listener *l, uv_stream_t *server_handle);
void conn_mark_dirty(struct conn *c);
/* Closes soon, dropping what is unsent. */
void conn_kill(struct conn *c);
void conn_flush(struct conn *c);
/* Goes on in the next turn of the loop. */
void conn_put_off(struct conn *c, struct conn_list *l);
void conn_destroy(struct conn *c);
void conn_deadline(struct conn *c, enum deadline_kind kind, unsigned ms);
void conn_check_deadline(struct conn *c, uint64_t now);
void conn_read_start(struct conn *c);
void conn_read_stop(struct conn *c);
/* Plain bytes that arrived. */
void conn_input(struct conn *c, const char *p, size_t n);
/* While flushing: queues plain bytes for the current TLS record. */
void conn_emit(struct conn *c, const char *p, size_t n);
/* Takes ciphertext from the TLS BIO; and the plaintext of a record, in two parts (false: it could not be encrypted). */
void conn_cipher_out(struct conn *c, const char *p, size_t n);
bool conn_record_out(struct conn *c, uint8_t type, const char *head, size_t n_head, const char *p, size_t n);

/* h1.c */
void h1_input(struct conn *c, const char *p, size_t n);
bool h1_pump(struct conn *c);   /* emits some output; false when there is none */
void h1_settle(struct conn *c); /* after a flush: request done? next one, or close */
void h1_head(struct hreq *r, int status, const struct hdrs *h, int64_t length); /* queues the response head */
void h1_conn_gone(struct conn *c);
void h1_upgraded(struct conn *c); /* hands over what came behind the request */

/* h2.c */
int h2_start(struct conn *c);
void h2_input(struct conn *c, const char *p, size_t n);
bool h2_pump(struct conn *c);
void h2_head(struct hreq *r, int status, const struct hdrs *h, int64_t length, bool no_body);
void h2_resume(struct hreq *r);
void h2_abort(struct hreq *r, uint32_t code);
void h2_goaway(struct conn *c);
void h2_check_bodies(struct conn *c, uint64_t now);
void h2_conn_gone(struct conn *c);

/* tunnel.c */
void tunnel_start(struct conn *c, int fd);
void tunnel_input(struct conn *c, const char *p, size_t n);
void tunnel_eof(struct conn *c);
void tunnel_settle(struct conn *c);
void tunnel_conn_gone(struct conn *c);

/* tls.c */
struct tls_conf *tls_conf_new(const struct http_listen *l, struct err *e);
struct tls_conf *tls_conf_ref(struct tls_conf *t);
void tls_conf_unref(struct tls_conf *t);
SSL *tls_conn_new(struct tls_conf *t, struct conn *c);
void tls_fill_peer(struct conn *c);

struct peer *peer_new(void);
struct peer *peer_ref(struct peer *p);
void peer_unref(struct peer *p);

/* ---- server ---- */

struct listener {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    struct http_server *srv;
    int id;
    bool is_pipe, open;
    uint16_t port;
    char congestion[16]; /* the machine's congestion control, "" unknown */
    char *unix_path;
    void *tag;
    struct tls_conf *tls;   /* under the server's lock */
    struct http_listen cfg; /* owned copies of file names and PEMs, for reloading */
    struct listener *next;
};

struct http_server {
    _Atomic uint32_t refs; /* (any) */
    struct http_server_options opt;
    struct http_limits lim;
    char *server_name;
    uv_loop_t *loop, own_loop;
    bool own, started, stopping;
    pthread_t thread;
    _Atomic pthread_t loop_thread; /* (any) */
    uv_async_t async;
    uv_prepare_t prepare;
    uv_timer_t timer;
    uint64_t timer_at; /* 0: not armed */
    uint64_t stop_at;  /* end of the grace period, when stopping */
    int n_handles;     /* of ours, not closed yet */
    pthread_mutex_t lock;
    struct op *ops_head, *ops_tail; /* (any) under lock */
    _Atomic bool ops_waiting;       /* (any) */
    bool down;                      /* under lock: no more operations */
    struct op *local_ops;           /* taken, not run yet */
    struct listener *listeners;
    int next_id;
    struct conn *conns;
    struct conn *dirty_head, *dirty_tail;
    struct conn_list later, behind; /* dirty in the next turn: not served in this one; served, and have more to send */
    unsigned bulk_left;             /* pieces of TURN_BULK */
    _Atomic size_t n_conns, n_streams;
    _Atomic uint64_t n_requests, n_accepted;
    struct buf out; /* ciphertext (or plain bytes) of the connection being flushed */
    size_t gather_len;
    char gather[GATHER_SIZE];
    char rbuf[READ_SIZE];
    char pbuf[GATHER_SIZE + 1024];
    char date[40];
    int64_t date_sec;
};

void server_post_op(struct http_server *s, struct op *op);
void server_drain_ops(struct http_server *s);
struct http_server *server_ref(struct http_server *s);
void server_unref(struct http_server *s);
void server_arm_timer(struct http_server *s, uint64_t at_ms);
const char *server_date(struct http_server *s);
void server_handle_closed(struct http_server *s);
