/* Between csi.c (drivers) and csi_volume.c (volumes). */
#pragma once

#include "kubelet/csi.h"
#include "pkg/api/storage.h"
#include "pkg/grpc/grpc.h"

#define CSI_PLUGIN "kubernetes.io~csi"

struct csi_driver {
    _Atomic unsigned refs;
    char *name, *endpoint, *node_id;
    int64_t max_volumes;
    struct arena *arena; /* of topology */
    struct str_map topology;
    uint32_t capabilities; /* 1 << CSI_NODE_RPC_... */
    struct grpc_client *grpc;
};
static inline bool csi_can(const struct csi_driver *d, int rpc) { return d->capabilities >> rpc & 1; }

struct csi {
    struct kubelet *kl;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    struct map drivers; /* name -> struct csi_driver, with a reference */
    struct map busy;    /* volumes being worked on */
    struct map wanted;  /* "uid/volume" -> in use by a pod that is coming up */
    bool dirty;         /* the Node does not show the drivers yet */
    char boot[40];
};

/* With a reference (csi_driver_unref), or NULL with -ENODEV in `e`. */
struct csi_driver *csi_driver_get(struct csi *c, const char *name, struct err *e);
void csi_driver_unref(struct csi_driver *d);
static inline void cleanup_csi_driver(struct csi_driver **d) { csi_driver_unref(*d); }
#define _cleanup_csi_driver_ _cleanup_(cleanup_csi_driver)
