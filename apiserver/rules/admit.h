/* What webhooks and admission policies share: which writes they are about, and a write as they see it. */
#pragma once

#include "apiserver/rules/admission.h"

#define ADMISSION_GROUP "admissionregistration.k8s.io"

/* A write in the version that a rule named. obj and old have kind and apiVersion; NULL where there is none. */
struct admit_view {
    struct rules_kind as;
    struct json *obj, *old;
};

/* "CREATE", ... */
const char *admit_operation(const struct rules_ctx *c);
/* The kind and resource that the client named; and of the object in the body. */
struct rules_kind admit_requested(const struct rules_ctx *c);
/* The name of the object, "" when there is none yet; its namespace ("" for cluster-scoped; a namespace is in itself). */
const char *admit_name(const struct rules_ctx *c, const struct json *obj, const struct json *old);
const char *admit_namespace(const struct rules_ctx *c, const struct json *obj, const struct json *old);

/* The first of the rules (RuleWithOperations, with resourceNames where they have them) that matches: the request itself,
 * or with `equivalent` another version of what it asks for. *as is what the rule matched. */
bool admit_rules_match(struct rules_ctx *c, const struct json *rules, bool equivalent, const char *name,
                       struct rules_kind *as);
/* namespaceSelector and objectSelector of `holder`. */
bool admit_selectors_match(struct rules_ctx *c, const struct json *holder, const struct json *obj,
                           const struct json *old);
/* A MatchResources: selectors, excludeResourceRules, resourceRules. */
bool admit_resources_match(struct rules_ctx *c, const struct json *m, const struct json *obj, const struct json *old,
                           struct rules_kind *as);

/* The write in that version; conversions may block (a webhook of a custom resource). */
int admit_view_make(struct rules_ctx *c, const struct rules_kind *as, const struct json *obj, const struct json *old,
                    struct admit_view *out, struct err *e);
/* Puts a changed object of a view in the place of *obj: decoded, defaulted, in the stored version. *changed: it is another
 * than before. */
int admit_replace(struct rules_ctx *c, struct json *now, struct json *obj, bool *changed, struct err *e);
/* An AdmissionRequest without object and oldObject, for both. uid NULL: without. */
struct json *admit_request(struct rules_ctx *c, const struct rules_kind *as, const struct json *obj,
                           const struct json *old, const char *uid);

/* Which plugins of a mutating round are asked again in a second one (upstream: admission.ReinvocationContext). Keys are
 * texts of the caller's. */
struct reinvocation {
    const char **before, **again; /* invoked and willing; to be asked again */
    size_t n_before, cap_before, n_again, cap_again;
    struct json *last; /* what the object was when they were through */
};
/* Something changed: all that went before and are willing are asked again. */
void reinvocation_require(struct arena *a, struct reinvocation *r);
void reinvocation_add(struct arena *a, struct reinvocation *r, const char *key);
bool reinvocation_wanted(const struct reinvocation *r, const char *key);

/* The state of one admission: lives for both rounds of the mutating chain. */
struct admit_rounds {
    bool second, wanted; /* in the second round; somebody wants one */
    struct reinvocation hooks, policies;
};
