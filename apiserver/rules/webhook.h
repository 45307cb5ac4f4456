/* Admission webhooks (webhook.c). */
#pragma once

#include "apiserver/rules/admission.h"

/* Calls the webhooks of all MutatingWebhookConfigurations that match, in order; the object becomes what their
 * patches make of it, canonical and with defaults. */
int webhooks_mutate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);
/* The same for ValidatingWebhookConfigurations, which may only refuse. */
int webhooks_validate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);
