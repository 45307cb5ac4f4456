/* coracle-apiserver: flags, the loop thread, signals. Alone (`coracle-apiserver --data-dir D`) it makes its own PKI and
 * kubeconfigs under D and keeps its objects in D/state.db. */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "apiserver/admit.h"
#include "apiserver/audit/audit.h"
#include "apiserver/encryption.h"
#include "apiserver/handlers.h"
#include "apiserver/identity.h"
#include "apiserver/kubelet.h"
#include "apiserver/lookup.h"
#include "apiserver/metrics.h"
#include "apiserver/usage/usage.h"
#include "pkg/base/flags.h"
#include "pkg/base/log.h"
#include "pkg/base/memory.h"

enum {
    STOP_GRACE_MS = 2000,
    LONG_CALLS_END_MS = 3000,
    EVENT_TTL_S = 3600,
    BOOTSTRAP_TRIES = 3,
    LOOK_S = 5,
    RETRY_RENEWAL_S = 60
};
enum { AUDIT_EVENT_MAX = 100 * 1024 };
enum { CONNECTIONS_MAX = 100000, FILES_SPARE = 1024 };

struct program {
    struct apiserver_options o, asked; /* asked: before defaults were found out */
    int64_t v;
    struct apiserver *s;
    uv_loop_t loop;
    uv_signal_t term, intr, hup;
    int listener;
    pthread_t boot;
    bool boot_started;
    pthread_mutex_t lock; /* of stop */
    pthread_cond_t cond;
    bool stop;
    struct arena *kept;     /* of the boot thread: lives as long as the server */
    uint64_t files;         /* identity_files of what the listener has loaded */
    int64_t renew_at;       /* seconds since 1970 */
    bool encryption_failed; /* to be reloaded, the last time */
};

/* The flags with their values, for /flagz: none holds a secret. */
static void show_flags(struct program *p, const struct flag *flags) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (const struct flag *f = flags; f->name; f++) {
        if (f->kind == FLAG_IGNORED) continue;
        buf_printf(&b, "%s:", f->name);
        if (f->kind == FLAG_STR) buf_adds(&b, str_or_empty(*(const char **)f->value));
        if (f->kind == FLAG_BOOL) buf_adds(&b, *(bool *)f->value ? "true" : "false");
        if (f->kind == FLAG_INT) buf_printf(&b, "%lld", (long long)*(int64_t *)f->value);
        if (f->kind == FLAG_DURATION) buf_printf(&b, "%llds", (long long)(*(int64_t *)f->value / NS_PER_SEC));
        const struct flag_list *l = f->kind == FLAG_LIST ? f->value : NULL;
        for (size_t i = 0; l && i < l->n; i++) buf_printf(&b, "%s%s", i ? "," : "", l->items[i]);
        buf_addc(&b, '\n');
    }
    p->kept = arena_new();
    p->o.flagz = arena_strndup(p->kept, b.data, b.len);
}

static int parse_flags(struct program *p, int argc, char **argv) {
    struct apiserver_options *o = &p->o;
    const struct flag flags[] = {
        {"data-dir", 0, FLAG_STR, &o->data_dir, "DIR", "where the certificates and the embedded store are kept"},
        {"secure-port", 0, FLAG_INT, &o->secure_port, "PORT", "port to serve HTTPS on"},
        {"bind-address", 0, FLAG_STR, &o->bind_address, "IP", "address to listen on"},
        {"advertise-address", 0, FLAG_STR, &o->advertise_address, "IP",
         "address at which other machines reach this server; default: found out"},
        {"etcd-servers", 0, FLAG_STR, &o->etcd_servers, "URLS",
         "comma-separated etcd endpoints; without it the embedded store is used"},
        {"etcd-cafile", 0, FLAG_STR, &o->etcd_ca, "FILE", "CA of the etcd servers"},
        {"etcd-certfile", 0, FLAG_STR, &o->etcd_cert, "FILE", "client certificate for etcd"},
        {"etcd-keyfile", 0, FLAG_STR, &o->etcd_key, "FILE", "its key"},
        {"encryption-provider-config", 0, FLAG_STR, &o->encryption_config, "FILE",
         "EncryptionConfiguration: which resources are stored encrypted, by aescbc, aesgcm, secretbox or a key "
         "management plugin (kms, v2)"},
        {"encryption-provider-config-automatic-reload", 0, FLAG_BOOL, &o->encryption_reload, NULL,
         "read it again when it has changed"},
        {"tls-cert-file", 0, FLAG_STR, &o->tls_cert, "FILE", "the server's certificate; default: made in DATA-DIR/pki"},
        {"tls-private-key-file", 0, FLAG_STR, &o->tls_key, "FILE", "its key"},
        {"client-ca-file", 0, FLAG_STR, &o->client_ca, "FILE",
         "CA whose client certificates are users; default: made in DATA-DIR/pki"},
        {"service-cluster-ip-range", 0, FLAG_STR, &o->service_cidr, "CIDR", "range of the Services' cluster IPs"},
        {"service-node-port-range", 0, FLAG_STR, &o->node_ports, "A-B", "range of the Services' node ports"},
        {"service-account-key-file", 0, FLAG_STR, &o->sa_key_file, "FILE",
         "public keys that verify service-account tokens"},
        {"service-account-signing-key-file", 0, FLAG_STR, &o->sa_signing_key_file, "FILE",
         "private key that signs them; default: made in DATA-DIR/pki"},
        {"service-account-issuer", 0, FLAG_STR, &o->sa_issuer, "URL", "issuer of the tokens"},
        {"api-audiences", 0, FLAG_STR, &o->api_audiences, "LIST", "audiences of the API; default: the issuer"},
        {"authorization-mode", 0, FLAG_STR, &o->authorization_mode, "LIST",
         "Node, RBAC, AlwaysAllow, AlwaysDeny, Webhook; default Node,RBAC"},
        {"authorization-config", 0, FLAG_STR, &o->authorization_config, "FILE",
         "AuthorizationConfiguration with the authorizers, in place of the mode and the webhook's flags"},
        {"authorization-webhook-config-file", 0, FLAG_STR, &o->authz_webhook_file, "FILE",
         "kubeconfig of the webhook that decides in mode Webhook"},
        {"authorization-webhook-version", 0, FLAG_STR, &o->authz_webhook_version, "VERSION",
         "of the SubjectAccessReview it gets: v1beta1 or v1"},
        {"authorization-webhook-cache-authorized-ttl", 0, FLAG_DURATION, &o->authz_webhook_allowed_ttl_ns, "TIME",
         "how long its \"allowed\" is kept"},
        {"authorization-webhook-cache-unauthorized-ttl", 0, FLAG_DURATION, &o->authz_webhook_denied_ttl_ns, "TIME",
         "how long other answers are kept"},
        {"authentication-token-webhook-config-file", 0, FLAG_STR, &o->authn_webhook_file, "FILE",
         "kubeconfig of a webhook that is asked about tokens nobody else knows"},
        {"authentication-token-webhook-version", 0, FLAG_STR, &o->authn_webhook_version, "VERSION",
         "of the TokenReview it gets: v1beta1 or v1"},
        {"authentication-token-webhook-cache-ttl", 0, FLAG_DURATION, &o->authn_webhook_ttl_ns, "TIME",
         "how long its answers are kept"},
        {"token-auth-file", 0, FLAG_STR, &o->token_auth_file, "FILE",
         "static tokens: token,user,uid,\"groups\" a line"},
        {"anonymous-auth", 0, FLAG_BOOL, &o->anonymous_auth, NULL, "requests without credentials are system:anonymous"},
        {"enable-bootstrap-token-auth", 0, FLAG_BOOL, &o->bootstrap_tokens, NULL,
         "accept tokens of Secrets of type bootstrap.kubernetes.io/token"},
        {"kubelet-client-certificate", 0, FLAG_STR, &o->kubelet_cert, "FILE", "client certificate for kubelets"},
        {"kubelet-client-key", 0, FLAG_STR, &o->kubelet_key, "FILE", "its key"},
        {"kubelet-certificate-authority", 0, FLAG_STR, &o->kubelet_ca, "FILE",
         "CA of the kubelets' serving certificates; default: not verified"},
        {"requestheader-client-ca-file", 0, FLAG_STR, &o->requestheader_ca, "FILE",
         "CA of front proxies; default: made in DATA-DIR/pki"},
        {"requestheader-allowed-names", 0, FLAG_STR, &o->requestheader_names, "LIST",
         "common names of front proxies' certificates; empty: all of the CA"},
        {"requestheader-username-headers", 0, FLAG_STR, &o->requestheader_user, "LIST",
         "headers in which a front proxy names the user"},
        {"requestheader-uid-headers", 0, FLAG_STR, &o->requestheader_uid, "LIST", "and the uid"},
        {"requestheader-group-headers", 0, FLAG_STR, &o->requestheader_group, "LIST", "and the groups"},
        {"requestheader-extra-headers-prefix", 0, FLAG_STR, &o->requestheader_extra, "LIST",
         "prefixes of headers with the user's extra values"},
        {"oidc-issuer-url", 0, FLAG_STR, &o->oidc.issuer, "URL",
         "OpenID Connect provider whose ID tokens are accepted"},
        {"oidc-client-id", 0, FLAG_STR, &o->oidc.client_id, "ID", "audience that its tokens must have"},
        {"oidc-username-claim", 0, FLAG_STR, &o->oidc.username_claim, "CLAIM",
         "claim that names the user; default sub"},
        {"oidc-username-prefix", 0, FLAG_STR, &o->oidc.username_prefix, "TEXT",
         "put before it; default ISSUER#, nothing for the claim email; - is nothing"},
        {"oidc-groups-claim", 0, FLAG_STR, &o->oidc.groups_claim, "CLAIM", "claim with the user's groups"},
        {"oidc-groups-prefix", 0, FLAG_STR, &o->oidc.groups_prefix, "TEXT", "put before each group"},
        {"oidc-required-claim", 0, FLAG_LIST, &o->oidc.required, "KEY=VALUE",
         "claims that a token must have; may be repeated"},
        {"certificate-validity", 0, FLAG_DURATION, &o->certificate_ns, "TIME",
         "how long certificates made in DATA-DIR/pki are good for; they are renewed before; default: a year"},
        {"oidc-signing-algs", 0, FLAG_STR, &o->oidc.algorithms, "LIST",
         "accepted algorithms, of RS256 and ES256; default RS256"},
        {"oidc-ca-file", 0, FLAG_STR, &o->oidc.ca_file, "FILE", "CA of the provider; default: the system's"},
        {"authentication-config", 0, FLAG_STR, &o->authentication_config, "FILE",
         "AuthenticationConfiguration: providers of ID tokens with claim mappings, and who may be anonymous; in place "
         "of --oidc-*"},
        {"proxy-client-cert-file", 0, FLAG_STR, &o->proxy_cert, "FILE",
         "client certificate for aggregated API servers; default: made in DATA-DIR/pki"},
        {"proxy-client-key-file", 0, FLAG_STR, &o->proxy_key, "FILE", "its key"},
        {"enable-aggregator-routing", 0, FLAG_IGNORED, NULL, "BOOL",
         "accepted; aggregated servers are reached at their endpoints"},
        {"event-ttl", 0, FLAG_DURATION, &o->event_ttl_ns, "TIME", "how long Events are kept"},
        {"serve-resource-metrics", 0, FLAG_BOOL, &o->serve_usage, NULL,
         "serve metrics.k8s.io from the kubelets' numbers until a metrics-server is installed"},
        {"unhonoured-resources", 0, FLAG_LIST, &o->unhonoured, "LIST",
         "resources that nothing in the cluster acts on: writing them answers with a Warning"},
        {"audit-policy-file", 0, FLAG_STR, &o->audit_policy_file, "FILE",
         "audit.k8s.io/v1 Policy: which requests are recorded; without it none"},
        {"audit-log-path", 0, FLAG_STR, &o->audit_log_path, "FILE",
         "where they are recorded, a line of JSON each; - is standard output"},
        {"audit-log-maxsize", 0, FLAG_INT, &o->audit_log_maxsize, "MB", "size at which the file is rotated; 0: never"},
        {"audit-log-maxbackup", 0, FLAG_INT, &o->audit_log_maxbackup, "N", "rotated files that are kept; 0: all"},
        {"audit-log-maxage", 0, FLAG_INT, &o->audit_log_maxage, "DAYS",
         "age at which rotated files are removed; 0: never"},
        {"audit-log-mode", 0, FLAG_STR, &o->audit_log_mode, "MODE",
         "blocking: a request goes on when its line is written; blocking-strict: and is refused when it cannot be; "
         "batch: lines are queued, and dropped when there are too many"},
        {"audit-log-compress", 0, FLAG_BOOL, &o->audit_log_compress, NULL, "compress rotated files"},
        {"audit-log-format", 0, FLAG_STR, &o->audit_log_format, "FORMAT", "json, the only one there is"},
        {"audit-log-version", 0, FLAG_IGNORED, NULL, "VERSION", "accepted; events are of audit.k8s.io/v1"},
        {"audit-log-truncate-enabled", 0, FLAG_BOOL, &o->audit_log_truncate, NULL,
         "leave the objects out of large events"},
        {"audit-log-truncate-max-event-size", 0, FLAG_INT, &o->audit_log_event_max, "BYTES",
         "which are larger than this"},
        {"audit-webhook-config-file", 0, FLAG_STR, &o->audit_hook_file, "FILE",
         "kubeconfig of a server that is sent the events"},
        {"audit-webhook-mode", 0, FLAG_STR, &o->audit_hook_mode, "MODE", "batch, the only one there is"},
        {"audit-webhook-version", 0, FLAG_IGNORED, NULL, "VERSION", "accepted; events are of audit.k8s.io/v1"},
        {"audit-webhook-initial-backoff", 0, FLAG_DURATION, &o->audit_hook_backoff_ns, "TIME",
         "pause before a list that could not be sent is tried again"},
        {"audit-webhook-batch-buffer-size", 0, FLAG_INT, &o->audit_hook_queue, "N",
         "events that may wait; what comes then is dropped"},
        {"audit-webhook-batch-max-size", 0, FLAG_INT, &o->audit_hook_batch_size, "N", "events in one list"},
        {"audit-webhook-batch-max-wait", 0, FLAG_DURATION, &o->audit_hook_batch_wait_ns, "TIME",
         "after which a list is sent that is not full"},
        {"audit-webhook-batch-throttle-enable", 0, FLAG_BOOL, &o->audit_hook_throttle, NULL,
         "limit the lists in a second:"},
        {"audit-webhook-batch-throttle-qps", 0, FLAG_INT, &o->audit_hook_qps, "N", "to so many"},
        {"audit-webhook-batch-throttle-burst", 0, FLAG_INT, &o->audit_hook_burst, "N", "and so many at once"},
        {"audit-webhook-truncate-enabled", 0, FLAG_BOOL, &o->audit_hook_truncate, NULL,
         "leave the objects out of large events"},
        {"audit-webhook-truncate-max-event-size", 0, FLAG_INT, &o->audit_hook_event_max, "BYTES",
         "which are larger than this"},
        {"audit-log-batch-buffer-size", 0, FLAG_INT, &o->audit_log_queue, "N",
         "lines that may wait in mode batch; default 10000"},
        {"max-requests-inflight", 0, FLAG_INT, &o->max_inflight, "N",
         "requests that may be worked on at one time, together with the next:"},
        {"max-mutating-requests-inflight", 0, FLAG_INT, &o->max_mutating_inflight, "N",
         "added to it; priority and fairness shares them out"},
        {"enable-admission-plugins", 0, FLAG_IGNORED, NULL, "LIST", "accepted; the default plugins are always on"},
        {"disable-admission-plugins", 0, FLAG_LIST, &o->disabled_plugins, "LIST",
         "ServiceAccount: pods get no account and no token, as where no controllers make accounts"},
        {"profiling", 0, FLAG_IGNORED, NULL, "BOOL", "accepted; there is nothing under /debug/pprof"},
        {"contention-profiling", 0, FLAG_IGNORED, NULL, "BOOL", "accepted"},
        {"enable-logs-handler", 0, FLAG_IGNORED, NULL, "BOOL", "accepted; there is no /logs"},
        {"allow-privileged", 0, FLAG_IGNORED, NULL, "BOOL", "accepted; privileged containers are allowed"},
        {"v", 'v', FLAG_INT, &p->v, "N", "log level: 0 errors and notices, 4 and more everything"},
        {0}};
    int rc = flags_main("coracle-apiserver", "The Kubernetes API server.", flags, argc, argv, 0);
    show_flags(p, flags);
    return rc;
}

static int fail(struct err *e, const char *what) {
    log_error(what, "error", e->msg, NULL);
    return 1;
}

/* ---- running ---- */

/* Sleeps; false when the server stops. */
static bool nap(struct program *p, int seconds) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&p->lock);
    int rc = 0;
    while (!p->stop && !rc) rc = pthread_cond_timedwait(&p->cond, &p->lock, &until);
    bool stop = p->stop;
    pthread_mutex_unlock(&p->lock);
    return !stop;
}

static void bootstrap(struct program *p) {
    for (int i = 0;; i++) {
        _cleanup_err_ struct err e = {0};
        if (bootstrap_run(p->s, &e) == 0) break;
        log_warn("bootstrap objects", "error", e.msg, NULL);
        if (i >= BOOTSTRAP_TRIES) atomic_store(&p->s->ready, true); /* serve with what there is */
        if (!nap(p, 1)) return;
    }
    atomic_store(&p->s->ready, true);
}

/* Certificates that run out, or do not have this machine's present address, are made anew; a new address goes to the
 * Service's endpoints too. */
static int renew(struct program *p, struct arena *a) {
    _cleanup_err_ struct err e = {0};
    struct apiserver_options o = p->asked;
    const char *was = p->s->opt.advertise_address;
    o.advertise_address = str_empty(o.advertise_address) ? identity_address(a, was) : o.advertise_address;
    int r = identity_ensure(&o, a, &e);
    if (r < 0) {
        log_warn("renewing certificates", "error", e.msg, NULL);
        return r;
    }
    if (str_eq(o.advertise_address, was)) return 0;
    log_info("the machine's address has changed", "address", o.advertise_address, NULL);
    p->s->opt.advertise_address = arena_strdup(p->kept, o.advertise_address); /* the old ones may still be read */
    p->s->external_host = arena_printf(p->kept, "%s:%lld", o.advertise_address, (long long)o.secure_port);
    bootstrap(p);
    return 0;
}

/* What this server's certificates and address need while it runs. Files that somebody replaced, this program or another,
 * are taken up by the listener (upstream: dynamiccertificates). A pair of which one half is still the old one does not
 * load: then the old pair goes on serving until the next look. */
static void look_after_identity(struct program *p) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct apiserver_options *o = &p->s->opt;
    int64_t now = ktime_now().sec;
    bool moved = str_empty(p->asked.advertise_address) &&
                 !str_eq(identity_address(a, o->advertise_address), o->advertise_address);
    if (moved || now >= p->renew_at) {
        bool ok = renew(p, a) == 0;
        p->renew_at = identity_renew_at(o);
        if (!ok || p->renew_at <= now) p->renew_at = now + RETRY_RENEWAL_S; /* not ours to renew */
    }
    uint64_t files = identity_files(o);
    if (files == p->files) return;
    _cleanup_err_ struct err e = {0};
    if (http_server_reload_tls(p->s->http, p->listener, &e) < 0) {
        log_warn("reloading certificates", "error", e.msg, NULL);
        return;
    }
    log_info("certificates reloaded", NULL);
    p->files = files;
    p->renew_at = MAX_OF(identity_renew_at(o), now + 1);
}

static void look_after_encryption(struct program *p) {
    _cleanup_err_ struct err e = {0};
    int rc = p->s->encryption ? encryption_reload(p->s->encryption, &e) : 0;
    if (rc < 0 && !p->encryption_failed) log_error("reloading the encryption configuration", "error", e.msg, NULL);
    if (rc > 0) log_info("encryption configuration reloaded", NULL);
    p->encryption_failed = rc < 0;
}

/* Makes the bootstrap objects, then looks after address and certificates. */
static void *boot_thread(void *arg) {
    struct program *p = arg;
    bootstrap(p);
    presence_start(p->s);
    while (nap(p, LOOK_S)) {
        look_after_identity(p);
        look_after_encryption(p);
    }
    return NULL;
}

static void on_stop(uv_signal_t *h, int signum) {
    struct program *p = h->data;
    if (atomic_exchange(&p->s->stopping, true)) return;
    log_info("stopping", NULL);
    watch_hub_close_watches(p->s->watches);
    http_server_stop(p->s->http, STOP_GRACE_MS);
    uv_stop(&p->loop);
}

static void on_hup(uv_signal_t *h, int signum) {
    struct program *p = h->data;
    _cleanup_err_ struct err e = {0};
    if (http_server_reload_tls(p->s->http, p->listener, &e))
        log_warn("reloading certificates", "error", e.msg, NULL);
    else
        log_info("certificates reloaded", NULL);
}

static void watch_signal(struct program *p, uv_signal_t *h, uv_signal_cb cb, int signum) {
    uv_signal_init(&p->loop, h);
    h->data = p;
    uv_signal_start(h, cb, signum);
}

/* As many connections as there may be open files, less what else is opened. Each is a watcher's, say, and costs 25 kB. */
static size_t connections_max(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return 0;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) || getrlimit(RLIMIT_NOFILE, &files)) return 0;
    size_t most = files.rlim_cur > CONNECTIONS_MAX ? CONNECTIONS_MAX : (size_t)files.rlim_cur;
    return most > 2 * FILES_SPARE ? most - FILES_SPARE : 0;
}

static int serve(struct program *p, struct err *e) {
    struct apiserver_options *o = &p->o;
    struct http_server_options ho = {.loop = &p->loop, .handler = apiserver_handle, .over = metrics_over, .arg = p->s};
    ho.limits.connections = connections_max();
    struct http_ca cas[] = {{.file = o->client_ca}, {.file = o->requestheader_ca}};
    struct http_listen l = {.address = o->bind_address,
                            .port = (uint16_t)o->secure_port,
                            .cert_file = o->tls_cert,
                            .key_file = o->tls_key,
                            .client_cas = cas,
                            .n_client_cas = str_empty(o->requestheader_ca) ? 1 : 2};
    p->s->http = http_server_new(&ho);
    p->s->watches = watch_hub_new(p->s, &p->loop);
    admission_start(p->s, &p->loop);
    int rc = http_server_listen(p->s->http, &l, &p->listener, e);
    if (!rc) rc = http_server_start(p->s->http, e);
    if (rc) return rc;
    watch_signal(p, &p->term, on_stop, SIGTERM);
    watch_signal(p, &p->intr, on_stop, SIGINT);
    watch_signal(p, &p->hup, on_hup, SIGHUP);
    p->files = identity_files(o);
    p->renew_at = identity_renew_at(o);
    p->boot_started = pthread_create(&p->boot, NULL, boot_thread, p) == 0;
    housekeeping_start(p->s);
    log_info("serving", "address", p->s->external_host, "version", CORACLE_VERSION, NULL);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    return 0;
}

static void shut_down(struct program *p) {
    struct apiserver *s = p->s;
    atomic_store(&s->stopping, true);
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    if (p->boot_started) pthread_join(p->boot, NULL);
    presence_stop(s);
    uv_signal_t *signals[] = {&p->term, &p->intr, &p->hup};
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        if (signals[i]->data) uv_close((uv_handle_t *)signals[i], NULL);
    admission_stop(s);
    admission_drain(s);
    http_server_free(s->http);
    watch_hub_free(s->watches);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    uv_loop_close(&p->loop);
    usage_free(s->usage);
    if (!apiserver_calls_ended(s, LONG_CALLS_END_MS))
        return; /* somebody still works with it: the process ends anyway */
    kubelet_client_free(s->kubelets);
    apiserver_close(s);
    arena_free(p->kept);
}

int main(int argc, char **argv) {
    struct program p = {.v = 2,
                        .o = {.data_dir = "/var/lib/coracle",
                              .bind_address = "0.0.0.0",
                              .secure_port = 6443,
                              .service_cidr = "10.96.0.0/16",
                              .node_ports = "30000-32767",
                              .sa_issuer = "https://kubernetes.default.svc",
                              .audit_log_maxsize = 100,
                              .audit_log_maxbackup = 100,
                              .audit_log_maxage = 366,
                              .audit_log_event_max = AUDIT_EVENT_MAX,
                              .audit_hook_queue = AUDIT_QUEUE,
                              .audit_hook_batch_size = 400,
                              .audit_hook_batch_wait_ns = 30 * NS_PER_SEC,
                              .audit_hook_throttle = true,
                              .audit_hook_qps = 10,
                              .audit_hook_burst = 15,
                              .audit_hook_backoff_ns = 10 * NS_PER_SEC,
                              .audit_hook_event_max = AUDIT_EVENT_MAX,
                              .authn_webhook_version = "v1beta1",
                              .authn_webhook_ttl_ns = 120 * NS_PER_SEC,
                              .authz_webhook_version = "v1beta1",
                              .authz_webhook_allowed_ttl_ns = 300 * NS_PER_SEC,
                              .authz_webhook_denied_ttl_ns = 30 * NS_PER_SEC,
                              .anonymous_auth = true,
                              .bootstrap_tokens = true,
                              .requestheader_user = "X-Remote-User",
                              .requestheader_uid = "X-Remote-Uid",
                              .requestheader_group = "X-Remote-Group",
                              .requestheader_extra = "X-Remote-Extra-",
                              .max_inflight = 128,
                              .max_mutating_inflight = 64,
                              .event_ttl_ns = EVENT_TTL_S * NS_PER_SEC}};
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    parse_flags(&p, argc, argv);
    log_init("apiserver", p.v >= 4 ? LOG_DEBUG : p.v >= 1 ? LOG_INFO : LOG_WARN);
    memory_keep_small();
    signal(SIGPIPE, SIG_IGN);
    p.asked = p.o;
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.cond, NULL);
    if (str_empty(p.o.advertise_address)) p.o.advertise_address = identity_address(a, NULL);
    if (identity_ensure(&p.o, a, &e)) return fail(&e, "cannot make the certificates");
    if (apiserver_open(&p.o, &p.s, &e)) return fail(&e, "cannot start");
    p.s->external_host = arena_printf(p.kept, "%s:%lld", p.o.advertise_address, (long long)p.o.secure_port);
    p.s->openapi = openapi_new();
    if (kubelet_client_new(&p.o, &p.s->kubelets, &e)) return fail(&e, "the client for kubelets");
    if (p.o.serve_usage) {
        p.s->usage = usage_new(p.s);
        usage_serve(p.s->usage, p.s->aggregator);
    }
    uv_loop_init(&p.loop);
    int rc = serve(&p, &e);
    shut_down(&p);
    flag_list_done(&p.o.unhonoured);
    flag_list_done(&p.o.disabled_plugins);
    flag_list_done(&p.o.oidc.required);
    return rc ? fail(&e, "cannot serve") : 0;
}
