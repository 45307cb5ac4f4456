/* Inside apiserver/auth: policy rules, the RBAC snapshot and the graph of the Node mode. */
#pragma once

#include "apiserver/auth/authz.h"
#include "pkg/api/rbac.h"
#include "pkg/base/map.h"

/* ---- rules.c: policy rules by themselves ---- */

typedef struct rbac_policy_rule_vec rule_vec;

/* Of a role's "rules"; strings are copied into `a`. */
void rules_read(struct arena *a, const struct json *rules, rule_vec *out);
struct json *rule_write(struct arena *a, const struct rbac_policy_rule *r);
bool rule_allows(const struct rbac_policy_rule *r, const struct authz_attrs *q);
/* Whether `owner` holds everything in `wanted`; the missing parts (one verb on one resource each) go to *missing (may
 * be NULL). */
bool rules_cover(struct arena *a, const rule_vec *owner, const rule_vec *wanted, rule_vec *missing);
bool rule_equal(const struct rbac_policy_rule *x, const struct rbac_policy_rule *y);
/* Missing parts joined again where only their verbs differ, a line each, sorted: for messages. */
const char *rules_text(struct arena *a, const rule_vec *rules);
void rule_vec_add(struct arena *a, rule_vec *v, size_t *cap, const struct rbac_policy_rule *r);

/* ---- rbac.c: the snapshot ---- callers hold the authorizer's lock */

struct rbac_snapshot {
    struct map roles;      /* "ns/name", "/name" for ClusterRoles -> struct role_entry */
    struct map bindings;   /* the same for bindings -> struct binding_entry */
    struct map by_subject; /* "ns\n" + subject, "\n" + subject -> struct binding_list */
};
struct role_entry {
    struct arena *arena;
    const char *name;
    rule_vec rules;
    const struct json *labels, *aggregation; /* of ClusterRoles */
};
struct binding_entry {
    struct arena *arena;
    const char *ns, *name; /* ns "" for ClusterRoleBindings */
    bool role_is_cluster;
    const char *role_name;
    const char **subjects; /* "u:name", "g:name" */
    const char **reasons;  /* why a request is allowed when the binding has it from that subject */
    size_t n_subjects;
};

/* obj NULL: gone. */
void rbac_role_put(struct rbac_snapshot *s, const char *ns, const char *name, const struct json *obj);
void rbac_binding_put(struct rbac_snapshot *s, const char *ns, const char *name, const struct json *obj);
const struct role_entry *rbac_role_get(const struct rbac_snapshot *s, const char *ns, const char *name);
void rbac_done(struct rbac_snapshot *s);

/* Calls `visit` for each role bound to the user, cluster-wide and in `ns`; role NULL: the binding's role is missing. Ends
 * when visit returns false. */
typedef bool rbac_visit_fn(void *arg, const struct binding_entry *b, const char *subject,
                           const struct role_entry *role);
void rbac_visit(const struct rbac_snapshot *s, const struct user_info *u, const char *ns, rbac_visit_fn *visit,
                void *arg);
enum authz_decision rbac_decide(const struct rbac_snapshot *s, struct arena *a, const struct authz_attrs *q,
                                const char **reason);
/* All rules of the user in `ns`. */
void rbac_rules(const struct rbac_snapshot *s, struct arena *a, const struct user_info *u, const char *ns,
                rule_vec *out);
struct json *rbac_aggregate(const struct rbac_snapshot *s, struct arena *a, const struct json *role);

/* ---- node.c: the Node mode ---- callers hold the authorizer's lock */

struct node_graph {
    struct map edges;       /* "resource ns/name@node" -> number of pods with it */
    struct map pods;        /* "ns/name" -> struct node_links of the pod */
    struct map volumes;     /* PV name -> struct node_links: its claim, and the secrets it names */
    struct map secrets;     /* "ns/name" of secrets that PVs name -> number */
    struct map attachments; /* VolumeAttachment name -> node name */
    struct arena *arena;
    rule_vec rules; /* of the ClusterRole system:node */
};
void node_graph_init(struct node_graph *g);
void node_graph_done(struct node_graph *g);
void node_pod_put(struct node_graph *g, const char *ns, const char *name, const struct json *pod);
void node_volume_put(struct node_graph *g, const char *name, const struct json *pv);
void node_attachment_put(struct node_graph *g, const char *name, const struct json *va);
enum authz_decision node_decide(const struct node_graph *g, struct arena *a, const struct authz_attrs *q,
                                const char **reason);
/* Whether the answer hangs on what the node's pods refer to. */
bool node_asks_graph(const struct authz_attrs *q);
/* "system:node:NAME" in the group system:nodes: the node's name; else NULL. */
const char *node_name_of(const struct user_info *u);

/* ---- verified tokens (tokencache.c); thread-safe ---- */
struct token_cache;
struct token_cache *token_cache_new(void);
void token_cache_free(struct token_cache *c); /* NULL-safe */
/* A copy in `a`. */
bool token_cache_get(struct token_cache *c, struct arena *a, const char *token, struct user_info *out);
void token_cache_put(struct token_cache *c, const char *token, const struct user_info *u);
