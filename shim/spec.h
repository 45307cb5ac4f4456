/* The OCI runtime specification (config.json) of a container, from what CRI asks for, the image's defaults and the
 * sandbox. Pure: looks at the rootfs (for users and groups) and at /dev, changes nothing. */
#pragma once

#include "image.h"
#include "pkg/api/cri.h"
#include "user.h"

struct seccomp_cache;

struct spec_input {
    const struct cri_container_config *config;
    const struct cri_pod_sandbox_config *sandbox;
    const struct image_config *image;
    const char *rootfs;       /* mounted */
    const char *ns_dir;       /* the sandbox's pins */
    const char *sandbox_dir;  /* resolv.conf, hostname, hosts */
    const char *shm_dir;      /* the sandbox's /dev/shm, or NULL for the host's */
    const char *cgroups_path; /* "/kubepods/.../ID" */
    const char *container_id, *sandbox_id;
    const char *hostname;
    pid_t target_pid; /* of the target container, for pid mode TARGET */
    bool cgroup_v2;
    struct seccomp_cache *seccomp;         /* or NULL: the profile goes into the spec as rules */
    const struct cri_user_namespace *user; /* of the sandbox, pinned in ns_dir; NULL: the host's */
    const char *const *mapped_mounts;      /* host path for each config mount that is seen through `user`, else NULL */
    const char *const *image_mounts;       /* host path for each config mount that is an image volume, else NULL */
};

struct spec_result {
    struct json *spec;
    struct proc_user user;
};

/* Builds the spec in `a`. -EINVAL for what cannot be, -ENOENT for unknown users. */
int spec_build(struct arena *a, const struct spec_input *in, struct spec_result *out, struct err *e);
/* The "process" object for another command in the container (exec): the container's, with these args. */
struct json *spec_exec_process(struct arena *a, const struct json *spec, const struct str_vec *cmd, bool tty);
/* "linux.resources" for the limits; used by update too. */
struct json *spec_resources(struct arena *a, const struct cri_linux_container_resources *r);

/* Sets KEY=VALUE in a list of the environment, replacing an earlier one of the key in place. */
void spec_set_env(struct arena *a, struct json *env, const char *entry);

/* parts, each its own file */
int spec_mounts(struct arena *a, const struct spec_input *in, struct json *spec, struct err *e);
/* "linux.seccomp", or NULL for unconfined. `caps`: names of the bounding set. */
int spec_seccomp(struct arena *a, const struct cri_security_profile *p, const struct json *caps, struct json **out,
                 struct err *e);
/* Compiled filters of the default profile, for runtimes that take them. Thread-safe. */
struct seccomp_cache *seccomp_cache_new(void);
struct seccomp_cache *seccomp_cache_free(struct seccomp_cache *c);
/* The profile as a BPF program in base64, in the arena; NULL when it cannot be compiled. */
const char *seccomp_compiled(struct seccomp_cache *c, struct arena *a, const struct json *profile);
/* The capability names of an add/drop list; `privileged` gives all this process has. */
int spec_capabilities(struct arena *a, const struct cri_capability *c, bool privileged, struct json **out,
                      struct err *e);
