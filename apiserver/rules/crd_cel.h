/* x-kubernetes-validations: rules in CEL that stand in a CustomResourceDefinition's schema, at the root or anywhere
 * below. They are compiled once per schema and evaluated when a custom resource is written. Upstream:
 * apiextensions-apiserver/pkg/apiserver/schema/cel, pkg/apis/apiextensions/validation. */
#pragma once

#include "apiserver/rules/rules.h"
#include "pkg/cel/cel.h"

struct crd_rule {
    const char *text, *message, *reason, *field_path; /* trimmed; NULL when absent */
    const char *message_text;                         /* messageExpression */
    const struct cel_prog *prog, *message_prog;
    const char *error, *message_error; /* why they do not compile */
    bool uses_old, optional_old;
};

/* A node of a schema that has rules, or has such nodes below it. Immutable. */
struct crd_cel {
    const struct json *schema;
    const struct cel_type *type;
    struct crd_rule *rules;
    uint32_t n_rules, n_props, cap_props;
    struct crd_cel_prop {
        const char *key;
        const struct crd_cel *node;
    } * props;
    const struct crd_cel *items, *values;
};

/* Compiles all rules of the schema into `a`, which must keep `schema` too. NULL when there are none. */
const struct crd_cel *crd_cel_compile(struct arena *a, const struct json *schema);
/* Evaluates v->c->crd_cel against the object; findings as Kubernetes words them, warnings for what was wrong before
 * and was not touched. `old` NULL: a creation. */
void crd_cel_validate(struct vctx *v, const struct json *obj, const struct json *old);
/* The rules of a definition that is written: their form, whether they compile, and what they may cost. */
void crd_cel_check(struct vctx *v, const struct json *schema, const struct fp *p);

/* A default must keep to the rules of its schema; rules that do not compile are left to crd_cel_check. */
void crd_cel_check_default(struct vctx *v, const struct json *schema, const struct json *dflt, const struct fp *p);

/* The form of one rule: what is there, and that its fieldPath leads somewhere. */
void crd_cel_check_form(struct vctx *v, const struct json *schema, const struct json *rule, const struct fp *p);

/* One rule, with `self` (and oldSelf) of this type. */
void crd_cel_compile_rule(struct arena *a, const struct cel_type *self, const struct json *schema,
                          const struct json *rule, struct crd_rule *out);
/* A rule's fieldPath (".spec.x", ".labels['a']") as a field path, or NULL when the schema has no such field. */
const char *crd_cel_field_path(struct arena *a, const struct json *schema, const char *path);
/* Text without blanks at its ends; NULL for NULL. */
const char *crd_cel_trim(struct arena *a, const char *s);
