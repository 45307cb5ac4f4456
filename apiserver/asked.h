/* What an authorizer is told of selectors: of those in a request's query, in an access review, in an expression. Upstream:
 * the feature AuthorizeWithSelectors; what is not understood is left out, as selectors only narrow. */
#pragma once

#include "apiserver/auth/authz.h"

/* Verbs of requests that selectors narrow. */
bool asked_selects(const char *verb);
/* Of ?fieldSelector= and ?labelSelector= (NULL or "": nothing is selected); in `a`. */
struct authz_selector asked_fields(struct arena *a, const char *text);
struct authz_selector asked_labels(struct arena *a, const char *text);
/* Of resourceAttributes.fieldSelector or .labelSelector of an access review (NULL: absent). *all: everything in it was
 * understood. */
struct authz_selector asked_in_review(struct arena *a, const struct json *selector, bool labels, bool *all);
