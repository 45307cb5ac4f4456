/* Names by which controllers and kubelets find the same volume. */
#pragma once

#include "pkg/api/core.h"
#include "pkg/base/arena.h"

/* "csi-" and a hash: the VolumeAttachment of a CSI volume on a node. */
char *csi_attachment_name(struct arena *a, const char *driver, const char *handle, const char *node);
/* As node.status.volumesAttached and volumesInUse name it. */
char *csi_unique_name(struct arena *a, const char *driver, const char *handle);
/* The claim behind a pod's volume: of a persistentVolumeClaim or ephemeral volume, else NULL. */
const char *volume_claim_name(struct arena *a, const struct core_pod *p, const struct core_volume *v);
