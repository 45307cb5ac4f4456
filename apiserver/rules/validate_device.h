/* What the kinds of resource.k8s.io share (validate_device.c). */
#pragma once

#include "apiserver/rules/kinds.h"

extern const char *const device_taint_effects[];

/* Reports a list longer than `max`; true then: its items are not looked at. */
bool device_too_many(struct vctx *v, const struct json *list, size_t max, const struct fp *p);
/* No two items are alike in `member` (NULL: as a whole). */
void device_unique(struct vctx *v, const struct json *list, const char *member, const struct fp *p);
void device_pool_name(struct vctx *v, const struct json *name, const struct fp *p);
/* An identifier, or a domain and an identifier. */
void device_qualified_name(struct vctx *v, const char *s, const struct fp *p);
void device_label_value(struct vctx *v, const struct json *value, const struct fp *p);
/* bindingConditions and bindingFailureConditions of `o`. */
void device_binding(struct vctx *v, const struct json *o, const struct fp *p);

void validate_claim_status(struct vctx *v, const struct json *obj, const struct json *old);
/* Drops status.devices that `was` had allocated and `status` has not. */
void claim_forget_devices(struct arena *a, struct json *status, const struct json *was);
