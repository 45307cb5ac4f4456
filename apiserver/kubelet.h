/* Requests that are passed on: to kubelets (log, exec, attach, portforward, nodes/proxy), to pods and Services (proxy). */
#pragma once

#include "apiserver/apiserver.h"

struct kubelet_client;
/* With the server's client certificate for kubelets. */
int kubelet_client_new(const struct apiserver_options *o, struct kubelet_client **out, struct err *e);
void kubelet_client_free(struct kubelet_client *k); /* NULL-safe */
