/* How a kubelet gets its certificates. A new node has a bootstrap kubeconfig (a token); with it the kubelet
 * asks for a client certificate (CertificateSigningRequest, signer
 * kubernetes.io/kube-apiserver-client-kubelet), waits until it is approved and signed, and writes a
 * kubeconfig that uses it. The certificate is replaced when 80% of its life is over; one that has ended, on a node that
 * was away for too long, is asked for with the bootstrap token again. The serving certificate is self-signed, or asked
 * for in the same way (signer kubernetes.io/kubelet-serving), and anew when the node's addresses change. Files that were
 * configured are loaded again when somebody replaces them.
 *
 * Upstream: pkg/kubelet/certificate, client-go's util/certificate. */
#pragma once

#include "kubelet/kubelet.h"

/* Makes sure that cfg->kubeconfig exists; blocks until a first certificate is there. */
int bootstrap_kubeconfig(const struct kubelet_config *cfg, const char *node_name, struct err *e);
/* Certificate and key files for the server: those configured, else made in cert_dir. Heap paths. */
int bootstrap_serving_cert(const struct kubelet_config *cfg, const char *node_name, const char *const *ips,
                           size_t n_ips, char **cert_file, char **key_file, struct err *e);

/* Seconds until the certificates that were asked for end (negative: they have); INT64_MIN: there is none. */
void bootstrap_lives(const struct kubelet_config *cfg, int64_t *client, int64_t *serving);

/* Renews both in the background. `changed` is called (on its threads) after files were replaced; pem_file holds the new
 * certificate and its key, NULL: the files that the server was started with. */
struct cert_rotation;
struct cert_rotation *cert_rotation_start(struct kubelet *kl,
                                          void (*changed)(void *arg, bool serving, const char *pem_file), void *arg);
void cert_rotation_stop(struct cert_rotation *c);
