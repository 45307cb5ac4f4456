/* CSI drivers and their volumes on this node.
 *
 * A driver registers by its socket (plugins.h). It then shows in the node's CSINode object, with the id by
 * which its controller knows this machine and its topology, which also become labels of the Node.
 *
 * A volume comes to a pod in three steps: attached (by the driver's controller; the attach/detach controller
 * asks for it and says so in node.status.volumesAttached), staged once on the node (NodeStageVolume, when the
 * driver has that), and published for each pod (NodePublishVolume). What was done is written down before it
 * is done, beside the volume (vol_data.json), with the id of the machine's boot: after a restart of the
 * kubelet nothing is done twice, after one of the machine everything is done again, and whatever a pod leaves
 * behind can be undone without knowing the pod.
 *
 * Upstream: pkg/volume/csi, pkg/volume/csi/nodeinfomanager, and the parts of pkg/kubelet/volumemanager that
 * order them. */
#pragma once

#include "kubelet/kubelet.h"
#include "pkg/api/csi.h"

struct csi *csi_new(struct kubelet *kl);
void csi_free(struct csi *c);

/* The driver's node service listens at `endpoint`. Blocks for its answers. -EINVAL: no version in common. */
int csi_register(struct csi *c, const char *name, const char *endpoint, const struct str_vec *versions, struct err *e);
void csi_unregister(struct csi *c, const char *name);

/* Writes the CSINode, and the node's annotation and labels, when they are not what they should be. Needs a
 * client and a registered Node. */
int csi_publish_node(struct csi *c, struct arena *a, struct err *e);
/* Attachable volumes that are, or are about to be, used here: names as in node.status.volumesInUse, in `a`.
 */
struct str_vec csi_volumes_in_use(struct csi *c, struct arena *a);

struct csi_secret_ref {
    const char *ns, *name; /* name NULL: none */
};

/* A volume as a pod wants it. */
struct csi_volume {
    const char *driver, *handle;
    const char *name; /* of its folder: the PersistentVolume's, or the pod's for an inline volume */
    const char *fs_type;
    const struct str_map *attributes;
    const struct str_vec *access_modes, *mount_options; /* may be NULL */
    struct csi_secret_ref stage_secret, publish_secret, expand_secret;
    bool read_only, block, inline_;
};
struct csi_mounted {
    const char *path; /* folder, or block device */
    bool own_group;   /* the pod's fsGroup is still to be applied to it */
};

/* Brings the volume to the pod; blocks for the driver. -EAGAIN: it is not attached yet; -ENODEV: its driver
 * is not there (yet). Done already: nothing happens (unless the driver asks to be called again). */
int csi_volume_mount(struct csi *c, struct arena *a, const struct core_pod *pod, const struct csi_volume *v,
                     struct csi_mounted *out, struct err *e);
/* Takes all CSI volumes from a pod, and from the node those that no other pod has. */
int csi_pod_unmount(struct csi *c, const char *uid, struct err *e);
/* Unstages what no pod needs. For the garbage collector. */
void csi_collect(struct csi *c);
/* The file system has to grow to `bytes` after its volume did. -ENOTSUP: the driver does not do that on
 * nodes. */
int csi_volume_expand(struct csi *c, struct arena *a, const char *uid, const struct csi_volume *v, int64_t bytes,
                      struct err *e);
/* What the driver says about the volume of a pod. -ENOTSUP when it says nothing. */
int csi_volume_stats(struct csi *c, struct arena *a, const char *uid, const char *name,
                     struct csi_node_get_volume_stats_response *out, struct err *e);
