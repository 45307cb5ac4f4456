/* Requests that are passed on: to kubelets (log, exec, attach, portforward, nodes/proxy), to pods and Services (proxy). */
#pragma once

#include "apiserver/apiserver.h"

struct kubelet_client;
struct http_resp;
struct http_cancel;
/* With the server's client certificate for kubelets. */
int kubelet_client_new(const struct apiserver_options *o, struct kubelet_client **out, struct err *e);
void kubelet_client_free(struct kubelet_client *k); /* NULL-safe */
/* GETs a path of a node's kubelet with the server's certificate. Blocks. Errors of http_client_exchange; -ENOENT: no
 * such node, or one without an address. */
int kubelet_get(struct apiserver *s, struct arena *a, const char *node, const char *path, struct http_resp *r,
                struct http_cancel *cancel, unsigned timeout_ms, struct err *e);
