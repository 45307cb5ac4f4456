/* A kubelet's life. The client and the runtime are the caller's and must outlive it. */
#pragma once

#include "kubelet/kubelet.h"

struct kubelet *kubelet_new(const struct kubelet_config *cfg, const char *node_name, struct client *client,
                            struct runtime *rt, bool fake);
/* Waits for the runtime, then starts everything but the server. */
int kubelet_start(struct kubelet *kl, struct err *e);
/* Stops all threads; pods go on running. NULL-safe. */
void kubelet_free(struct kubelet *kl);
