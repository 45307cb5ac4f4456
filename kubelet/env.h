/* A container's environment: service variables, envFrom, env with valueFrom, and $(VAR) expansion.
 *
 * Upstream: third_party/forked/golang/expansion (the syntax), kubelet_pods.go's makeEnvironmentVariables (the
 * order of precedence), envvars (service variables), pkg/fieldpath and pkg/api/v1/resource (the downward
 * API). */
#pragma once

#include "kubelet/objects.h"
#include "kubelet/podutil.h"

struct env_var {
    const char *name, *value;
};
struct env_list { /* in the order in which names first appeared; a later value replaces an earlier one in
                     place */
    struct env_var *items;
    size_t n, cap;
};
const char *env_get(const struct env_list *l, const char *name);
void env_set(struct arena *a, struct env_list *l, const char *name, const char *value);

/* Replaces $(NAME) by its value in the first list that has it; unknown names stay as written, $$ is a dollar.
 */
char *env_expand(struct arena *a, const char *s, const struct env_list *first, const struct env_list *second);

/* What the downward API can tell about a pod beyond its spec. */
struct env_facts {
    const char *node_name;
    const char *const *host_ips;
    size_t n_host_ips;
    const char *const *pod_ips;
    size_t n_pod_ips;
    const struct str_map *allocatable; /* of the node: what a missing limit means */
};
/* A fieldRef's value. -EINVAL for a path that does not exist. */
int env_field_ref(struct arena *a, const struct core_pod *p, const struct env_facts *f, const char *path,
                  const char **out, struct err *e);
/* A resourceFieldRef's value; `c` is the container of `p` that the reference is about. */
int env_resource_ref(struct arena *a, const struct core_pod *p, const struct core_container *c,
                     const struct env_facts *f, const char *resource, const char *divisor, const char **out,
                     struct err *e);

/* The variables that announce Services: those of the pod's namespace, and the API server's own. */
void env_services(struct arena *a, const struct core_service *const *services, size_t n, const char *ns, bool links,
                  struct env_list *out);

struct env_input {
    const struct core_pod *pod;
    const struct core_container *container;
    struct objects *objects;
    struct env_facts facts;
    const struct core_service *const *services;
    size_t n_services;
    struct str_map volume_paths; /* where on the host the pod's volumes are, by name: for files of variables */
};
/* The value of a name in a file of lines NAME='VALUE' (fileKeyRef): in single quotes, literal, over several lines if need be,
 * with comments and blank lines; "" when the name is not there. `text` is cut up; values live in `a`. -EINVAL names the
 * line. */
enum { ENV_FILE_MAX = 1024 * 1024 };
int env_file_value(struct arena *a, char *text, const char *key, const char **value, struct err *e);

/* The container's complete environment. An error is one of configuration (CreateContainerConfigError).
 * `skipped` gets the names of envFrom keys that are no variable names, separated by ", " (NULL when there are
 * none). */
int env_make(struct arena *a, const struct env_input *in, struct env_list *out, const char **skipped, struct err *e);
