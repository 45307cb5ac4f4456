/* The port of a program that serves nobody's requests but health probes and scrapes: /healthz, /livez, /readyz for
 * everyone, /metrics for those who may (upstream: the secure serving of kube-controller-manager and kube-scheduler).
 *
 * With TLS, who asks is known by a client certificate or by a TokenReview, and whether they may by a SubjectAccessReview.
 * Idle, it is a listening socket and a thread with next to no stack: the HTTP server, and a self-signed certificate where
 * none is given, are made when the first connection comes. */
#pragma once

#include "pkg/base/buf.h"
#include "pkg/client/client.h"

struct serving_config {
    const char *address;
    int port;
    bool tls;
    bool may_fail;                    /* somebody has the port: go without, with a warning */
    const char *cert_file, *key_file; /* NULL or "": a self-signed certificate */
    const char *client_ca_file;       /* NULL or "": nobody is known by a certificate */
    struct client *client;            /* for reviews; borrowed */
    void (*metrics)(void *arg, struct buf *b);
    void *arg;
};
struct serving;
/* Strings are copied. *out NULL when the port may fail and does. */
int serving_start(const struct serving_config *c, struct serving **out, struct err *e);
void serving_stop(struct serving *s); /* NULL-safe; waits for the answers under way */

/* ---- the two ports of a program, by its flags ---- */

struct serving_flags {
    const char *address, *cert_file, *key_file, *client_ca_file;
    int64_t port, secure_port, usual_port; /* plain; with TLS; a program goes without that one when somebody has it */
};
#define SERVING_DEFAULTS(port_) \
    ((struct serving_flags){.address = "127.0.0.1", .secure_port = (port_), .usual_port = (port_)})
#define SERVING_FLAGS(f)                                                                                                \
    {"secure-port", 0,                                                                                                  \
     FLAG_INT,      &(f).secure_port,                                                                                   \
     "PORT",        "serve /metrics, /healthz, /livez and /readyz here, with TLS and authorization; 0: nowhere"},       \
        {"healthz-port", 0, FLAG_INT, &(f).port, "PORT", "serve the same here, without TLS, to everyone; 0: nowhere"},  \
        {"bind-address", 0, FLAG_STR, &(f).address, "ADDR", "address of these ports"},                                  \
        {"tls-cert-file", 0, FLAG_STR, &(f).cert_file, "FILE", "certificate of the secure port; default: self-signed"}, \
        {"tls-private-key-file", 0, FLAG_STR, &(f).key_file, "FILE", "its key"}, {                                      \
        "client-ca-file", 0, FLAG_STR, &(f).client_ca_file, "FILE",                                                     \
            "CA whose client certificates are users of the secure port"                                                 \
    }
enum { SERVING_PORTS = 2 };
int serving_start_ports(const struct serving_flags *f, struct client *client, void (*metrics)(void *arg, struct buf *b),
                        void *arg, struct serving *out[SERVING_PORTS], struct err *e);
void serving_stop_ports(struct serving *ports[SERVING_PORTS]);
