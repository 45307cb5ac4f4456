/* Writes to /status (validate_status.c). */
#pragma once

#include "apiserver/rules/rules.h"

void validate_status(struct vctx *v, const struct json *obj, const struct json *old);
void validate_conditions(struct vctx *v, const struct json *list, const struct fp *p);
