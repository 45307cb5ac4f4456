#include "pkg/pki/cluster.h"

#include <fcntl.h>
#include <sys/file.h>

#include "pkg/base/bytes.h"

/* A program's kubeconfig names its certificate's files: it takes up a renewed one while it runs. The administrator's
 * carries them, for it is copied to other machines. */
enum kubeconfig { NO_KUBECONFIG, NAMES_FILES, CARRIES_PEM };

static const struct identity {
    const char *name, *cn, *org; /* cn NULL: of the node */
    enum kubeconfig kubeconfig;
} identities[] = {
    {"admin", "kubernetes-admin", "system:masters", CARRIES_PEM},
    {"controller-manager", "system:kube-controller-manager", NULL, NAMES_FILES},
    {"scheduler", "system:kube-scheduler", NULL, NAMES_FILES},
    {"kubelet", NULL, "system:nodes", NAMES_FILES},
    {"proxy", "system:kube-proxy", NULL, NAMES_FILES},
    {"dns", "system:coracle-dns", NULL, NAMES_FILES},
    {"apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters", NO_KUBECONFIG},
};

static char *base64_text(struct arena *a, const char *s) {
    size_t n = strlen(s);
    char *out = arena_alloc(a, base64_encoded_len(n) + 1);
    out[base64_encode(s, n, out)] = 0;
    return out;
}

static char *kubeconfig(struct arena *a, const char *server, const char *ca_pem, const char *user) {
    return arena_printf(a,
                        "apiVersion: v1\nkind: Config\ncurrent-context: coracle\n"
                        "clusters:\n- name: coracle\n  cluster:\n    server: %s\n    certificate-authority-data: %s\n"
                        "contexts:\n- name: coracle\n  context:\n    cluster: coracle\n    user: default\n"
                        "users:\n- name: default\n  user:\n%s",
                        server, base64_text(a, ca_pem), user);
}

char *pki_kubeconfig_token(struct arena *a, const char *server, const char *ca_pem, const char *token) {
    return kubeconfig(a, server, ca_pem, arena_printf(a, "    token: %s\n", token));
}

char *pki_kubeconfig_pair(struct arena *a, const char *server, const char *ca_pem, const struct pki_pair *user) {
    return kubeconfig(a, server, ca_pem,
                      arena_printf(a, "    client-certificate-data: %s\n    client-key-data: %s\n",
                                   base64_text(a, user->cert_pem), base64_text(a, user->key_pem)));
}

static int write_kubeconfig(const struct pki_cluster *c, const struct identity *id, const struct pki_pair *ca,
                            const struct pki_pair *user, struct arena *a, struct err *e) {
    const char *path = arena_printf(a, "%s/%s.kubeconfig", c->data_dir, id->name), *text, *mark;
    if (id->kubeconfig == CARRIES_PEM) {
        text = pki_kubeconfig_pair(a, c->server, ca->cert_pem, user);
        mark = base64_text(a, user->cert_pem);
    } else {
        mark = arena_printf(a, "    client-certificate: pki/%s.crt\n    client-key: pki/%s.key\n", id->name, id->name);
        text = kubeconfig(a, c->server, ca->cert_pem, mark);
    }
    _cleanup_free_ char *old = NULL;
    if (access(path, F_OK) == 0 && file_read(path, 1 << 20, &old, NULL) == 0 &&
        (str_eq(old, text) || (c->keep_kubeconfigs && strstr(old, mark))))
        return 0;
    int r = file_write_quick(path, text, strlen(text), 0600);
    return r < 0 ? err_errno(e, r, "cannot write %s", path) : 0;
}

static int ensure_one(const struct pki_cluster *c, const struct identity *id, const struct pki_pair *ca,
                      struct arena *a, struct err *e) {
    const char *cn = id->cn ? id->cn : arena_printf(a, "system:node:%s", c->node_name);
    struct pki_spec spec = {
        .cn = cn, .orgs = &id->org, .n_orgs = id->org != NULL, .usages = PKI_CLIENT_AUTH, .seconds = c->seconds};
    const char *cert = arena_printf(a, "%s/pki/%s.crt", c->data_dir, id->name);
    const char *key = arena_printf(a, "%s/pki/%s.key", c->data_dir, id->name);
    int r = pki_ensure(ca, &spec, cert, key, NULL, e);
    if (r < 0) return err_wrap(e, "certificate for %s", id->name);
    _cleanup_pki_pair_ struct pki_pair user = {0};
    if (!id->kubeconfig) return 0;
    if ((r = pki_load(cert, key, &user, e)) < 0) return r;
    return write_kubeconfig(c, id, ca, &user, a, e);
}

int pki_cluster_ensure(const struct pki_cluster *c, const struct pki_pair *ca, struct arena *a, struct err *e) {
    int r = 0;
    /* one at a time: an API server and a supervisor may both see that a certificate is due */
    _cleanup_close_ int dir = open(arena_printf(a, "%s/pki", c->data_dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) flock(dir, LOCK_EX);
    for (size_t i = 0; i < ARRAY_LEN(identities) && r == 0; i++)
        if (identities[i].cn || c->node_name) r = ensure_one(c, &identities[i], ca, a, e);
    return r;
}

int64_t pki_cluster_renew_at(const struct pki_cluster *c, struct arena *a) {
    int64_t first = INT64_MAX;
    for (size_t i = 0; i < ARRAY_LEN(identities); i++) {
        const char *path = arena_printf(a, "%s/pki/%s.crt", c->data_dir, identities[i].name);
        _cleanup_free_ char *text = NULL;
        struct pki_info info;
        if (file_read(path, 1 << 20, &text, NULL) == 0 && pki_inspect(a, text, &info, NULL) == 0)
            first = MIN_OF(first, pki_renew_at(&info).sec);
    }
    return first;
}

int pki_front_proxy_ensure(const char *data_dir, int64_t seconds, struct arena *a, struct err *e) {
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    struct pki_spec spec = {.cn = PKI_FRONT_PROXY, .usages = PKI_CLIENT_AUTH, .seconds = seconds};
    int r = pki_ensure_ca(arena_printf(a, "%s/pki/front-proxy-ca.crt", data_dir),
                          arena_printf(a, "%s/pki/front-proxy-ca.key", data_dir), "front-proxy-ca", &ca, e);
    if (r < 0) return err_wrap(e, "the CA of front proxies");
    r = pki_ensure(&ca, &spec, arena_printf(a, "%s/pki/" PKI_FRONT_PROXY ".crt", data_dir),
                   arena_printf(a, "%s/pki/" PKI_FRONT_PROXY ".key", data_dir), NULL, e);
    return r < 0 ? err_wrap(e, "the front proxy's certificate") : 0;
}
