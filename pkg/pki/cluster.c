#include "pkg/pki/cluster.h"

#include "pkg/base/bytes.h"

static const struct identity {
    const char *name, *cn, *org; /* cn NULL: of the node */
    bool kubeconfig;
} identities[] = {
    {"admin", "kubernetes-admin", "system:masters", true},
    {"controller-manager", "system:kube-controller-manager", NULL, true},
    {"scheduler", "system:kube-scheduler", NULL, true},
    {"kubelet", NULL, "system:nodes", true},
    {"proxy", "system:kube-proxy", NULL, true},
    {"dns", "system:coracle-dns", NULL, true},
    {"apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters", false},
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

static int write_kubeconfig(const struct pki_cluster *c, const char *name, const struct pki_pair *ca,
                            const struct pki_pair *user, struct arena *a, struct err *e) {
    const char *path = arena_printf(a, "%s/%s.kubeconfig", c->data_dir, name);
    const char *text = pki_kubeconfig_pair(a, c->server, ca->cert_pem, user);
    _cleanup_free_ char *old = NULL;
    if (access(path, F_OK) == 0 && file_read(path, 1 << 20, &old, NULL) == 0 &&
        (str_eq(old, text) || (c->keep_kubeconfigs && strstr(old, base64_text(a, user->cert_pem)))))
        return 0;
    int r = file_write_quick(path, text, strlen(text), 0600);
    return r < 0 ? err_errno(e, r, "cannot write %s", path) : 0;
}

static int ensure_one(const struct pki_cluster *c, const struct identity *id, const struct pki_pair *ca,
                      struct arena *a, struct err *e) {
    const char *cn = id->cn ? id->cn : arena_printf(a, "system:node:%s", c->node_name);
    struct pki_spec spec = {.cn = cn, .orgs = &id->org, .n_orgs = id->org != NULL, .usages = PKI_CLIENT_AUTH};
    const char *cert = arena_printf(a, "%s/pki/%s.crt", c->data_dir, id->name);
    const char *key = arena_printf(a, "%s/pki/%s.key", c->data_dir, id->name);
    int r = pki_ensure(ca, &spec, cert, key, NULL, e);
    if (r < 0) return err_wrap(e, "certificate for %s", id->name);
    _cleanup_pki_pair_ struct pki_pair user = {0};
    if (!id->kubeconfig) return 0;
    if ((r = pki_load(cert, key, &user, e)) < 0) return r;
    return write_kubeconfig(c, id->name, ca, &user, a, e);
}

int pki_cluster_ensure(const struct pki_cluster *c, const struct pki_pair *ca, struct arena *a, struct err *e) {
    int r = 0;
    for (size_t i = 0; i < ARRAY_LEN(identities) && r == 0; i++)
        if (identities[i].cn || c->node_name) r = ensure_one(c, &identities[i], ca, a, e);
    return r;
}

int pki_front_proxy_ensure(const char *data_dir, struct arena *a, struct err *e) {
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    struct pki_spec spec = {.cn = PKI_FRONT_PROXY, .usages = PKI_CLIENT_AUTH};
    int r = pki_ensure_ca(arena_printf(a, "%s/pki/front-proxy-ca.crt", data_dir),
                          arena_printf(a, "%s/pki/front-proxy-ca.key", data_dir), "front-proxy-ca", &ca, e);
    if (r < 0) return err_wrap(e, "the CA of front proxies");
    r = pki_ensure(&ca, &spec, arena_printf(a, "%s/pki/" PKI_FRONT_PROXY ".crt", data_dir),
                   arena_printf(a, "%s/pki/" PKI_FRONT_PROXY ".key", data_dir), NULL, e);
    return r < 0 ? err_wrap(e, "the front proxy's certificate") : 0;
}
