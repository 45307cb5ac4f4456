/* Warnings about objects that are valid but deprecated or likely mistaken (warnings.c). */
#pragma once

#include "apiserver/rules/rules.h"

/* `p` is the path of the pod or template: NULL for a pod. */
void warn_pod(struct vctx *v, const struct json *meta, const struct json *spec, const struct fp *p);
/* Whatever else a kind warns about. */
void warn_object(struct vctx *v, const struct json *obj, const struct json *old);
