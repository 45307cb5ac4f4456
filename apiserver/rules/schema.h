/* A view of an object's type for code that walks trees (apply, managedFields): the same questions are
 * answered from a built-in type's descriptors and from a CustomResourceDefinition's schema. */
#pragma once

#include "apiserver/rules/strategy.h"

enum schema_kind {
    SCHEMA_LEAF,     /* scalars, and structs, maps and lists owned as one value */
    SCHEMA_STRUCT,   /* object with named members */
    SCHEMA_MAP,      /* object whose members are owned one by one */
    SCHEMA_LIST_MAP, /* array whose items are told apart by key members */
    SCHEMA_LIST_SET, /* array of distinct scalars */
    SCHEMA_DEDUCED,  /* not described: objects are maps, the rest leaves */
};

struct schema {
    const struct api_type *type;   /* a message itself */
    const struct api_field *field; /* the value of a field, as its shape says */
    bool element;                  /* ... or an element of it */
    const struct json *crd;        /* JSON schema */
    bool deduced;
    bool root; /* crd: of the whole object, whose metadata is ObjectMeta */
    bool open; /* crd: part of what keeps unknown fields */
};

enum { SCHEMA_KEYS_MAX = 8 };

struct schema schema_root(const struct rules_ctx *c);
struct schema schema_of_type(const struct api_type *t);
/* Of a member of a struct or map. *named (may be NULL) tells a struct's declared member from a map's. */
struct schema schema_member(struct schema s, const char *key, bool *named);
/* Of a list's items. */
struct schema schema_item(struct schema s);
enum schema_kind schema_kind(struct schema s, const struct json *value);
/* What a value of the schema is in JSON. */
enum schema_shape {
    SHAPE_ANY,
    SHAPE_STRING,
    SHAPE_NUMBER,
    SHAPE_BOOL,
    SHAPE_SCALAR, /* any of them */
    SHAPE_LIST,
    SHAPE_MAP,
    SHAPE_STRUCT, /* an object with all its members declared */
};
enum schema_shape schema_shape(struct schema s);
/* Names of the key members of a LIST_MAP; their number. */
size_t schema_keys(struct schema s, const char *keys[SCHEMA_KEYS_MAX]);
/* What `y` says goes over what `x` has, as in an apply (ssa.c). */
struct json *ssa_merge(struct arena *a, struct schema s, const struct json *x, const struct json *y);
/* JSON text of the default of an item's key member, or NULL. */
const struct json *schema_key_default(struct arena *a, struct schema item, const char *key);
