/* Between openapi.c (schemas), openapi_paths.c (operations) and openapi_documents.c. */
#pragma once

#include "pkg/api/openapi.h"

/* A document in the making: the types it needs so far. */
struct openapi {
    struct arena *a;
    int version; /* 3 or 2 */
    const char *const *groups;
    const struct api_type **types;
    size_t n, cap;
    uint32_t scalars;    /* bits: indices of scalar_schemas that are referred to */
    bool all_namespaces; /* the operation at hand is over all namespaces */
};

void openapi_need(struct openapi *o, const struct api_type *t);
/* Schemas of all that is needed, by name. */
struct json *openapi_close(struct openapi *o);
struct json *openapi_ref(struct arena *a, int version, const char *name);
struct json *openapi_gvk(struct arena *a, const char *group, const char *version, const char *kind);

/* Paths of all rows of a group and version, with the version's discovery document. */
void openapi_rows(struct openapi *o, struct json *paths, const char *group, const char *version,
                  const struct openapi_resource *rows, size_t n);
/* Path of a group's discovery document; group NULL: of the list of groups, or of core versions. */
void openapi_group(struct openapi *o, struct json *paths, const char *group, bool core);
/* Version 2: the parameters that operations refer to, by name. */
void openapi_parameters(struct openapi *o, struct json *into);
