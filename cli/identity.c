#include "cli/identity.h"

#include "pkg/base/bytes.h"
#include "pkg/pki/pki.h"

static const struct {
    const char *name, *cn, *org; /* %s in cn: the node's name */
} identities[] = {
    {"admin", "kubernetes-admin", "system:masters"},
    {"controller-manager", "system:kube-controller-manager", NULL},
    {"scheduler", "system:kube-scheduler", NULL},
    {"kubelet", "system:node:%s", "system:nodes"},
    {"proxy", "system:kube-proxy", NULL},
    {"dns", "system:coracle-dns", NULL},
};

static char *base64_text(struct arena *a, const char *s) {
    size_t n = strlen(s);
    char *out = arena_alloc(a, base64_encoded_len(n) + 1);
    base64_encode(s, n, out);
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

char *identity_token_kubeconfig(struct arena *a, const char *server, const char *ca_pem, const char *token) {
    return kubeconfig(a, server, ca_pem, arena_printf(a, "    token: %s\n", token));
}

static int write_if_changed(const char *path, const char *text, struct err *e) {
    _cleanup_free_ char *old = NULL;
    if (file_read(path, 1 << 20, &old, NULL) == 0 && strcmp(old, text) == 0) return 0;
    int r = file_write_atomic(path, text, strlen(text), 0600);
    return r < 0 ? err_errno(e, r, "cannot write %s", path) : 0;
}

static int ensure_one(const struct layout *l, const struct pki_pair *ca, size_t i, struct err *e) {
    const char *name = identities[i].name, *org = identities[i].org;
    const char *cn = str_eq(name, "kubelet") ? arena_printf(l->a, "system:node:%s", l->node_name) : identities[i].cn;
    struct pki_spec spec = {.cn = cn, .orgs = &org, .n_orgs = org != NULL, .usages = PKI_CLIENT_AUTH};
    const char *cert = arena_printf(l->a, "%s/pki/%s.crt", l->data, name), *key = arena_printf(l->a, "%s/pki/%s.key", l->data, name);
    int r = pki_ensure(ca, &spec, cert, key, NULL, e);
    if (r < 0) return err_wrap(e, "certificate for %s", name);
    _cleanup_pki_pair_ struct pki_pair pair = {0};
    if ((r = pki_load(cert, key, &pair, e)) < 0) return r;
    const char *user = arena_printf(l->a, "    client-certificate-data: %s\n    client-key-data: %s\n",
                                    base64_text(l->a, pair.cert_pem), base64_text(l->a, pair.key_pem));
    return write_if_changed(arena_printf(l->a, "%s/%s.kubeconfig", l->data, name),
                            kubeconfig(l->a, l->server, ca->cert_pem, user), e);
}

int identity_ensure(const struct layout *l, struct err *e) {
    int r = mkdir_p(layout_data(l, "pki"), 0700);
    if (r < 0) return err_errno(e, r, "cannot make %s/pki", l->data);
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    r = pki_ensure_ca(layout_data(l, "pki/ca.crt"), layout_data(l, "pki/ca.key"), "kubernetes", &ca, e);
    for (size_t i = 0; i < ARRAY_LEN(identities) && r == 0; i++) r = ensure_one(l, &ca, i, e);
    return r;
}
