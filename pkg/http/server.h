/* HTTP server: TLS or plaintext, HTTP/1.1 and HTTP/2, on TCP and unix sockets, on one libuv loop.
 *
 * A request is read completely (head and body, within limits) and then given to the handler on the loop thread. The
 * handler answers at once, or hands the request to a worker thread (http_dispatch) which answers from there: every
 * function that answers is thread-safe and never blocks.
 *
 * Ownership of a request: the handler owns one reference and gives it up with exactly one finishing call:
 * http_respond*, http_stream_end*, http_upgrade, http_tunnel or http_abort; after it the request must not be touched
 * (unless the caller took a reference of its own). A client that goes away does not change that: the calls then do
 * nothing but release. The request's arena belongs to the handler until the finishing call. */
#pragma once

#include <sys/types.h>
#include <time.h>
#include <uv.h>

#include "pkg/base/arena.h"
#include "pkg/base/bytes.h"
#include "pkg/base/err.h"

struct http_server;
struct http_req;

struct http_header {
    const char *name, *value;
};

/* Who is at the other end of a connection. Strings live as long as the request. */
struct http_peer {
    char addr[64]; /* "10.1.2.3" or "fd00::1"; "" on a unix socket */
    uint16_t port;
    bool unix_socket;
    uid_t uid; /* of the peer process on a unix socket, else (uid_t)-1 */
    pid_t pid;
    bool cert_given;         /* the client sent a certificate */
    bool cert_verified;      /* and it chains to one of the listener's client CAs, is for client use and is in date */
    uint64_t ca_mask;        /* bit i: the chain ends at a certificate of client_cas[i] */
    const char *cert_error;  /* why it was not verified, or NULL */
    const char *common_name; /* subject; trust them only when cert_verified */
    const char *const *organizations;
    size_t n_organizations;
    const char *cert_uid;   /* subject attribute 1.3.6.1.4.1.57683.2 (Kubernetes' user uid), or NULL */
    char cert_sha256[65];   /* lower-case hex of the DER */
    int64_t cert_not_after; /* seconds since 1970 */
};

/* The peer's certificate counts now: verified at the handshake, and not ended since. To be asked for each request, as
 * upstream does: connections may outlive certificates. */
static inline bool http_peer_verified(const struct http_peer *p) {
    return p->cert_verified && time(NULL) <= p->cert_not_after;
}

/* A request. Everything public is read-only and lives until the last reference goes. */
struct http_req {
    const char *method; /* "GET" */
    const char *target; /* as on the request line: path?query */
    const char *path;   /* the target's path, not decoded ("/a%2Fb") */
    const char *query;  /* the target's query, not decoded; "" when absent */
    const char *host;   /* Host or :authority; "" when absent (HTTP/1.0) */
    int version;        /* 10, 11 or 20 */
    bool tls;
    const struct http_header *headers; /* in order of arrival, names in lower case, repeated ones kept */
    size_t n_headers;
    const char *body; /* NUL-terminated; "" when empty */
    size_t body_len;
    const struct http_peer *peer;
    struct arena *arena; /* for the handler: freed with the request */
    void *listener;      /* .tag of the listener */
    int64_t start_ns;    /* mono_ns() when the head was complete */
    void *context;       /* the handler's, for options.over; set before the request can be answered */
};

/* What a peer may do. A zero field means the default (in brackets). */
struct http_limits {
    size_t header_bytes;      /* request head [64 KiB] */
    size_t header_count;      /* [256] */
    size_t uri_bytes;         /* request target [48 KiB: exec puts its whole command there] */
    size_t body_bytes;        /* [3 MiB + 1 KiB] */
    size_t connections;       /* [10000] */
    uint32_t h2_streams;      /* concurrent on one connection [250] */
    size_t h2_buffered_bytes; /* request bodies being received on one connection [16 MiB] */
    size_t queued_bytes;      /* unsent response bytes of one streaming response before it is closed [16 MiB] */
    unsigned tls_hello_ms;    /* from accept to the end of the TLS handshake [10 s] */
    unsigned header_ms;       /* from a request's first byte to the end of its head [15 s] */
    unsigned body_ms;         /* without a byte of an announced body [60 s] */
    unsigned idle_ms;         /* between requests [180 s] */
    unsigned write_ms;        /* with response bytes waiting and none accepted by the peer [120 s] */
};

struct http_server_options {
    uv_loop_t *loop; /* NULL: the server makes a loop and runs it in a thread of its own after http_server_start */
    /* Called on the loop thread for each complete request; owns the request (see above). */
    void (*handler)(struct http_req *req, void *arg);
    void *arg;
    /* Optional: called on the loop thread when a request's head is complete; returns the body limit for it
     * (0: limits.body_bytes). */
    size_t (*body_limit)(struct http_req *req, void *arg);
    /* Optional: a request that the handler was given is over, answered or not (http_req_status tells); on the thread that
     * lets go of it last. */
    void (*over)(struct http_req *req, void *arg);
    struct http_limits limits;
    const char *server_name; /* value of the Server header, or NULL for none */
};

/* Where to listen. Exactly one of unix_path, fd (>= 0 with use_fd) or address (with port, 0 picks one). TLS when a
 * certificate is given. PEM text wins over the file of the same name. */
struct http_listen {
    const char *address; /* numeric; NULL: "0.0.0.0" ("::" listens on both families) */
    uint16_t port;
    const char *unix_path; /* an old socket at the path is replaced */
    mode_t unix_mode;      /* [0600] */
    bool use_fd;
    int fd;          /* already bound; the server owns it on success */
    bool tls13_only; /* else TLS 1.2 too */
    const char *cert_file, *key_file;
    const char *cert_pem, *key_pem;
    const struct http_ca { /* CAs for client certificates; with none the client is not asked for one */
        const char *file, *pem;
    } * client_cas;
    size_t n_client_cas; /* at most 64 */
    void *tag;           /* becomes req->listener */
};

struct http_server *http_server_new(const struct http_server_options *o);
/* Binds and listens. Before http_server_start, or on the loop thread. *id (may be NULL) names the listener for the two
 * functions below. -EADDRINUSE, -EINVAL (bad certificate), ... */
int http_server_listen(struct http_server *s, const struct http_listen *l, int *id, struct err *e);
/* The TCP port a listener is bound to. */
uint16_t http_server_port(struct http_server *s, int id);
/* Reads certificate, key and CA files again; new connections use them. On error the old ones stay. Thread-safe. */
int http_server_reload_tls(struct http_server *s, int id, struct err *e);
/* Puts PEM texts in place instead. NULL leaves one unchanged. Thread-safe. */
int http_server_set_tls(struct http_server *s, int id, const char *cert_pem, const char *key_pem,
                        const struct http_ca *client_cas, size_t n_client_cas, struct err *e);
/* Starts the server's own thread (nothing to do when the loop was given). */
int http_server_start(struct http_server *s, struct err *e);
/* Stops accepting, lets running requests finish for at most grace_ms, then closes every connection. Thread-safe,
 * returns at once. */
void http_server_stop(struct http_server *s, unsigned grace_ms);
/* Stops (without grace, unless http_server_stop was called before and finished) and frees. With its own thread: joins
 * it; call from another thread. With a given loop: call on its thread when uv_run is not running; the loop is turned
 * until the server's handles are closed. Requests still held by workers stay valid. NULL-safe, returns NULL. */
struct http_server *http_server_free(struct http_server *s);
uv_loop_t *http_server_loop(struct http_server *s);
/* Runs fn(arg) on the loop thread, soon; in order of posting. Thread-safe. When the server has stopped fn is not
 * called and -ESHUTDOWN returned. */
int http_server_post(struct http_server *s, void (*fn)(void *arg), void *arg);
bool http_on_loop(struct http_server *s);

struct http_server_stats {
    uint64_t requests, connections_total;
    size_t connections, streams; /* now open */
};
void http_server_get_stats(struct http_server *s, struct http_server_stats *out);

/* ---- looking at a request ---- */

/* First value of a header (name in lower case), or NULL. */
const char *http_header(const struct http_req *r, const char *name);
/* The n-th value (from 0), or NULL. */
const char *http_header_n(const struct http_req *r, const char *name, size_t n);
/* True when a comma-separated header (all its lines) has this token, compared without case. */
bool http_header_has_token(const struct http_req *r, const char *name, const char *token);
/* Decoded value of the first query parameter of this name, in the request's arena; NULL when absent, "" when it has
 * no value. Plus means space. Bad escapes make the parameter be skipped, as Go does. */
const char *http_query(struct http_req *r, const char *name);
/* Iterates over the query: size_t it = 0; while (http_query_next(r, &it, &name, &value)) ... */
bool http_query_next(struct http_req *r, size_t *it, const char **name, const char **value);
/* Decodes %XX (and '+' when plus). NULL on a bad escape or a decoded NUL. */
char *http_unescape(struct arena *a, const char *s, size_t n, bool plus);
/* Escapes everything but unreserved characters (RFC 3986), for a path segment or a query value. */
char *http_escape(struct arena *a, const char *s);
/* True when the client is gone (or the response finished); answers then go nowhere. Thread-safe. */
bool http_req_closed(const struct http_req *r);
struct http_req *http_req_ref(struct http_req *r);
void http_req_unref(struct http_req *r); /* NULL-safe */
struct http_server *http_req_server(const struct http_req *r);
/* A value of the handler's, freed (may be NULL) with the request. Set it before the request can be answered by
 * another thread. */
void http_req_set_data(struct http_req *r, void *data, void (*free_data)(void *));
void *http_req_data(const struct http_req *r);
/* For a log of requests: fn is called when the answer begins (on the thread that answers) and when the request is over,
 * answered or not (on the thread that lets go of it last; what belongs to the request is still there). One observer;
 * set it before the request can be answered. */
enum http_req_stage { HTTP_REQ_STARTED, HTTP_REQ_OVER };
void http_req_observe(struct http_req *r, void (*fn)(struct http_req *r, enum http_req_stage stage, void *arg),
                      void *arg);
/* The status that was answered, 0 while there is none. */
int http_req_status(const struct http_req *r);

/* ---- answering (thread-safe, non-blocking; strings and bodies are copied, rbytes are referenced) ---- */

enum http_flags {
    HTTP_GZIP = 1 << 0,  /* compress when the client accepts it and the body is at least HTTP_GZIP_MIN bytes */
    HTTP_CLOSE = 1 << 1, /* close the connection afterwards (HTTP/1.1) */
};
enum { HTTP_GZIP_MIN = 128 * 1024 }; /* smaller bodies are sent as they are, as kube-apiserver does */

/* Status, headers and body. Content-Length and Date are added. */
void http_respond(struct http_req *r, int status, const struct http_header *h, size_t n_h, const void *body,
                  size_t body_len, unsigned flags);
/* Body from shared pieces, not copied. The pieces are referenced: the caller keeps its own references. */
void http_respond_bytes(struct http_req *r, int status, const struct http_header *h, size_t n_h,
                        struct rbytes *const *parts, size_t n_parts, unsigned flags);
/* text/plain with a printf'd body, X-Content-Type-Options: nosniff. */
void http_respond_text(struct http_req *r, int status, const char *fmt, ...) _printf_(3, 4);
/* Drops the connection (HTTP/1.1) or resets the stream (HTTP/2) without an answer. */
void http_abort(struct http_req *r);

/* A response of unknown length: begin, write any number of times, end. Chunked in HTTP/1.1. */
void http_stream_begin(struct http_req *r, int status, const struct http_header *h, size_t n_h, unsigned flags);
/* Queues the bytes (references them). When more than limits.queued_bytes wait, the client is closed. 0, or
 * -EPIPE when the client is gone. */
int http_stream_write(struct http_req *r, struct rbytes *chunk);
int http_stream_write_copy(struct http_req *r, const void *p, size_t n);
void http_stream_end(struct http_req *r);
/* With HTTP/2 trailers (gRPC). In HTTP/1.1 they are chunked trailers. */
void http_stream_end_trailers(struct http_req *r, const struct http_header *t, size_t n_t);
/* Bytes accepted and not yet handed to the kernel. Thread-safe. */
size_t http_stream_queued(const struct http_req *r);
/* Callbacks, on the loop thread; set them in the handler, before handing the request on. on_close: the client is gone
 * before the response was finished (the finishing call is still due, and may be made in the callback). on_drain:
 * the queue fell below HTTP_DRAIN_LOW after having been above. */
enum { HTTP_DRAIN_LOW = 64 * 1024 };
void http_req_on_close(struct http_req *r, void (*fn)(struct http_req *r, void *arg), void *arg);
void http_req_on_drain(struct http_req *r, void (*fn)(struct http_req *r, void *arg), void *arg);
/* For a stream begun with status 101 (HTTP/1.1 only; the connection ends with it): what is written goes out as it is, and
 * what the client sends comes here, on the loop. To be called on the loop before the stream begins. */
void http_req_on_input(struct http_req *r, void (*fn)(struct http_req *r, const char *p, size_t n, void *arg),
                       void *arg);

/* ---- leaving HTTP (HTTP/1.1 only) ---- */

/* True when the client asks to upgrade to this protocol (Connection: upgrade and Upgrade: proto). */
bool http_wants_upgrade(const struct http_req *r, const char *proto);
/* Answers "101 Switching Protocols" with these headers (Connection and Upgrade included by the caller) and gives a
 * blocking stream socket that carries the plain bytes of the connection from then on; the caller closes it. Bytes
 * written before the close are delivered. A finishing call on success; on failure (-EPROTO: HTTP/2, -EPIPE: client
 * gone) the request is still the handler's. */
int http_upgrade(struct http_req *r, const struct http_header *h, size_t n_h, int *fd, struct err *e);
/* Sends `head` as it is and joins the connection with `fd` (a connected stream socket, owned by the server from now
 * on) until both directions have ended. For proxies: head is the back end's response head. Same return as above; on
 * failure fd stays the caller's. */
int http_tunnel(struct http_req *r, const void *head, size_t head_len, int fd, struct err *e);

/* ---- workers ---- */

struct http_workers;
enum { HTTP_WORKER_STACK = 1024 * 1024 };
/* At most `threads` threads, made when needed and ended when idle; at most `queue` calls wait. */
struct http_workers *http_workers_new(unsigned threads, size_t queue);
/* Runs fn(arg) on a worker. -EAGAIN when the queue is full, -ESHUTDOWN while it is being freed. */
int http_dispatch(struct http_workers *w, void (*fn)(void *arg), void *arg);
/* Waits for queued and running calls, then frees. NULL-safe, returns NULL. */
struct http_workers *http_workers_free(struct http_workers *w);
/* Calls waiting now. */
size_t http_workers_queued(struct http_workers *w);
