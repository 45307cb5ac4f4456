/* Custom resources by their schema (crd_schema.c). */
#pragma once

#include "apiserver/rules/rules.h"

/* Decoding: apiVersion, kind and metadata are brought into canonical form, members that the schema does not know are
 * dropped and noted in `unknown` (may be NULL). ctx->crd_schema NULL keeps everything. -EINVAL as api_tree_normalise. */
int crd_normalise(struct rules_ctx *c, struct json *obj, struct api_problems *unknown, struct err *e);
void crd_default(struct rules_ctx *c, struct json *obj);
void crd_validate(struct vctx *v, const struct json *obj, const struct json *old);
/* The schema of a CRD itself is structural: findings below `p`. */
void crd_check_structural(struct vctx *v, const struct json *schema, const struct fp *p);
