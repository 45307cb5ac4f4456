/* The kubelet's HTTPS server (:10250): logs, exec, attach, port-forward, stats, metrics; for the API server,
 * metrics-server and operators. Every request is authenticated (client certificate, or bearer token by
 * TokenReview) and authorised (SubjectAccessReview on nodes/proxy, nodes/log, nodes/stats, nodes/metrics), as
 * upstream's server.go and auth.go.
 *
 * exec, attach and port-forward ask the runtime for a URL and then join the upgraded connection with it, byte
 * for byte: the streaming protocol is between the client and the runtime. */
#pragma once

#include "kubelet/kubelet.h"

struct kubelet_server;
struct kubelet_server *kubelet_server_new(struct kubelet *kl, const char *cert_file, const char *key_file,
                                          struct err *e);
void kubelet_server_free(struct kubelet_server *s);
/* Reads the certificate files again. */
void kubelet_server_reload(struct kubelet_server *s, const char *pem_file);
/* The port it listens on. */
uint16_t kubelet_server_port(struct kubelet_server *s);
