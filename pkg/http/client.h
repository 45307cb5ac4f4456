/* HTTP client. Three ways to use a server:
 *
 *   http_client_do       one request, one answer in memory (libcurl; connections are kept and reused)
 *   http_client_stream   a GET whose answer does not end: watches, logs (libcurl; one connection each)
 *   http_client_upgrade  exec, attach, port-forward: HTTP/1.1 101, then plain bytes on a socket (OpenSSL)
 *
 * All block. A struct http_client is thread-safe: any number of threads may use it at once. */
#pragma once

#include <stdatomic.h>

#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/base/err.h"
#include "pkg/http/server.h"

struct http_client;

/* PEM text wins over the file of the same name. Strings are copied. */
struct http_client_options {
    const char *base_url;             /* "https://127.0.0.1:6443": put before paths that start with '/'; may be NULL */
    const char *unix_socket;          /* connect here, whatever the URL's host says */
    const char *ca_file, *ca_pem;     /* neither: the system's CAs */
    const char *cert_file, *key_file; /* client certificate; once replaced, new connections show the new one */
    const char *cert_pem, *key_pem;
    const char *server_name;         /* expected in the certificate instead of the URL's host (TLS SNI and Host too) */
    bool insecure;                   /* do not verify the server */
    const char *token;               /* bearer token */
    const char *token_file;          /* read again when it changed */
    const char *username, *password; /* basic authentication */
    const char *user_agent;
    unsigned connect_ms;   /* [10 s] */
    unsigned idle_handles; /* kept connections [8] */
    bool http2;            /* offer h2 */
    bool follow;           /* follow redirects (at most 10) */
};

struct http_client *http_client_new(const struct http_client_options *o, struct err *e);
struct http_client *http_client_free(struct http_client *c); /* NULL-safe, returns NULL */
/* Replaces the bearer token / the certificate for new connections. NULL token: none. */
void http_client_set_token(struct http_client *c, const char *token);
void http_client_set_cert(struct http_client *c, const char *cert_pem, const char *key_pem);

/* An answer. Zero it, set limits if wanted, release with http_resp_done. Reuse empties it first. */
struct http_resp {
    int status;
    struct http_header *headers; /* names in lower case */
    size_t n_headers;
    struct buf body;     /* body.limit: at most this many bytes, 0 means HTTP_RESP_MAX */
    struct arena *arena; /* holds the headers */
};
enum { HTTP_RESP_MAX = 256 * 1024 * 1024 };
#define _cleanup_http_resp_ _cleanup_(http_resp_done)
void http_resp_done(struct http_resp *r); /* NULL-safe */
const char *http_resp_header(const struct http_resp *r, const char *name);

/* One request. `url`: path with query under base_url, or a full URL. timeout_ms 0: 30 s. 0 when an HTTP answer of any
 * status came; -ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH (name), -EPROTO (TLS), -EMSGSIZE (body limit), -EIO. */
int http_client_do(struct http_client *c, const char *method, const char *url, const struct http_header *h, size_t n_h,
                   const void *body, size_t body_len, struct http_resp *resp, unsigned timeout_ms, struct err *e);

/* A way to stop a blocking call from another thread. Level-triggered: stays set. */
struct http_cancel {
    int fd; /* eventfd */
    _Atomic bool set;
};
int http_cancel_init(struct http_cancel *x, struct err *e);
void http_cancel_done(struct http_cancel *x);
void http_cancel_set(struct http_cancel *x);
void http_cancel_reset(struct http_cancel *x);
static inline bool http_cancelled(const struct http_cancel *x) { return x && atomic_load(&x->set); }

/* How a streaming GET is seen by its reader. */
struct http_stream_cb {
    /* The head has come: status and headers are in resp. Non-zero ends the stream with that value. May be NULL. */
    int (*on_head)(const struct http_resp *resp, void *arg);
    /* Bytes of the body. With status >= 300 they are collected in resp->body instead. Non-zero ends the stream. */
    int (*on_data)(const char *p, size_t n, void *arg);
    void *arg;
};
/* GET until the server ends (0), the callbacks end it (their value), `cancel` is set (-ECANCELED), nothing came for
 * idle_ms (0: no limit) (-ETIMEDOUT), or an error. */
int http_client_stream(struct http_client *c, const char *url, const struct http_header *h, size_t n_h,
                       const struct http_stream_cb *cb, struct http_resp *resp, struct http_cancel *cancel,
                       unsigned idle_ms, struct err *e);

/* Any request, its answer of whatever status given to `cb` as it comes: for proxies. timeout_ms 0: no limit. `cancel` is
 * looked at about once a second while nothing comes. Uses kept connections. Returns as http_client_stream. */
int http_client_exchange(struct http_client *c, const char *method, const char *url, const struct http_header *h,
                         size_t n_h, const void *body, size_t body_len, const struct http_stream_cb *cb,
                         struct http_resp *resp, struct http_cancel *cancel, unsigned timeout_ms, struct err *e);

/* Upgrades: sends the request with these headers (Connection and Upgrade included by the caller; Host, lengths and
 * authorization are added, and left out of what is given), reads the answer's head into resp (and for other statuses than 101 the body). On 101 *fd
 * is a blocking stream socket with the plain bytes; closing it closes the connection (bytes written before are
 * delivered). With TLS a small thread pumps. 0 with resp->status telling; *fd is -1 unless 101. */
int http_client_upgrade(struct http_client *c, const char *method, const char *url, const struct http_header *h,
                        size_t n_h, const void *body, size_t body_len, struct http_resp *resp, int *fd,
                        unsigned timeout_ms, struct err *e);
