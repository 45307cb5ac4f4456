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
void validate_containers(struct vctx *v, const struct json *spec, const struct fp *p);
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
/* How many sources the volume has; what is wrong with them is reported. */
size_t validate_volume_source(struct vctx *v, const struct json *vol, const struct fp *p);
void validate_topology_spread(struct vctx *v, const struct json *list, const struct fp *p);
