/* Access reviews: whether they may be asked (review_check.c). */
#pragma once

#include "apiserver/handlers.h"

/* 422 Invalid with everything that is wrong with the review, else 0. */
int review_check(struct request *q, const struct json *review, struct err *e);
/* What of its selectors was not understood, as status.evaluationError says it; NULL: all was. */
const char *review_ignored(struct arena *a, const struct json *spec);
