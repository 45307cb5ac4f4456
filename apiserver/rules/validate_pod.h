/* What the files that validate pods share (validate_pod.c, validate_container.c, validate_volume.c,
 * validate_scheduling.c). */
#pragma once

#include "apiserver/rules/kinds.h"

/* What a container's rules need to know of its pod. */
struct pod_view {
    const struct json *volumes, *claims;
    const char *restart_policy;
    int64_t grace;
    bool host_users;
};

/* k[which] is a probe, if anything; `up` is the container's path. */
void validate_probe(struct vctx *v, const struct json *k, const char *which, const struct fp *up);
void validate_lifecycle(struct vctx *v, const struct json *k, int64_t grace, const struct fp *p);
void validate_container_security(struct vctx *v, const struct json *k, bool host_users, const struct fp *up);
void validate_containers(struct vctx *v, const struct json *spec, const struct json *volumes, const struct fp *p);
void validate_field_ref(struct vctx *v, const struct json *ref, const struct fp *p, bool volume);
void validate_resource_field_ref(struct vctx *v, const struct json *ref, const struct fp *p, bool volume);
/* A relative path without "..". */
void validate_local_path(struct vctx *v, const struct fp *p, const struct json *path);
/* A user or group id: 0..2^31-1. */
void validate_id(struct vctx *v, const struct fp *up, const struct json *o, const char *key);
/* seccompProfile and appArmorProfile of a security context. */
void validate_profiles(struct vctx *v, const struct json *sc, const struct fp *p);
void validate_resource_value(struct vctx *v, const struct fp *p, const char *name, const struct json *value);
bool resource_is_native(const char *name);
/* Of anything that is counted: known, or with a domain; and of what containers use. */
void validate_compute_name(struct vctx *v, const struct fp *p, const char *name);
void validate_container_resource_name(struct vctx *v, const struct fp *p, const char *name);
/* Whether limits may exceed requests. */
bool resource_may_overcommit(const char *name);
/* What a pod asks for as a whole; `up` is the path of its spec. */
void validate_pod_resources(struct vctx *v, const struct json *spec, const struct fp *up);
/* A name without a domain that a ResourceQuota may bound. */
bool resource_is_quota(const char *name);
/* A name without a domain that Kubernetes knows. */
bool resource_is_standard(const char *name);
/* What the operating system of the pod rules out, and pods of Windows host processes (validate_pod_os.c). */
void validate_os(struct vctx *v, const struct json *spec, const struct fp *p);
/* Volumes that environment variables are read from. */
void validate_file_keys(struct vctx *v, const struct json *spec, const struct fp *p);
/* windowsOptions of a security context. */
void validate_windows_options(struct vctx *v, const struct json *sc, const struct fp *p);
typedef void volume_source_fn(struct vctx *v, const struct json *s, const struct fp *p);
struct volume_source {
    const char *name;
    const char *shown, *too_many; /* name in paths, and in the path of "more than one", where they differ */
    const char *required[3];
    volume_source_fn *pod, *volume; /* further rules in pods and in PersistentVolumes */
};
/* Network and other disks (volume_sources.c); NULL for another name. */
const struct volume_source *volume_source_find(const char *name);
/* How many sources the volume (of a pod, or a PersistentVolume's spec) has; what is wrong with them is reported. */
size_t validate_volume_source(struct vctx *v, const struct json *vol, bool persistent, const struct fp *p);
/* A path without "..". */
void validate_backsteps(struct vctx *v, const struct fp *p, const struct json *path);
/* As validate_local_path; nor may it begin with "..". */
void validate_free_path(struct vctx *v, const struct fp *p, const struct json *path);
void validate_topology_spread(struct vctx *v, const struct json *list, const struct fp *p);
