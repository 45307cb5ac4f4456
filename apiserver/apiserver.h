/* An API server: the instance that everything in this folder works on. There is no other state: several may live in
 * one process. */
#pragma once

#include <pthread.h>

#include "apiserver/listcache.h"
#include "apiserver/oidc.h"
#include "apiserver/resource.h"
#include "apiserver/rules/strategy.h"
#include "apiserver/watchcache.h"
#include "pkg/base/flags.h"
#include "pkg/http/server.h"
#include "pkg/store/store.h"

struct encryption;
struct jwt_keys;
struct jwt_signer;
struct authn;
struct authz;
struct housekeeping;
struct presence;
struct servicealloc_state;
struct follower;
struct openapi;
struct audit;
struct kubelet_client;
struct watch_hub;
struct crd_registry;
struct aggregator;
struct usage;
struct admission;
struct metrics;
struct health;

/* What the flags say (main.c has the table). Strings live as long as the server. */
struct apiserver_options {
    const char *data_dir;
    const char *bind_address, *advertise_address;
    int64_t secure_port;
    const char *etcd_servers, *etcd_ca, *etcd_cert, *etcd_key;
    const char *tls_cert, *tls_key, *client_ca;
    int64_t certificate_ns; /* how long certificates made here are good for; 0: a year */
    const char *service_cidr, *node_ports;
    const char *sa_key_file, *sa_signing_key_file, *sa_issuer, *api_audiences;
    const char *authorization_mode, *authorization_config, *token_auth_file;
    const char *authentication_config, *encryption_config;
    const char *authn_webhook_file, *authn_webhook_version, *authz_webhook_file, *authz_webhook_version;
    bool encryption_reload; /* the configuration is read again when it has changed */
    int64_t authn_webhook_ttl_ns, authz_webhook_allowed_ttl_ns, authz_webhook_denied_ttl_ns;
    bool anonymous_auth, bootstrap_tokens;
    const char *kubelet_cert, *kubelet_key, *kubelet_ca;
    /* front proxies: their CA, and comma-separated lists of common names and header names */
    const char *requestheader_ca, *requestheader_names, *requestheader_user, *requestheader_uid, *requestheader_group;
    const char *requestheader_extra;
    struct oidc_config oidc;
    const char *proxy_cert, *proxy_key; /* this server's as a front proxy of aggregated ones */
    int64_t event_ttl_ns;
    struct flag_list disabled_plugins; /* of admission; only ServiceAccount can be */
    struct flag_list unhonoured;       /* "networkpolicies", ...: stored, but nothing in this cluster acts on them */
    bool serve_usage;                  /* metrics.k8s.io */
    const char *audit_policy_file, *audit_log_path, *audit_log_mode;
    const char *audit_log_format, *audit_hook_file, *audit_hook_mode;
    int64_t audit_log_maxsize, audit_log_maxbackup, audit_log_maxage, audit_log_queue, audit_log_event_max;
    int64_t audit_hook_queue, audit_hook_batch_size, audit_hook_batch_wait_ns, audit_hook_qps, audit_hook_burst;
    int64_t audit_hook_backoff_ns, audit_hook_event_max;
    bool audit_log_compress, audit_log_truncate, audit_hook_throttle, audit_hook_truncate;
    const char *flagz;                           /* the flags' names and values, a line each: what /flagz shows */
    int64_t max_inflight, max_mutating_inflight; /* their sum is the number of seats */
};

enum { WRITE_QUEUES = 64 }; /* write.h */

struct apiserver {
    struct apiserver_options opt;
    struct store *store;
    struct encryption *encryption; /* NULL: nothing is encrypted */
    bool embedded;                 /* the store's current revision is known without a round trip */
    struct resource_table *resources;
    struct rbytes *event_end; /* "}\n" */
    struct watchcache *cache;
    struct aggregator *aggregator; /* aggregator/aggregator.h */
    struct usage *usage;           /* usage/usage.h; NULL: not served */
    struct crd_registry *crds;     /* crd/registry.h */
    struct listcache *lists;
    struct rules *rules;
    struct jwt_keys *keys; /* of service-account tokens; NULL: none */
    struct jwt_signer *signer;
    const char **audiences; /* API audiences */
    size_t n_audiences;
    struct authn *authn;
    struct oidc *oidc; /* NULL: no OpenID Connect */
    struct token_webhook *token_webhook;
    struct authz *authz;
    struct follower *auth_feed, *conditions;
    struct late_pods *late_pods; /* authenticate.c */
    _Atomic(struct housekeeping *) housekeeping;
    struct presence *presence;
    struct servicealloc_state *service_repair;
    struct openapi *openapi;
    struct audit *audit; /* NULL: no audit policy */
    struct http_server *http;
    struct http_workers *workers;
    struct metrics *metrics;
    struct health *health;
    struct admission *admission; /* admit.h */
    struct watch_hub *watches;
    struct kubelet_client *kubelets;
    const char *external_host; /* "10.0.0.10:6443": in discovery and the issuer's documents; the opener's */
    int64_t started_ns;
    pthread_mutex_t write_queues[WRITE_QUEUES], quota_queues[WRITE_QUEUES];
    _Atomic int long_calls, passed_calls;
    _Atomic int64_t compacted_rev; /* history before it is gone: tokens of lists from then have expired */
    _Atomic bool ready, stopping;
};

/* Opens store, caches and rules, makes the bootstrap objects; the HTTP side is main.c's. */
int apiserver_open(const struct apiserver_options *o, struct apiserver **out, struct err *e);
void apiserver_close(struct apiserver *s); /* NULL-safe */
/* Waits until no call has a thread of its own any more (log, exec, aggregated servers); false when that takes longer. */
bool apiserver_calls_ended(struct apiserver *s, int timeout_ms);

/* The handler to give to http_server_new, with the apiserver as its argument. */
void apiserver_handle(struct http_req *r, void *arg);
