/* Custom resources by their schema (crd_schema.c). */
#pragma once

#include "apiserver/rules/rules.h"

void crd_default(struct rules_ctx *c, struct json *obj);
void crd_validate(struct vctx *v, const struct json *obj, const struct json *old);
/* The schema of a CRD itself is structural: findings below `p`. status: the version has it as a subresource. */
void crd_check_structural(struct vctx *v, const struct json *schema, bool status, const struct fp *p);
/* A default fits its schema. */
void crd_check_default(struct vctx *v, const struct json *schema, const struct json *dflt, const struct fp *p);
