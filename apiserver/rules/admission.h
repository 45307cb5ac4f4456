/* The built-in admission plugins, and what they share. */
#pragma once

#include "apiserver/rules/alloc.h"
#include "apiserver/rules/rules.h"

/* One plugin looks at one write. `obj` is NULL on delete, `old` on create. Returns 0 or an API error. */
typedef int admission_fn(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);

/* 403 Forbidden with the object's name in the details. */
int admission_forbid(struct rules_ctx *c, const struct json *obj, struct err *e, const char *fmt, ...) _printf_(4, 5);
const struct json *admission_get(struct rules_ctx *c, const char *group, const char *resource, const char *ns,
                                 const char *name);
const struct json *admission_list(struct rules_ctx *c, const char *group, const char *resource, const char *ns);
/* The write is of this kind itself, not of a subresource. */
bool admission_is(const struct rules_ctx *c, const char *group, const char *kind);

admission_fn admit_service_account, admit_toleration_seconds, admit_priority, admit_runtime_class, admit_limit_ranger,
    admit_storage_in_use, admit_default_storage_class, admit_default_ingress_class, admit_taint_nodes;
admission_fn check_namespace_lifecycle, check_limit_ranger, check_runtime_class, check_priority_class,
    check_node_restriction, check_pvc_resize, check_pod_security, check_resource_quota, check_service_account,
    check_csr_approval, check_csr_signing, check_csr_subject, check_trust_bundle, admit_topology_labels;
