/* The API client: what kubelet, controllers, scheduler, proxy, dns and the command line talk to an API server
 * with. It corresponds to client-go's rest and typed clients.
 *
 * One thread per client owns one curl multi handle; all requests and watches of the program share its
 * connections (HTTP/2 over TLS: normally one). The blocking calls below hand a request to that thread and
 * wait, so they may be made from any thread, except from callbacks of the client (async callbacks, informer
 * handlers), which run on it.
 *
 * Typed calls take a `struct client_resource`, one of the constants below, and the C struct of its type:
 *
 *     struct core_pod pod;
 *     r = client_get(c, arena, &client_pods, "default", "web", &pod, e);
 *
 * Results live in the arena given. A failed call leaves a Status in the err: err.status is the HTTP code,
 * err.reason the Status reason ("NotFound"), the return code what err_status makes of it (-ENOENT 404,
 * -EEXIST 409, -EBUSY 429); a server that is not in reach gives -ENOTCONN or -ETIMEDOUT with status 0.
 *
 * Every write carries its cause: the resourceVersion of the object that the writer acted on (header
 * X-Coracle-Cause), from client_opts.cause. `coracle trace` shows it. */
#pragma once

#include "pkg/api/api.h"
#include "pkg/base/arena.h"
#include "pkg/base/err.h"

struct client;

/* ---- making a client ---- */

struct client_config {
    const char *server;                /* "https://127.0.0.1:6443" */
    const char *ca_file, *ca_data;     /* PEM; data wins. NULL: the system's */
    const char *cert_file, *cert_data; /* client certificate, PEM */
    const char *key_file, *key_data;   /* files are read again as they change: new requests then use new connections */
    const char *token, *token_file;    /* bearer token; the file is read again as it changes */
    const char *tls_server_name;
    bool insecure_skip_tls_verify;
    const char *user_agent; /* "coracle-kubelet"; also the default field manager */
    int64_t timeout_ms;     /* of a request; 0: 60 s */
    bool http1;             /* never HTTP/2: a connection per watch */
    unsigned max_in_flight; /* requests beyond wait in the client; 0: 256 */
};

/* Copies what it needs of the configuration; connects lazily. */
int client_new(const struct client_config *cfg, struct client **out, struct err *e);
/* The current context of a kubeconfig file. `base` (may be NULL) gives user_agent, timeout_ms, max_in_flight.
 */
int client_new_from_kubeconfig(const char *path, const struct client_config *base, struct client **out, struct err *e);
/* The same of a kubeconfig that has been read already; `path` is what relative file names are relative to. */
struct json;
int client_config_from_tree(struct arena *a, const char *path, struct json *doc, struct client_config *out,
                            struct err *e);
/* Reads a kubeconfig into the arena: for programs that want the parts. */
int client_config_from_kubeconfig(struct arena *a, const char *path, struct client_config *out, struct err *e);
/* Service account files and KUBERNETES_SERVICE_HOST/PORT; -ENOENT outside of a pod. */
int client_config_in_cluster(struct arena *a, struct client_config *out, struct err *e);
/* Ends the thread; requests in flight fail with -ECANCELED. All informers of the client must be freed before.
 * NULL-safe. */
void client_free(struct client *c);
static inline void cleanup_client(struct client **c) { client_free(*c); }
#define _cleanup_client_ _cleanup_(cleanup_client)
/* The server's base URL. */
const char *client_server(const struct client *c);
/* Looks at the certificate files now, rather than in two seconds at the latest. */
void client_reset_connections(struct client *c);

/* ---- resources ---- */

struct client_resource {
    const char *group, *version, *plural; /* group "" is core */
    bool namespaced;
    const char *kind;
    const struct api_type *type;
};

/* clang-format off */
#define CLIENT_RESOURCES(X) \
    X(pods) X(nodes) X(services) X(endpoints) X(namespaces) X(configmaps) X(secrets) X(events) \
    X(serviceaccounts) X(persistentvolumes) X(persistentvolumeclaims) X(replicationcontrollers) \
    X(resourcequotas) X(limitranges) X(deployments) X(replicasets) X(daemonsets) X(statefulsets) \
    X(controllerrevisions) X(jobs) X(cronjobs) X(endpointslices) X(leases) X(networkpolicies) X(ingresses) \
    X(ingressclasses) X(storageclasses) X(csinodes) X(csidrivers) X(csistoragecapacities) X(volumeattachments) \
    X(priorityclasses) X(runtimeclasses) X(poddisruptionbudgets) X(horizontalpodautoscalers) \
    X(certificatesigningrequests) X(roles) X(clusterroles) X(rolebindings) X(clusterrolebindings) \
    X(servicecidrs) X(ipaddresses) X(volumeattributesclasses) X(validatingadmissionpolicies) \
    X(resourceclaims) X(resourceclaimtemplates) X(resourceslices) X(deviceclasses)
/* clang-format on */
#define CLIENT_DECLARE(name) extern const struct client_resource client_##name;
CLIENT_RESOURCES(CLIENT_DECLARE)
#undef CLIENT_DECLARE

/* ---- typed calls ---- `ns` is NULL or "" for cluster-scoped resources (and for all namespaces in lists) */

struct client_opts {
    const char *cause;         /* resourceVersion of the object acted on */
    const char *field_manager; /* NULL: the client's user agent */
    const char *subresource;   /* "status", "scale", ... for update, patch and get */
    bool dry_run, force;       /* force: server-side apply takes over conflicting fields */
};

int client_get(struct client *c, struct arena *a, const struct client_resource *r, const char *ns, const char *name,
               void *out, struct err *e);
/* `obj` is encoded with apiVersion and kind filled in; the answer goes to `out` (may be NULL; may be `obj`).
 * With an empty name, metadata.generateName is used by the server. `o` may be NULL. */
int client_create(struct client *c, struct arena *a, const struct client_resource *r, const char *ns, const void *obj,
                  const struct client_opts *o, void *out, struct err *e);
/* The name and resourceVersion are those in obj's metadata; a resourceVersion makes the update conditional.
 */
int client_update(struct client *c, struct arena *a, const struct client_resource *r, const char *ns, const void *obj,
                  const struct client_opts *o, void *out, struct err *e);
/* client_update of the "status" subresource. */
int client_update_status(struct client *c, struct arena *a, const struct client_resource *r, const char *ns,
                         const void *obj, const struct client_opts *o, void *out, struct err *e);

enum client_patch_type { CLIENT_PATCH_JSON, CLIENT_PATCH_MERGE, CLIENT_PATCH_STRATEGIC, CLIENT_PATCH_APPLY };
int client_patch(struct client *c, struct arena *a, const struct client_resource *r, const char *ns, const char *name,
                 enum client_patch_type type, const char *body, size_t body_len, const struct client_opts *o, void *out,
                 struct err *e);

struct client_delete_opts {
    const char *cause;
    const char *uid, *resource_version;  /* preconditions */
    const char *propagation;             /* "Background", "Foreground", "Orphan"; NULL: the resource's default */
    const int64_t *grace_period_seconds; /* NULL: the object's own */
};
int client_delete(struct client *c, const struct client_resource *r, const char *ns, const char *name,
                  const struct client_delete_opts *o, struct err *e);
/* DELETE of the collection; `label_selector` may be NULL. */
int client_delete_collection(struct client *c, const struct client_resource *r, const char *ns,
                             const char *label_selector, const struct client_delete_opts *o, struct err *e);

struct client_list_opts {
    const char *label_selector, *field_selector;
    const char *resource_version; /* "0": from the cache */
    int64_t limit;
    const char *continue_;
};
struct client_list {
    void **items; /* each of the resource's type */
    size_t n;
    const char *resource_version, *continue_;
};
int client_list(struct client *c, struct arena *a, const struct client_resource *r, const char *ns,
                const struct client_list_opts *o, struct client_list *out, struct err *e);

/* pods/eviction. -EBUSY with status 429 when a disruption budget forbids it now. */
int client_evict(struct client *c, const char *ns, const char *pod, const struct client_delete_opts *o, struct err *e);
/* pods/binding to a node; uid (may be NULL) must match. */
int client_bind(struct client *c, const char *ns, const char *pod, const char *uid, const char *node, const char *cause,
                struct err *e);
/* serviceaccounts/token: a TokenRequest bound to a pod (pod names may be NULL: unbound). */
struct client_token_request {
    const char *ns, *service_account;
    const char *const *audiences;
    size_t n_audiences;
    int64_t expiration_seconds;                      /* 0: the server's default */
    const char *bound_kind, *bound_name, *bound_uid; /* "Pod", ... */
};
struct client_token {
    const char *token;
    struct ktime expires;
};
int client_create_token(struct client *c, struct arena *a, const struct client_token_request *t,
                        struct client_token *out, struct err *e);

/* True for the Status reasons that callers act on. */
static inline bool client_err_not_found(const struct err *e) { return e->status == 404; }
static inline bool client_err_conflict(const struct err *e) {
    return e->status == 409 && str_eq(e->reason, "Conflict");
}
static inline bool client_err_exists(const struct err *e) {
    return e->status == 409 && str_eq(e->reason, "AlreadyExists");
}
/* The namespace is going away: nothing more can be made in it. */
bool client_err_namespace_terminating(const struct err *e);

/* ---- paths ---- */

/* "/apis/apps/v1/namespaces/x/deployments/web/status"; name and subresource may be NULL. */
char *client_path(struct arena *a, const struct client_resource *r, const char *ns, const char *name,
                  const char *subresource);
/* Appends "?k=v" or "&k=v", the value percent-encoded; a NULL or empty value appends nothing. */
char *client_path_query(struct arena *a, char *path, const char *key, const char *value);

/* ---- raw requests ---- */

struct client_request {
    const char *method; /* "GET" */
    const char *path;   /* with query, already encoded */
    const void *body;
    size_t body_len;
    const char *content_type; /* NULL: application/json when there is a body */
    const char *accept;       /* NULL: application/json */
    const char *cause;
    int64_t timeout_ms; /* 0: the client's */
};
struct client_response {
    int status;
    char *body; /* NUL-terminated heap memory, the receiver frees (client_response_done) */
    size_t len;
    char content_type[96];
};
void client_response_done(struct client_response *r);
/* Blocks. An answer of 400 and above is an error with the server's Status, and leaves *out empty. */
int client_do(struct client *c, const struct client_request *rq, struct client_response *out, struct err *e);
/* Returns at once; `fn` is called exactly once, on the client's thread, and must not block. The request is
 * copied. */
typedef void client_done_fn(void *arg, int result, const struct client_response *r, struct err *e);
void client_do_async(struct client *c, const struct client_request *rq, client_done_fn *fn, void *arg);

/* A long answer (watch, log): `data` is called on the client's thread as bytes come and must not block, `end`
 * once: result 0 for an orderly end. Used by the informers. */
struct client_stream;
struct client_stream_ops {
    void (*data)(void *arg, const char *p, size_t n);
    void (*end)(void *arg, int result, struct err *e);
};
struct client_stream *client_stream_open(struct client *c, const struct client_request *rq,
                                         const struct client_stream_ops *ops, void *arg);
/* Ends it; no callback runs any more when this returns (from the client's thread: after the current one). */
void client_stream_close(struct client_stream *s);

/* Work on the client's thread: `fn` runs there soon, or not before `delay_ns` from now; at the latest in
 * client_free, so that it can release its `arg`. */
void client_call_later(struct client *c, int64_t delay_ns, void (*fn)(void *arg), void *arg);
bool client_on_thread(const struct client *c);

/* ---- discovery ---- */

struct client_api_resource { /* a row of an APIResourceList */
    const char *group, *version, *plural, *kind;
    bool namespaced;
    uint32_t verbs; /* CLIENT_VERB_* */
};
enum client_verbs {
    CLIENT_VERB_GET = 1,
    CLIENT_VERB_LIST = 2,
    CLIENT_VERB_WATCH = 4,
    CLIENT_VERB_CREATE = 8,
    CLIENT_VERB_UPDATE = 16,
    CLIENT_VERB_PATCH = 32,
    CLIENT_VERB_DELETE = 64,
    CLIENT_VERB_DELETE_COLLECTION = 128
};
struct client_discovery {
    struct client_api_resource *items; /* preferred versions only, no subresources */
    size_t n;
    bool partial; /* a group could not be read: what is missing is unknown */
};
int client_discover(struct client *c, struct arena *a, struct client_discovery *out, struct err *e);
