/* From a pod's spec to CRI: the configuration of its sandbox and of each container. Nothing here talks to the
 * runtime.
 *
 * Upstream: kuberuntime_sandbox(_linux).go, kuberuntime_container(_linux).go, security_context.go,
 * network/dns, kubelet_pods.go (hosts file, mounts). */
#pragma once

#include "kubelet/env.h"
#include "kubelet/kubelet.h"

/* What a mounted volume looks like to the containers. */
struct volume_mount_source {
    const char *name;
    const char *host_path;
    bool read_only;
    bool is_block; /* host_path is a device, for volumeDevices */
    /* An image volume: the runtime mounts it. */
    const char *image;
};
struct mounted_volumes {
    struct volume_mount_source *items;
    size_t n;
};

struct cri_pod_sandbox_config *podspec_sandbox(struct kubelet *kl, struct arena *a, const struct core_pod *p,
                                               uint32_t attempt, struct err *e);
/* Host name inside of the pod, and its domain ("" or "sub.ns.svc.cluster.local"). */
void podspec_hostname(struct kubelet *kl, struct arena *a, const struct core_pod *p, const char **host,
                      const char **domain);
/* nameserver, search and options lines for the pod. */
struct cri_dns_config *podspec_dns(struct kubelet *kl, struct arena *a, const struct core_pod *p, struct err *e);
struct cri_namespace_option *podspec_namespaces(struct arena *a, const struct core_pod *p);
/* The text of /etc/hosts. */
char *podspec_hosts(struct kubelet *kl, struct arena *a, const struct core_pod *p, const char *const *ips, size_t n);

struct container_input {
    const struct core_pod *pod;
    const struct core_container *container;
    enum container_kind kind;
    const char *target_id; /* ephemeral: runtime id of the container whose PID namespace it joins, or NULL */
    uint32_t restart_count;
    const char *image_ref;         /* as the runtime resolved it */
    const struct cri_image *image; /* for the user it declares; may be NULL */
    const char *const *pod_ips;
    size_t n_pod_ips;
    const struct mounted_volumes *volumes;
    const char *runtime_handler; /* of the sandbox */
};
/* The complete CRI configuration; makes the files it mounts (hosts, termination log, subPaths). An error is
 * reported as CreateContainerConfigError. */
int podspec_container(struct kubelet *kl, struct arena *a, const struct container_input *in,
                      struct cri_container_config **out, struct err *e);
struct cri_linux_container_resources *podspec_resources(struct kubelet *kl, struct arena *a, const struct core_pod *p,
                                                        const struct core_container *c);
/* Command or args with $(VAR) expanded. */
struct str_vec podspec_expand(struct arena *a, const struct str_vec *v, const struct env_list *env);
