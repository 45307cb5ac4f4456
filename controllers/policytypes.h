/* Type checking of admission policies, apart from the controller so that tests need no server. */
#pragma once

#include "pkg/api/admissionregistration.h"
#include "pkg/cel/cel.h"

enum { POLICY_TYPES_MAX = 10 }; /* kinds that one policy is checked against */

/* A kind that a policy is about, with its declared type. */
struct policy_kind {
    const char *group, *version, *kind;
    const struct cel_type *type;
};
/* Where kinds come from. */
struct policy_source {
    /* The kind behind "apps", "v1", "deployments" (or "deployment"); false: not served. */
    bool (*kind_of)(void *arg, const char *group, const char *version, const char *resource, const char **kind);
    /* Its declared type, NULL: unknown. */
    const struct cel_type *(*type_of)(void *arg, const char *group, const char *version, const char *kind);
    void *arg;
};
/* The kinds that the policy's resource rules name, sorted by group, version and kind. Rules with a wildcard in groups or
 * versions are passed over, as are resources with one and subresources. */
size_t policy_kinds(struct arena *a, const struct admissionregistration_validating_admission_policy *p,
                    const struct policy_source *from, struct policy_kind out[POLICY_TYPES_MAX]);
/* Compiles all validations and message expressions against each kind: what status.typeChecking.expressionWarnings says. */
void policy_warnings(struct arena *a, const struct admissionregistration_validating_admission_policy *p,
                     const struct policy_source *from, struct admissionregistration_expression_warning_vec *out);
/* The schema of a kind in an OpenAPI v3 document, its references resolved; NULL when there is none. */
struct json *policy_schema(struct arena *a, const struct json *openapi, const char *group, const char *version,
                           const char *kind);
