/* See bootstrap.h. */
#include "kubelet/bootstrap.h"

#include <sys/stat.h>

#include "pkg/api/certificates.h"
#include "pkg/base/bytes.h"
#include "pkg/pki/pki.h"
#include "pkg/yaml/yaml.h"

enum { POLL_MS = 500, CSR_WAIT_S = 900, CHECK_S = 600, LOOK_S = 10, RETRY_MAX_S = 300, MAX_FILE = 1024 * 1024 };
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

/* Certificate and key in one file: they are replaced together, by a rename. */
static int save_pem(const struct kubelet_config *cfg, const char *path, const struct pki_pair *pair, struct err *e) {
    _cleanup_free_ char *both = xasprintf("%s\n%s", pair->cert_pem, pair->key_pem);
    int r = mkdir_p(cfg->cert_dir, 0700);
    if (r == 0) r = file_write_atomic(path, both, strlen(both), 0600);
    return r < 0 ? err_errno(e, r, "write %s", path) : 0;
}

static int request_client_cert(const struct kubelet_config *cfg, const char *node_name, struct client *c,
                               const _Atomic bool *stop, struct err *e) {
    static const char *const usages[] = {"digital signature", "client auth"};
    static const char *const orgs[] = {"system:nodes"};
    _cleanup_free_ char *cn = xasprintf("system:node:%s", node_name), *path = client_pem(cfg);
    _cleanup_pki_pair_ struct pki_pair pair = {0};
    struct csr_wish w = {.signer = CLIENT_SIGNER, .usages = usages, .n_usages = ARRAY_LEN(usages)};
    w.spec = (struct pki_spec){.cn = cn, .orgs = orgs, .n_orgs = 1};
    int r = request_certificate(c, &w, stop, &pair, e);
    return r < 0 ? r : save_pem(cfg, path, &pair, e);
}

/* What the file's certificate says of its life; false without one. */
static bool life_of(const char *path, struct pki_info *info) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *text = NULL;
    return file_read(path, MAX_FILE, &text, NULL) == 0 && pki_inspect(a, text, info, NULL) == 0;
}

static bool ended(const struct pki_info *info) { return ktime_cmp(ktime_now(), info->not_after) >= 0; }

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

/* The certificate is of the cluster that the bootstrap kubeconfig is for now: the node may have moved to another. */
static bool of_this_cluster(const struct kubelet_config *cfg, const char *pem) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *cert = NULL;
    struct client_config c;
    if (client_config_from_kubeconfig(a, cfg->bootstrap_kubeconfig, &c, NULL) < 0 || !c.ca_data) return true;
    return file_read(pem, MAX_FILE, &cert, NULL) < 0 || pki_issued_by(cert, c.ca_data);
}

int bootstrap_kubeconfig(const struct kubelet_config *cfg, const char *node_name, struct err *e) {
    if (str_empty(cfg->bootstrap_kubeconfig)) return 0;
    if (str_empty(cfg->kubeconfig)) return err_set(e, -EINVAL, "--bootstrap-kubeconfig needs --kubeconfig to write to");
    _cleanup_free_ char *pem = client_pem(cfg);
    struct pki_info info;
    bool have = access(cfg->kubeconfig, R_OK) == 0, ours = access(pem, F_OK) == 0;
    if (have && !ours) return 0; /* put there by somebody else: used as it is */
    /* One of ours is written again: the server's address may be another. That its certificate has ended in the meantime is
     * no reason to wait here: the node runs the pods it had, and a new one is asked for beside that. */
    bool usable = life_of(pem, &info) && of_this_cluster(cfg, pem);
    if (have && usable) return write_kubeconfig(cfg, e);
    if (!usable || ended(&info)) {
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

static char *serving_pem(const struct kubelet_config *cfg) {
    return xasprintf("%s/kubelet-server-current.pem", cfg->cert_dir);
}

int bootstrap_serving_cert(const struct kubelet_config *cfg, const char *node_name, const char *const *ips,
                           size_t n_ips, char **cert_file, char **key_file, struct err *e) {
    _cleanup_free_ char *issued = serving_pem(cfg);
    struct pki_info info;
    if (!str_empty(cfg->tls_cert_file) && !str_empty(cfg->tls_key_file)) {
        *cert_file = xstrdup(cfg->tls_cert_file);
        *key_file = xstrdup(cfg->tls_key_file);
        return 0;
    }
    if (cfg->serving_bootstrap && life_of(issued, &info) && !ended(&info)) {
        *cert_file = xstrdup(issued);
        *key_file = xstrdup(issued);
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

static int64_t seconds_left(const char *path) {
    struct pki_info info;
    return life_of(path, &info) ? info.not_after.sec - ktime_now().sec : INT64_MIN;
}

void bootstrap_lives(const struct kubelet_config *cfg, int64_t *client, int64_t *serving) {
    _cleanup_free_ char *c = client_pem(cfg), *s = serving_pem(cfg);
    *client = seconds_left(c);
    *serving = seconds_left(s);
}

/* ---- rotation: a thread each, for a request that nobody approves must not hold the other up ---- */

struct cert_rotation {
    struct kubelet *kl;
    void (*changed)(void *arg, bool serving, const char *pem_file);
    void *arg;
    pthread_t client, serving;
    bool client_runs, serving_runs;
    _Atomic bool stop;
};

/* Sleeps until the certificate is due, but looks again after CHECK_S: clocks are set, files replaced. */
static void sleep_until(struct cert_rotation *c, struct ktime due) {
    int64_t left = due.sec - ktime_now().sec;
    kubelet_sleep(c->kl, MIN_OF(MAX_OF(left, (int64_t)1), (int64_t)CHECK_S) * NS_PER_SEC);
}

/* Waits longer after each failure. */
static void sleep_after_failure(struct cert_rotation *c, int64_t *delay_s) {
    *delay_s = *delay_s ? MIN_OF(*delay_s * 2, (int64_t)RETRY_MAX_S) : 1;
    kubelet_sleep(c->kl, *delay_s * NS_PER_SEC);
}

/* With the certificate itself while it is good; one that has ended is of no use, and the bootstrap token is asked. */
static int renew_client(struct cert_rotation *c, const struct pki_info *info, struct err *e) {
    const struct kubelet_config *cfg = &c->kl->cfg;
    if (!ended(info) || str_empty(cfg->bootstrap_kubeconfig))
        return request_client_cert(cfg, c->kl->node_name, c->kl->client, &c->stop, e);
    struct client_config base = {.user_agent = "coracle-kubelet"};
    _cleanup_client_ struct client *boot = NULL;
    int r = client_new_from_kubeconfig(cfg->bootstrap_kubeconfig, &base, &boot, e);
    if (r == 0) r = request_client_cert(cfg, c->kl->node_name, boot, &c->stop, e);
    return r < 0
               ? err_wrap(e, "the certificate has ended, and a new one is asked for with %s", cfg->bootstrap_kubeconfig)
               : 0;
}

static void *client_thread(void *arg) {
    struct cert_rotation *c = arg;
    _cleanup_free_ char *pem = client_pem(&c->kl->cfg);
    struct pki_info info;
    int64_t delay = 0;
    while (!c->stop && life_of(pem, &info)) {
        _cleanup_err_ struct err e = {0};
        struct ktime due = pki_renew_at(&info);
        if (ktime_cmp(ktime_now(), due) < 0) {
            sleep_until(c, due);
            continue;
        }
        if (renew_client(c, &info, &e) < 0) {
            log_warn("cannot renew the client certificate", "error", e.msg, NULL);
            sleep_after_failure(c, &delay);
            continue;
        }
        delay = 0;
        log_info("the client certificate was renewed", NULL);
        c->changed(c->arg, false, pem);
    }
    return NULL;
}

/* Why another serving certificate is to be asked for; NULL: the one there is will do until *due. */
static const char *serving_reason(const char *pem, const struct pki_spec *spec, struct ktime *due) {
    struct pki_pair have = {0};
    struct pki_info info;
    if (!life_of(pem, &info) || pki_load(pem, pem, &have, NULL) < 0) return "there is none";
    const char *why = pki_renewal_reason(&have, NULL, spec);
    pki_pair_done(&have);
    *due = pki_renew_at(&info);
    return why;
}

static int request_serving_cert(struct cert_rotation *c, const struct pki_spec *spec, const char *path, struct err *e) {
    static const char *const usages[] = {"digital signature", "server auth"};
    struct csr_wish w = {.signer = SERVING_SIGNER, .spec = *spec, .usages = usages, .n_usages = ARRAY_LEN(usages)};
    _cleanup_pki_pair_ struct pki_pair pair = {0};
    int r = request_certificate(c->kl->client, &w, &c->stop, &pair, e);
    return r < 0 ? r : save_pem(&c->kl->cfg, path, &pair, e);
}

/* The files as they were last seen: a number that differs once one of them was replaced. */
static int64_t file_marks(const struct kubelet_config *cfg) {
    const char *files[] = {cfg->tls_cert_file, cfg->tls_key_file, cfg->client_ca_file};
    int64_t h = 0;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct stat st;
        if (!str_empty(files[i]) && stat(files[i], &st) == 0)
            h = h * 31 + (int64_t)st.st_mtim.tv_sec * NS_PER_SEC + st.st_mtim.tv_nsec + (int64_t)st.st_ino;
    }
    return h;
}

/* One look; false after a failure. *wait gets the seconds to the next. */
static bool look_at_serving(struct cert_rotation *c, int64_t *wait) {
    struct kubelet *kl = c->kl;
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    size_t n;
    const char *const *ips = kubelet_host_ips(kl, a, &n);
    _cleanup_free_ char *pem = serving_pem(&kl->cfg), *cert = NULL, *key = NULL, *before = NULL, *after = NULL;
    if (!str_empty(kl->cfg.tls_cert_file)) return true;
    if (kl->cfg.serving_bootstrap && kl->client) {
        struct pki_spec spec = serving_spec(a, kl->node_name, ips, n);
        struct ktime due = {0};
        const char *why = serving_reason(pem, &spec, &due);
        if (why) log_info("asking for a serving certificate", "reason", why, NULL);
        if (why && request_serving_cert(c, &spec, pem, &e) < 0) {
            log_warn("cannot get a serving certificate", "error", e.msg, NULL);
            return false;
        }
        if (why) c->changed(c->arg, true, pem);
        if (!why) *wait = MIN_OF(*wait, MAX_OF(due.sec - ktime_now().sec, 1));
        return true;
    }
    _cleanup_free_ char *path = xasprintf("%s/kubelet.crt", kl->cfg.cert_dir);
    file_read(path, MAX_FILE, &before, NULL);
    if (bootstrap_serving_cert(&kl->cfg, kl->node_name, ips, n, &cert, &key, &e) < 0) {
        log_warn("cannot renew the serving certificate", "error", e.msg, NULL);
        return false;
    }
    if (file_read(path, MAX_FILE, &after, NULL) == 0 && !str_eq(before, after)) c->changed(c->arg, true, NULL);
    return true;
}

static void *serving_thread(void *arg) {
    struct cert_rotation *c = arg;
    int64_t delay = 0, marks = file_marks(&c->kl->cfg);
    while (!c->stop) {
        int64_t wait = LOOK_S, now = file_marks(&c->kl->cfg);
        if (now != marks) c->changed(c->arg, true, NULL);
        marks = now;
        if (!look_at_serving(c, &wait)) {
            sleep_after_failure(c, &delay);
            continue;
        }
        delay = 0;
        kubelet_sleep(c->kl, wait * NS_PER_SEC);
    }
    return NULL;
}

struct cert_rotation *cert_rotation_start(struct kubelet *kl,
                                          void (*changed)(void *arg, bool serving, const char *pem_file), void *arg) {
    struct cert_rotation *c = xcalloc(1, sizeof(*c));
    c->kl = kl;
    c->changed = changed;
    c->arg = arg;
    if (kl->cfg.rotate_certificates && kl->client)
        c->client_runs = kubelet_thread(&c->client, client_thread, c, false) == 0;
    if (kl->cfg.port) c->serving_runs = kubelet_thread(&c->serving, serving_thread, c, false) == 0;
    return c;
}

void cert_rotation_stop(struct cert_rotation *c) {
    if (!c) return;
    c->stop = true; /* the kubelet itself is stopping: its sleeps end */
    if (c->client_runs) pthread_join(c->client, NULL);
    if (c->serving_runs) pthread_join(c->serving, NULL);
    free(c);
}
