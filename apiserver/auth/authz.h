/* Authorisation: may this user do that? A list of modes in the order of --authorization-mode (Node, RBAC,
 * AlwaysAllow, AlwaysDeny, Webhook) or of a configuration file, before them system:masters; the first that allows or denies decides, none means no.
 *
 * RBAC works on a snapshot in memory of Roles, ClusterRoles and their bindings, indexed by subject; the Node mode on a
 * graph of what the pods of each node refer to. Both are fed by authz_feed from the watch cache. Thread-safe: decisions
 * share a lock, feeding takes it alone. Upstream: plugin/pkg/auth/authorizer/{rbac,node}, pkg/registry/rbac. */
#pragma once

#include "apiserver/auth/authn.h"
#include "pkg/base/arena.h"
#include "pkg/base/err.h"

/* What the objects of a list, watch or deletecollection are selected by, as far as it is understood: all must hold. */
struct authz_requirement {
    const char *key, *op; /* "In", "NotIn", "Exists", "DoesNotExist" */
    const char *const *values;
    size_t n_values;
};
struct authz_selector {
    const struct authz_requirement *items;
    size_t n;
};

struct authz_attrs {
    const struct user_info *user;
    const char *verb; /* "get", ...; for non-resource requests the method in lower case */
    bool resource_request;
    const char *group, *version, *resource, *subresource; /* NULL counts as "" */
    const char *ns, *name;                                /* "" or NULL: all namespaces or cluster-scoped; no name */
    const char *path;                                     /* non-resource requests: "/healthz" */
    /* Webhooks are told of both; Node mode wants lists of pods by their node. */
    struct authz_selector fields, labels;
};

enum authz_decision { AUTHZ_NO_OPINION, AUTHZ_ALLOW, AUTHZ_DENY };

struct authz;
struct access_webhook_config;
/* modes: "Node,RBAC". -EINVAL names an unknown mode, one that is given twice, or Webhook without `webhook` (NULL: none). */
int authz_new(const char *modes, const struct access_webhook_config *webhook, struct authz **out, struct err *e);
/* Of an AuthorizationConfiguration file (apiserver.config.k8s.io/v1): authorizers of type Webhook, Node, RBAC, AlwaysAllow,
 * AlwaysDeny. It is read once. */
int authz_new_from_file(const char *path, struct authz **out, struct err *e);
/* True when decisions may block: somebody else is asked. */
bool authz_blocks(const struct authz *z);
void authz_free(struct authz *z); /* NULL-safe */

/* An object was added or changed, or (json NULL) is gone. Of interest: rbac.authorization.k8s.io roles, rolebindings,
 * clusterroles, clusterrolebindings; core pods, persistentvolumes; storage.k8s.io volumeattachments; others are ignored.
 * ns NULL or "" for cluster-scoped kinds. */
void authz_feed(struct authz *z, const char *group, const char *resource, const char *ns, const char *name,
                const char *json, size_t len);
/* Feeding may be late where it is costly: before a question about what a node's pods refer to, `catch_up` is called (by
 * several threads, no lock held) and feeds what it has held back. */
void authz_feed_late(struct authz *z, void (*catch_up)(void *arg), void *arg);
/* True for resources that authz_feed wants to hear of. */
bool authz_wants(const struct authz *z, const char *group, const char *resource);

/* The reason (in `a`; may be NULL) is as upstream's: shown in SubjectAccessReview and audit. */
enum authz_decision authz_decide(struct authz *z, struct arena *a, const struct authz_attrs *q, const char **reason);
/* The same; *error (in `a`) is set when a mode could not do its work and nobody else allowed or denied. */
enum authz_decision authz_ask(struct authz *z, struct arena *a, const struct authz_attrs *q, const char **reason,
                              const char **error);
/* 0, or 403 Forbidden with upstream's words: `pods is forbidden: User "u" cannot list resource "pods" in API group ""
 * in the namespace "default"`. */
int authz_check(struct authz *z, struct arena *a, const struct authz_attrs *q, struct err *e);
/* The 403 itself, for what is refused elsewhere. */
int authz_forbidden(struct arena *a, const struct authz_attrs *q, const char *reason, struct err *e);

/* status of a SelfSubjectRulesReview for the user in a namespace: {resourceRules, nonResourceRules, incomplete}. */
struct json *authz_rules(struct authz *z, struct arena *a, const struct user_info *user, const char *ns);

/* ---- no escalation ---- */

/* A user who writes a Role or ClusterRole (`role`: the new object) must hold all its rules, or the verb escalate on
 * roles / clusterroles. 0 or 403 that lists what is missing. `old` is the object before an update (its rules may stay),
 * or NULL. */
int authz_check_role_write(struct authz *z, struct arena *a, const struct user_info *user, const struct json *role,
                           const struct json *old, struct err *e);
/* A user who writes a RoleBinding or ClusterRoleBinding must hold the rules of the role it names, or the verb bind on
 * that role. */
int authz_check_binding_write(struct authz *z, struct arena *a, const struct user_info *user,
                              const struct json *binding, const struct json *old, struct err *e);

/* ClusterRole aggregation, for the controller of that name: whether labels select the role is said by its
 * aggregationRule. Rules of all selected ClusterRoles, as a JSON array without duplicates; NULL when `role` has no
 * aggregationRule. */
struct json *authz_aggregate(struct authz *z, struct arena *a, const struct json *role);
