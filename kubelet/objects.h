/* ConfigMaps and Secrets that pods on this node refer to. A value fetched is kept for a short time, so that
 * the containers of a pod and its volumes share one request, and is written to disk, so that a node that
 * starts without an API server in reach can run the pods it had.
 *
 * The interface is a table, so that tests put their own objects in place. Upstream:
 * pkg/kubelet/{configmap,secret} with the TTL-based manager of util/manager. */
#pragma once

#include "pkg/api/core.h"
#include "pkg/client/client.h"

struct objects;
struct objects_ops {
    int (*config_map)(struct objects *o, struct arena *a, const char *ns, const char *name, struct core_config_map *out,
                      struct err *e);
    int (*secret)(struct objects *o, struct arena *a, const char *ns, const char *name, struct core_secret *out,
                  struct err *e);
    void (*free)(struct objects *o);
};
struct objects {
    const struct objects_ops *ops;
};

/* Fetches with `c` (NULL: only what is on disk); `dir` keeps copies (NULL: none). */
struct objects *objects_new(struct client *c, const char *dir, int64_t ttl_ns);
void objects_free(struct objects *o);
/* -ENOENT when the object does not exist; err.status 404 then. */
int objects_config_map(struct objects *o, struct arena *a, const char *ns, const char *name,
                       struct core_config_map *out, struct err *e);
int objects_secret(struct objects *o, struct arena *a, const char *ns, const char *name, struct core_secret *out,
                   struct err *e);
