/* Admission policies in CEL: ValidatingAdmissionPolicy and MutatingAdmissionPolicy with their bindings.
 *
 *   policy.c           compiling a policy; also what validation of policies reports, and what type checking works with
 *   policy_cache.c     the compiled policies, bindings and webhooks, made anew when one of them changes
 *   policy_params.c    which parameters a binding means
 *   policy_validate.c  evaluating validating policies
 *   policy_mutate.c    evaluating mutating policies: apply configurations and JSON patches
 *
 * Upstream: apiserver/pkg/admission/plugin/policy. */
#pragma once

#include <stdatomic.h>

#include "apiserver/rules/expr.h"

struct policy_validation {
    struct expr check, message; /* message.src NULL: none */
    const char *text, *reason;  /* "" for none */
};
struct policy_mutation {
    bool json_patch;
    struct expr expr;
};
struct policy {
    const char *name;
    const struct json *spec;
    bool ignore; /* failurePolicy */
    bool has_params;
    struct cel_policy_env *env;     /* of validations, annotations, variables, mutations */
    struct cel_policy_env *message; /* of message expressions: no authorizer */
    struct cel_policy_env *match;   /* of matchConditions: no variables */
    struct cel_type *variables_type;
    struct expr *conditions, *variables, *annotations;
    struct policy_validation *validations;
    struct policy_mutation *mutations;
    size_t n_conditions, n_variables, n_annotations, n_validations, n_mutations;
    const struct json **bindings;
    size_t n_bindings;
};
/* Compiles what stands in the tree; expressions that do not compile say so in their `error`. Refers to the tree. object,
 * params: declared types for type checking, NULL: anything. */
struct policy *policy_compile(struct arena *a, const struct json *policy, bool mutating, const struct cel_type *object,
                              const struct cel_type *params);

/* ---- what is configured ---- */

struct admission_hook {
    const char *config, *name, *key; /* key: both, for reinvocation */
    const struct json *hook;
    struct cel_policy_env *env; /* of its matchConditions, NULL when there are none */
    struct expr *conditions;
    size_t n_conditions;
};
enum policy_set_kind { SET_VALIDATING_POLICIES, SET_MUTATING_POLICIES, SET_VALIDATING_HOOKS, SET_MUTATING_HOOKS, SETS };
/* A snapshot, immutable and reference-counted; ordered by name. */
struct policy_set {
    _Atomic uint32_t refs;
    struct arena *arena;
    int64_t rev;
    struct policy **policies;
    struct admission_hook *hooks;
    size_t n;
};
struct policy_cache *policy_cache_new(void);
void policy_cache_free(struct policy_cache *p); /* NULL-safe */
/* The caller's reference. */
struct policy_set *policy_set_get(struct rules_ctx *c, enum policy_set_kind kind);
void policy_set_unref(struct policy_set *s); /* NULL-safe */
static inline void cleanup_policy_set(struct policy_set **s) { policy_set_unref(*s); }
#define _cleanup_policy_set_ _cleanup_(cleanup_policy_set)

/* ---- parts of an evaluation ---- */

/* The kind of the parameters: -EINVAL when it is not served. False in *has when the policy has none. */
int policy_param_kind(struct rules_ctx *c, const struct policy *p, struct rules_kind *out, bool *has, struct err *e);
/* The parameters that a binding means: a list in which NULL stands for "none, evaluate with null". Empty: not found, which
 * the binding allows. -EINVAL with upstream's words: a wrong configuration. */
int policy_params(struct rules_ctx *c, const struct policy *p, const struct json *binding, const struct json *obj,
                  const struct json *old, struct json ***out, size_t *n, struct err *e);
/* `variables` for this input (its params must be set). `vars` and `run` must live as long as the input. */
struct cel_lazy *policy_variables(const struct policy *p, struct expr_input *in, struct cel_run *run,
                                  struct cel_val vars[EXPR_SLOTS]);
/* Policies and their bindings are not subject to policies. */
bool policy_exempt(const struct rules_ctx *c);

admission_fn policies_validate, policies_mutate;
