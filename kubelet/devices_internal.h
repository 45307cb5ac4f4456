/* Between the files of the device manager. See devices.h. */
#pragma once

#include "kubelet/devices.h"
#include "pkg/grpc/grpc.h"

enum { DEVICE_CALL_MS = 30000, MAX_DEVICES = 4096 };

struct device {
    bool healthy;
    uint64_t nodes; /* NUMA nodes it is near to, as bits; 0: it does not say */
};

/* A resource and its plugin. Guarded by devices.lock; `refs` are the table's and its thread's. */
struct resource {
    struct devices *all;
    unsigned refs;
    char *name;
    struct grpc_client *grpc;
    struct http_cancel cancel;
    bool pre_start, preferred, stopped;
    int64_t stopped_at;
    struct map ids; /* id -> struct device */
};
/* What a container has of a resource. */
struct allocation {
    struct allocation *next;
    char *pod, *container, *resource;
    char **ids;
    size_t n;
    char *answer; /* the plugin's, as JSON */
    bool init;    /* of an init container: later ones of the pod may have it too */
};
struct devices {
    struct kubelet *kl;
    pthread_mutex_t lock, allocating;
    struct map resources;
    struct allocation *allocations;
    struct grpc_server *server;
    char *dir, *checkpoint;
};

static inline const struct device *resource_device(const struct resource *r, const char *id) {
    return map_get(&r->ids, id);
}
/* Writes the checkpoint; the lock is held. */
void devices_save(struct devices *d);
void allocation_free(struct allocation *x);
/* Gives a reference back; the lock is held. */
void resource_unref(struct resource *r);
