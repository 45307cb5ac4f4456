/* The variables of admission expressions: what policies and matchConditions may name, and their types. The API server
 * compiles and evaluates with these environments, the controllers check types with them.
 * Upstream: apiserver/pkg/admission/plugin/cel/compile.go. */
#pragma once

#include "pkg/cel/cel.h"

enum cel_policy_decl { CEL_DECL_PARAMS = 1 << 0, CEL_DECL_AUTHORIZER = 1 << 1, CEL_DECL_PATCH = 1 << 2 };
enum cel_policy_var {
    CEL_VAR_OBJECT,
    CEL_VAR_OLD,
    CEL_VAR_NAMESPACE,
    CEL_VAR_REQUEST,
    CEL_VAR_PARAMS,
    CEL_VAR_AUTHORIZER,
    CEL_VAR_RESOURCE,
    CEL_VAR_VARIABLES,
    CEL_VARS
};

struct cel_policy_env {
    struct cel_env *env;
    int slot[CEL_VARS]; /* -1: not declared */
};
/* variables: the type of `variables`, or NULL when expressions have none. object: the type of object and oldObject, NULL:
 * anything. params likewise. */
struct cel_policy_env *cel_policy_env_new(struct arena *a, unsigned decls, const struct cel_type *variables,
                                          const struct cel_type *object, const struct cel_type *params);
