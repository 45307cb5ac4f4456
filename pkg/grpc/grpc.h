/* gRPC on unix sockets: what CRI needs. The server is a table of methods over pkg/http; the client multiplexes
 * concurrent blocking calls on one connection. Messages are coded by pkg/api's descriptors.
 *
 * Calls: unary, and server streaming. Client streaming does not occur in CRI and answers UNIMPLEMENTED. Compression
 * is not offered ("identity"); a compressed message answers UNIMPLEMENTED. */
#pragma once

#include "pkg/api/api.h"
#include "pkg/base/arena.h"
#include "pkg/base/err.h"
#include "pkg/http/client.h"
#include "pkg/http/server.h"

enum grpc_code {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
};

enum { GRPC_MESSAGE_MAX = 16 * 1024 * 1024 };

/* An error with a gRPC code: err.code is the errno nearest to it (NOT_FOUND -ENOENT, ALREADY_EXISTS -EEXIST,
 * UNAVAILABLE -ECONNREFUSED, DEADLINE_EXCEEDED -ETIMEDOUT, ...). Handlers may equally return errno-coded errors:
 * grpc_code_of maps them back. */
int grpc_err(struct err *e, enum grpc_code code, const char *fmt, ...) _printf_(3, 4);
enum grpc_code grpc_code_of(const struct err *e);
const char *grpc_code_name(enum grpc_code code);

/* ---- server ---- */

struct grpc_server;

/* A call being handled. */
struct grpc_call {
    const struct api_rpc *rpc;
    const void *request;  /* decoded: struct of rpc->request */
    void *response;       /* unary: zeroed struct of rpc->response, to be filled from `arena` */
    struct arena *arena;  /* lives until the call is answered */
    int64_t deadline_ns;  /* mono_ns() time, 0: none */
    void *arg;            /* of the server */
    struct http_req *req; /* metadata, peer */
};
/* True when the client went away or the deadline passed. */
bool grpc_call_cancelled(const struct grpc_call *c);

/* Runs on a worker thread and may block. 0: c->response is sent (unary) or the stream ends with OK. Otherwise the
 * error becomes the status. */
typedef int (*grpc_handler)(struct grpc_call *c, struct err *e);
struct grpc_method {
    const struct api_rpc *rpc;
    grpc_handler fn;
};

/* From a server-streaming handler: sends one message (struct of rpc->response); blocks while more than 1 MiB waits.
 * -EPIPE when the client is gone. */
int grpc_stream_send(struct grpc_call *c, const void *message, struct err *e);

struct grpc_server_options {
    const char *unix_path;
    mode_t unix_mode;                  /* [0600] */
    const struct grpc_method *methods; /* stays the caller's; must live as long as the server */
    size_t n_methods;
    void *arg;
    unsigned threads;        /* most unary calls at once; threads come and go with need [64] */
    unsigned stream_threads; /* most server-streaming calls at once, a thread each while it runs [16] */
};
/* Listens and serves in threads of its own. */
struct grpc_server *grpc_server_new(const struct grpc_server_options *o, struct err *e);
/* Stops accepting, cancels streams, waits for running handlers. NULL-safe, returns NULL. */
struct grpc_server *grpc_server_free(struct grpc_server *s);

/* ---- client ---- */

struct grpc_client;

/* Does not connect yet: the first call does, and after a failure the next one again. `unix_path` may have a "unix://"
 * prefix. */
struct grpc_client *grpc_client_new(const char *unix_path);
struct grpc_client *grpc_client_free(struct grpc_client *c); /* no call may be running; NULL-safe, returns NULL */
/* Unary call; thread-safe, blocking. `response` is a struct of rpc->response, filled from `a`. timeout_ms 0: 2 min.
 * Errors as in grpc_err. */
int grpc_call(struct grpc_client *c, const struct api_rpc *rpc, const void *request, struct arena *a, void *response,
              unsigned timeout_ms, struct err *e);
/* Server streaming: on_message for each (decoded into an arena that is reset afterwards); non-zero from it ends the
 * call with that value. Runs until the server ends it (0), an error, or `cancel` (-ECANCELED). */
int grpc_call_stream(struct grpc_client *c, const struct api_rpc *rpc, const void *request,
                     int (*on_message)(const void *message, void *arg), void *arg, struct http_cancel *cancel,
                     struct err *e);
