/* Static pods: manifests in a folder (or one file) of this node, run without the API server; and their mirror
 * pods, which show them in the API. A static pod's uid is the hash of its manifest, so that a changed file is
 * a new pod.
 *
 * Upstream: pkg/kubelet/config/file.go, common.go, pod/mirror_client.go. */
#pragma once

#include "kubelet/kubelet.h"

struct static_pods;
/* Watches the path (inotify, and a look every 20 s) in a thread. */
struct static_pods *static_pods_new(struct kubelet *kl, const char *path);
void static_pods_free(struct static_pods *s);
/* Makes, replaces or deletes mirror pods so that they match. Called now and then and when one changes. */
void static_pods_sync_mirrors(struct static_pods *s);
/* One manifest (YAML or JSON) as the pod that it means on this node. */
struct object *static_pod_parse(struct kubelet *kl, const char *text, size_t len, const char *file, struct err *e);
