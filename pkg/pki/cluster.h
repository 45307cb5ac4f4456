/* The identities of a cluster's own programs: one table says which client certificates the cluster's CA gives to whom,
 * and a kubeconfig for each. `coracle up` and a lone API server make them from the same table (kubeadm's init phases
 * "certs" and "kubeconfig"). */
#pragma once

#include "pkg/pki/pki.h"

struct pki_cluster {
    const char *data_dir;  /* DATA/pki/NAME.crt and .key, DATA/NAME.kubeconfig */
    const char *server;    /* URL for the kubeconfigs */
    const char *node_name; /* the kubelet's node; NULL: no kubelet here, its identity is left out */
    int64_t seconds;       /* how long the certificates are good for; 0: PKI_CERT_SECONDS */
    bool keep_kubeconfigs; /* leave a kubeconfig alone that holds the current certificate, whatever server it names */
};

/* Makes what is missing, and anew what is due (pki_ensure). `ca`: the cluster's CA with its key. Scratch memory from `a`. */
int pki_cluster_ensure(const struct pki_cluster *c, const struct pki_pair *ca, struct arena *a, struct err *e);

/* When the first of them is to be renewed, in seconds since 1970; INT64_MAX when there are none. */
int64_t pki_cluster_renew_at(const struct pki_cluster *c, struct arena *a);

/* DATA/pki/front-proxy-ca.crt and front-proxy-client.crt with their keys: a CA of its own for who may say on behalf of
 * whom a request is made, and the API server's certificate as such a front proxy towards aggregated servers. */
#define PKI_FRONT_PROXY "front-proxy-client"
int pki_front_proxy_ensure(const char *data_dir, int64_t seconds, struct arena *a, struct err *e);

/* Kubeconfig texts with one cluster, one user and one context, "coracle"; in `a`. */
char *pki_kubeconfig_token(struct arena *a, const char *server, const char *ca_pem, const char *token);
char *pki_kubeconfig_pair(struct arena *a, const char *server, const char *ca_pem, const struct pki_pair *user);
