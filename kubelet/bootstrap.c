/* See bootstrap.h. */
#include "kubelet/bootstrap.h"

#include <sys/stat.h>

#include "pkg/api/certificates.h"
#include "pkg/base/bytes.h"
#include "pkg/pki/pki.h"
#include "pkg/yaml/yaml.h"

enum { POLL_MS = 500, CSR_WAIT_S = 900, CHECK_S = 600, MAX_FILE = 1024 * 1024 };
#define CLIENT_SIGNER "kubernetes.io/kube-apiserver-client-kubelet"
#define SERVING_SIGNER "kubernetes.io/kubelet-serving"

struct csr_wish {
    const char *signer;
    struct pki_spec spec;
    const char *const *usages;
    size_t n_usages;
};

static bool condition(const struct certificates_certificate_signing_request *csr, const char *type,
                      const char **message) {
    for (size_t i = 0; i < csr->status.conditions.n; i++)
        if (str_eq(csr->status.conditions.items[i].type, type)) {
            *message = str_or_empty(csr->status.conditions.items[i].message);
            return true;
        }
    return false;
}

/* Asks and waits. *pair gets a new key and the signed certificate. */
static int request_certificate(struct client *c, const struct csr_wish *w, const _Atomic bool *stop,
                               struct pki_pair *pair, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    char *request = NULL;
    int r = pki_key_new("EC", &pair->key_pem, e);
    if (r == 0) r = pki_csr_new(pair->key_pem, &w->spec, &request, e);
    if (r < 0) return r;
    struct certificates_certificate_signing_request csr = {0}, made = {0};
    csr.metadata.generate_name = "csr-";
    csr.spec.signer_name = w->signer;
    csr.spec.request = (struct bytes){(const uint8_t *)request, strlen(request)};
    csr.spec.usages = (struct str_vec){(const char **)(uintptr_t)w->usages, w->n_usages};
    r = client_create(c, a, &client_certificatesigningrequests, NULL, &csr, NULL, &made, e);
    free(request);
    if (r < 0) return err_wrap(e, "ask for a certificate");
    log_info("waiting for a certificate", "csr", made.metadata.name, "signer", w->signer, NULL);
    for (int64_t end = mono_ns() + CSR_WAIT_S * NS_PER_SEC; mono_ns() < end && !(stop && *stop);) {
        struct certificates_certificate_signing_request now = {0};
        const char *why;
        r = client_get(c, a, &client_certificatesigningrequests, NULL, made.metadata.name, &now, e);
        if (r < 0 && e && e->status) return r;
        if (r == 0 && condition(&now, "Denied", &why))
            return err_set(e, -EACCES, "the certificate was denied: %s", why);
        if (r == 0 && condition(&now, "Failed", &why))
            return err_set(e, -EIO, "the certificate could not be signed: %s", why);
        if (r == 0 && now.status.certificate.n) {
            pair->cert_pem = xstrndup((const char *)now.status.certificate.p, now.status.certificate.n);
            return 0;
        }
        err_done(e);
        usleep(POLL_MS * 1000);
    }
    return err_set(e, -ETIMEDOUT, "certificate signing request %s was not signed in time", made.metadata.name);
}

/* ---- the client certificate ---- */

static char *client_pem(const struct kubelet_config *cfg) {
    return xasprintf("%s/kubelet-client-current.pem", cfg->cert_dir);
}

static int request_client_cert(const struct kubelet_config *cfg, const char *node_name, struct client *c,
                               const _Atomic bool *stop, struct err *e) {
    static const char *const usages[] = {"digital signature", "client auth"};
    static const char *const orgs[] = {"system:nodes"};
    _cleanup_free_ char *cn = xasprintf("system:node:%s", node_name), *path = client_pem(cfg), *both = NULL;
    _cleanup_pki_pair_ struct pki_pair pair = {0};
    struct csr_wish w = {.signer = CLIENT_SIGNER, .usages = usages, .n_usages = ARRAY_LEN(usages)};
    w.spec = (struct pki_spec){.cn = cn, .orgs = orgs, .n_orgs = 1};
    int r = request_certificate(c, &w, stop, &pair, e);
    if (r < 0) return r;
    r = mkdir_p(cfg->cert_dir, 0700);
    both = xasprintf("%s\n%s", pair.cert_pem, pair.key_pem);
    if (r == 0) r = file_write_atomic(path, both, strlen(both), 0600);
    return r < 0 ? err_errno(e, r, "write %s", path) : 0;
}

/* A certificate that is still good for a while. */
static bool good(const char *path) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *text = NULL;
    struct pki_info info;
    if (file_read(path, MAX_FILE, &text, NULL) < 0 || pki_inspect(a, text, &info, NULL) < 0) return false;
    return ktime_cmp(ktime_now(), info.not_after) < 0;
}

/* The bootstrap kubeconfig with our certificate in place of the token. */
static int write_kubeconfig(const struct kubelet_config *cfg, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *pem = client_pem(cfg);
    struct json *doc, *u;
    int r = yaml_read_file(a, cfg->bootstrap_kubeconfig, MAX_FILE, &doc, e);
    if (r < 0) return r;
    JSON_FOREACH(u, json_get(doc, "users")) {
        struct json *user = json_object(a);
        json_set_str(a, user, "client-certificate", pem);
        json_set_str(a, user, "client-key", pem);
        json_set(a, u, "user", user);
    }
    _cleanup_buf_ struct buf b = BUF_INIT;
    r = yaml_write(&b, doc, e);
    if (r == 0) {
        r = file_write_atomic(cfg->kubeconfig, b.data, b.len, 0600);
        if (r < 0) err_errno(e, r, "write %s", cfg->kubeconfig);
    }
    return r;
}

int bootstrap_kubeconfig(const struct kubelet_config *cfg, const char *node_name, struct err *e) {
    if (str_empty(cfg->bootstrap_kubeconfig)) return 0;
    if (str_empty(cfg->kubeconfig)) return err_set(e, -EINVAL, "--bootstrap-kubeconfig needs --kubeconfig to write to");
    _cleanup_free_ char *pem = client_pem(cfg);
    /* A kubeconfig that was put there by somebody else is used as it is. */
    bool have = access(cfg->kubeconfig, R_OK) == 0;
    if (have && (access(pem, F_OK) < 0 || good(pem))) return 0;
    if (!good(pem)) {
        struct client_config base = {.user_agent = "coracle-kubelet"};
        _cleanup_client_ struct client *c = NULL;
        int r = client_new_from_kubeconfig(cfg->bootstrap_kubeconfig, &base, &c, e);
        for (;;) {
            if (r == 0) r = request_client_cert(cfg, node_name, c, NULL, e);
            if (r == 0) break;
            if (!c || (e && e->status && e->status < 500)) return r;
            log_warn("cannot get a client certificate yet", "error", e ? e->msg : "", NULL);
            err_done(e);
            usleep(POLL_MS * 2000);
            r = 0;
        }
    }
    return write_kubeconfig(cfg, e);
}

/* ---- the serving certificate ---- */

static struct pki_spec serving_spec(struct arena *a, const char *node_name, const char *const *ips, size_t n_ips) {
    static const char *const orgs[] = {"system:nodes"};
    const char **sans = arena_alloc(a, (n_ips + 1) * sizeof(*sans));
    sans[0] = node_name;
    for (size_t i = 0; i < n_ips; i++) sans[i + 1] = ips[i];
    return (struct pki_spec){.cn = arena_printf(a, "system:node:%s", node_name),
                             .orgs = orgs,
                             .n_orgs = 1,
                             .sans = sans,
                             .n_sans = n_ips + 1,
                             .usages = PKI_SERVER_AUTH};
}

int bootstrap_serving_cert(const struct kubelet_config *cfg, const char *node_name, const char *const *ips,
                           size_t n_ips, char **cert_file, char **key_file, struct err *e) {
    if (!str_empty(cfg->tls_cert_file) && !str_empty(cfg->tls_key_file)) {
        *cert_file = xstrdup(cfg->tls_cert_file);
        *key_file = xstrdup(cfg->tls_key_file);
        return 0;
    }
    _cleanup_arena_ struct arena *a = arena_new();
    *cert_file = xasprintf("%s/kubelet.crt", cfg->cert_dir);
    *key_file = xasprintf("%s/kubelet.key", cfg->cert_dir);
    int r = mkdir_p(cfg->cert_dir, 0700);
    if (r < 0) return err_errno(e, r, "make %s", cfg->cert_dir);
    struct pki_spec spec = serving_spec(a, node_name, ips, n_ips);
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    struct pki_pair have = {0};
    if (pki_load(*cert_file, *key_file, &have, NULL) == 0) {
        bool keep = !pki_renewal_reason(&have, NULL, &spec);
        pki_pair_done(&have);
        if (keep) return 0;
    }
    /* Self-signed: a CA of one certificate that nobody keeps the key of. */
    _cleanup_free_ char *ca_name = xasprintf("%s-ca", node_name);
    r = pki_ca_new(ca_name, 0, &ca, e);
    return r < 0 ? r : pki_ensure(&ca, &spec, *cert_file, *key_file, NULL, e);
}

/* ---- rotation ---- */

struct cert_rotation {
    struct kubelet *kl;
    void (*changed)(void *arg, bool serving);
    void *arg;
    pthread_t thread;
    bool running;
    _Atomic bool stop;
};

/* True when 80% of its life is over. */
static bool aging(const char *path) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *text = NULL;
    struct pki_info i;
    if (file_read(path, MAX_FILE, &text, NULL) < 0 || pki_inspect(a, text, &i, NULL) < 0) return false;
    int64_t life = i.not_after.sec - i.not_before.sec;
    return ktime_now().sec > i.not_before.sec + life * 8 / 10;
}

static void renew_client(struct cert_rotation *c) {
    _cleanup_free_ char *pem = client_pem(&c->kl->cfg);
    _cleanup_err_ struct err e = {0};
    if (!c->kl->cfg.rotate_certificates || !c->kl->client || !aging(pem)) return;
    if (request_client_cert(&c->kl->cfg, c->kl->node_name, c->kl->client, &c->stop, &e) < 0)
        log_warn("cannot renew the client certificate", "error", e.msg, NULL);
    else
        c->changed(c->arg, false);
}

/* Asked of the cluster when configured; else self-signed anew when it ages or the machine's addresses change.
 */
static void renew_serving(struct cert_rotation *c, bool first) {
    struct kubelet *kl = c->kl;
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    _cleanup_free_ char *cert = NULL, *key = NULL, *before = NULL, *after = NULL;
    size_t n;
    const char *const *ips = kubelet_host_ips(kl, a, &n);
    if (!str_empty(kl->cfg.tls_cert_file)) return;
    _cleanup_free_ char *path = xasprintf("%s/kubelet.crt", kl->cfg.cert_dir),
                        *key_path = xasprintf("%s/kubelet.key", kl->cfg.cert_dir);
    file_read(path, MAX_FILE, &before, NULL);
    if (kl->cfg.serving_bootstrap && kl->client && (first || aging(path))) {
        static const char *const usages[] = {"digital signature", "server auth"};
        struct csr_wish w = {.signer = SERVING_SIGNER,
                             .spec = serving_spec(a, kl->node_name, ips, n),
                             .usages = usages,
                             .n_usages = ARRAY_LEN(usages)};
        _cleanup_pki_pair_ struct pki_pair pair = {0};
        if (request_certificate(kl->client, &w, &c->stop, &pair, &e) < 0 || pki_save(path, key_path, &pair, &e) < 0) {
            log_warn("cannot get a serving certificate", "error", e.msg, NULL);
            return;
        }
    } else if (!kl->cfg.serving_bootstrap &&
               bootstrap_serving_cert(&kl->cfg, kl->node_name, ips, n, &cert, &key, &e) < 0) {
        log_warn("cannot renew the serving certificate", "error", e.msg, NULL);
        return;
    }
    if (file_read(path, MAX_FILE, &after, NULL) == 0 && !str_eq(before, after)) c->changed(c->arg, true);
}

static void *rotation_thread(void *arg) {
    struct cert_rotation *c = arg;
    for (bool first = true; !c->stop; first = false) {
        renew_client(c);
        renew_serving(c, first);
        kubelet_sleep(c->kl, CHECK_S * NS_PER_SEC);
    }
    return NULL;
}

struct cert_rotation *cert_rotation_start(struct kubelet *kl, void (*changed)(void *arg, bool serving), void *arg) {
    struct cert_rotation *c = xcalloc(1, sizeof(*c));
    c->kl = kl;
    c->changed = changed;
    c->arg = arg;
    c->running = kubelet_thread(&c->thread, rotation_thread, c, false) == 0;
    return c;
}

void cert_rotation_stop(struct cert_rotation *c) {
    if (!c) return;
    c->stop = true; /* the kubelet itself is stopping: its sleeps end */
    if (c->running) pthread_join(c->thread, NULL);
    free(c);
}
