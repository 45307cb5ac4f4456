/* Devices that pods claim (dynamic resource allocation), on the node: a driver registers through plugins_registry (type
 * DRAPlugin); before a pod's sandbox is made, the drivers of its allocated claims prepare the devices and name CDI devices,
 * which go into the containers that use the claims; after the last pod of a claim has ended, they undo that.
 *
 * What is prepared, and for which pods, is written to <root>/dra_manager_state in upstream's form, so that a restart of
 * the kubelet forgets nothing: claims of pods that are gone are undone then. ResourceSlices of this node are deleted when
 * the kubelet starts (drivers publish them again) and when a driver has been out of reach for half a minute.
 *
 * Upstream: pkg/kubelet/cm/dra. */
#pragma once

#include "kubelet/kubelet.h"

struct dra;
/* Reads the checkpoint. */
struct dra *dra_new(struct kubelet *kl);
/* Starts to look after slices and what pods left behind. */
int dra_start(struct dra *d);
void dra_free(struct dra *d);

/* A driver of plugins_registry; several endpoints of one driver may be there while it is replaced. */
int dra_register(struct dra *d, const char *driver, const char *endpoint, const struct str_vec *versions,
                 struct err *e);
void dra_unregister(struct dra *d, const char *driver, const char *endpoint);

/* Has the devices of the pod's claims prepared, those that are not yet. Blocks: asks the API server and the drivers. */
int dra_prepare(struct dra *d, struct arena *a, const struct core_pod *p, struct err *e);
/* Undoes it for claims that no other pod here uses. Blocks. */
int dra_unprepare(struct dra *d, const struct core_pod *p, struct err *e);
/* Appends the CDI devices of a container, in `a`. */
int dra_devices(struct dra *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                struct str_vec *out, struct err *e);

/* What a claim means for a container, for the PodResources API. */
struct dra_use {
    const char *ns, *claim, *driver, *pool, *device, *share;
    struct str_vec cdi;
};
/* In `a`; *n entries. */
struct dra_use *dra_uses(struct dra *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                         size_t *n);
