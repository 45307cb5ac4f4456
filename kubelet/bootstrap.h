/* How a kubelet gets its certificates. A new node has a bootstrap kubeconfig (a token); with it the kubelet
 * asks for a client certificate (CertificateSigningRequest, signer
 * kubernetes.io/kube-apiserver-client-kubelet), waits until it is approved and signed, and writes a
 * kubeconfig that uses it. The certificate is replaced when 80% of its life is over. The serving certificate
 * is self-signed, or asked for in the same way (signer kubernetes.io/kubelet-serving).
 *
 * Upstream: pkg/kubelet/certificate, client-go's util/certificate. */
#pragma once

#include "kubelet/kubelet.h"

/* Makes sure that cfg->kubeconfig exists and its certificate is good; blocks until it is. */
int bootstrap_kubeconfig(const struct kubelet_config *cfg, const char *node_name, struct err *e);
/* Certificate and key files for the server: those configured, else made in cert_dir. Heap paths. */
int bootstrap_serving_cert(const struct kubelet_config *cfg, const char *node_name, const char *const *ips,
                           size_t n_ips, char **cert_file, char **key_file, struct err *e);

/* Renews both in the background; `changed` is called (on its thread) after files were replaced. */
struct cert_rotation;
struct cert_rotation *cert_rotation_start(struct kubelet *kl, void (*changed)(void *arg, bool serving), void *arg);
void cert_rotation_stop(struct cert_rotation *c);
