/* CEL in admission: what expressions of policies and matchConditions may name, compiling them, and evaluating them for
 * one write under the cost budgets. Upstream: apiserver/pkg/admission/plugin/cel. */
#pragma once

#include "apiserver/rules/admit.h"
#include "pkg/cel/policy_env.h"

struct expr {
    const char *name, *src;
    const struct cel_prog *prog; /* NULL: does not compile, */
    const char *error;           /* and why: "compilation failed: ..." */
};
/* Compiles `src` for a result of exactly one of `types` (as cel_type_text has them, NULL-terminated; NULL: of any). */
struct expr expr_compile(struct arena *a, const struct cel_policy_env *env, const char *name, const char *src,
                         const char *const *types);

/* The values for one write. */
struct expr_input {
    struct rules_ctx *c;
    const struct admit_view *view;
    struct json *request, *ns, *params; /* ns, params: NULL for none */
    struct cel_lazy *variables;         /* NULL: none */
    int64_t budget;                     /* of cost, left */
};
void expr_input_init(struct expr_input *in, struct rules_ctx *c, const struct admit_view *view, const struct json *obj,
                     const struct json *old, uint64_t budget);
/* A run for `env`: vars is filled. */
enum { EXPR_SLOTS = CEL_VARS };
void expr_run_init(struct expr_input *in, const struct cel_policy_env *env, struct cel_run *run,
                   struct cel_val vars[EXPR_SLOTS]);

/* 0; -EINVAL: the expression failed; -E2BIG: the budget is used up, nothing more may be evaluated. *why is the message. */
int expr_eval(struct expr_input *in, const struct cel_policy_env *env, const struct expr *x, struct cel_val *out,
              const char **why);

/* matchConditions: true when the write is meant. *why is set when that cannot be said and failurePolicy is Fail. */
bool expr_conditions_match(struct expr_input *in, const struct cel_policy_env *env, const struct expr *list, size_t n,
                           bool ignore, const char **why);
