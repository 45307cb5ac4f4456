/* Label and field selectors, as they stand in ?labelSelector= and ?fieldSelector=. */
#pragma once

#include "apiserver/object.h"
#include "pkg/base/err.h"

enum selector_op { SEL_EQ, SEL_NE, SEL_IN, SEL_NOT_IN, SEL_EXISTS, SEL_NOT_EXISTS, SEL_GT, SEL_LT };

struct selector_req {
    enum selector_op op;
    const char *key;
    const char **values;
    size_t n_values;
    int field; /* field selectors: index in res->fields, or one of the two below */
};
enum { SEL_FIELD_NAME = -1, SEL_FIELD_NAMESPACE = -2 };

struct selector {
    struct selector_req *labels, *fields;
    size_t n_labels, n_fields;
    const char *only_name; /* metadata.name=X: at most one object a namespace */
};

enum { SELECTOR_MAX_REQS = 256, SELECTOR_MAX_VALUES = 4096 };

/* Parses both (NULL or "" select everything); the result lives in `a`. 400 BadRequest with Kubernetes' messages. */
int selector_parse(struct arena *a, const struct resource *r, const char *labels, const char *fields,
                   struct selector *out, struct err *e);
/* Only fields, of no resource: what the terms say is not looked at. */
int selector_parse_fields(struct arena *a, const char *text, struct selector *out, struct err *e);
/* Only the labels; for selectors of tables, scale, and others' use. */
int selector_parse_labels(struct arena *a, const char *text, struct selector *out, struct err *e);
bool selector_match(const struct selector *s, const struct object *o);
static inline bool selector_empty(const struct selector *s) { return !s->n_labels && !s->n_fields; }
/* A copy on the heap, for what outlives the request (watches). */
struct selector *selector_dup(const struct selector *s);
void selector_free(struct selector *s);
