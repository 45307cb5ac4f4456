/* Volumes of pods: everything a container mounts is a folder below <root>/pods/<uid>/volumes, or a path of
 * the host. Mounting is idempotent: the worker mounts again now and then, and that is how changed ConfigMaps,
 * Secrets, labels and expiring tokens reach running pods.
 *
 * Done here: emptyDir, configMap, secret, downwardAPI, projected, hostPath, image; in volume_pv.c
 * persistentVolumeClaim and ephemeral (bound to a hostPath, local, NFS or CSI volume, as a file system or a block
 * device), nfs and inline csi. Other kinds are refused with a clear error. Upstream: pkg/kubelet/volumemanager and
 * pkg/volume/{emptydir,configmap,secret,downwardapi,projected,hostpath,local,nfs,csi}.
 */
#pragma once

#include "kubelet/atomic_writer.h"
#include "kubelet/podspec.h"

struct volumes *volumes_new(struct kubelet *kl);
void volumes_free(struct volumes *v);

/* Makes the pod's folder and sets up every volume of it. `pod_ips` may still be empty. The error names the
 * volume: MountVolume.SetUp failed for volume "x" : ... */
int volumes_mount(struct volumes *v, struct arena *a, const struct core_pod *pod, const char *const *pod_ips,
                  size_t n_pod_ips, struct mounted_volumes *out, struct err *e);
/* The first emptyDir on disk that has outgrown its sizeLimit: its name, or NULL. */
const char *volumes_over_limit(struct volumes *v, const struct core_pod *pod);
/* Bytes, or inodes, that the pod's emptyDirs take on disk. Walks them. */
int64_t volumes_usage(struct volumes *v, const struct core_pod *pod, bool inodes);
/* True when the pod has volumes whose content can change. */
bool volumes_need_refresh(const struct core_pod *pod);
/* Unmounts and deletes the pod's volumes. Host paths are untouched. */
int volumes_unmount(struct volumes *v, const char *uid, struct err *e);
/* Deletes all that is kept of a pod. */
int volumes_forget(struct volumes *v, const char *uid, struct err *e);

/* The files of a volume of the configMap, secret, downwardAPI or projected kind. `dir` is where they are now:
 * a token that is still good is taken from there. */
int volume_content(struct kubelet *kl, struct arena *a, const struct core_pod *pod, const struct core_volume *vol,
                   const char *dir, const struct env_facts *facts, struct payload *out, struct err *e);
/* When a token of this lifetime is to be replaced: after 80% of it, or after a day. Seconds since 1970. */
int64_t volume_token_refresh_at(int64_t issued, int64_t expires);
/* iat and exp of a JWT, without verifying it. */
bool volume_token_times(const char *jwt, int64_t *issued, int64_t *expires);
