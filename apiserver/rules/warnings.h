/* Warnings about objects that are valid but deprecated or likely mistaken (warnings.c). */
#pragma once

#include "apiserver/rules/rules.h"

/* `p` is the path of the pod or template: NULL for a pod. */
void warn_pod(struct vctx *v, const struct json *meta, const struct json *spec, const struct fp *p);
/* Addresses of a pod's spec. */
void warn_pod_addresses(struct vctx *v, const struct json *spec, const struct fp *sp);
/* Addresses of the other kinds, and of statuses (warn_addresses.c). */
void warn_addresses(struct vctx *v, const struct json *obj);
void warn_status_addresses(struct vctx *v, const struct json *obj);
/* Of a new object: names that become those of pods. */
void warn_name(struct vctx *v, const struct json *obj);
/* Whatever else a kind warns about. */
void warn_object(struct vctx *v, const struct json *obj, const struct json *old);
