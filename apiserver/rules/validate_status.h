/* Writes to /status (validate_status.c). */
#pragma once

#include "apiserver/rules/rules.h"

void validate_status(struct vctx *v, const struct json *obj, const struct json *old);
/* The conditions that many kinds write alike (metav1.Condition). */
void validate_conditions(struct vctx *v, const struct json *list, const struct fp *p);

/* Of one kind each. */
void validate_pod_status(struct vctx *v, const struct json *obj, const struct json *old);
void validate_job_status(struct vctx *v, const struct json *obj, const struct json *old);
/* On /approval, and on updates of the whole, too. */
void validate_csr_status(struct vctx *v, const struct json *obj, const struct json *old);
void validate_node_status(struct vctx *v, const struct json *obj, const struct json *old);
