/* Resource quantities ("250m", "1Gi", "1e3"): upstream's resource.Quantity. Exact for |value| < 2^63 with up to nine
 * decimal places, which is what Kubernetes keeps. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"

enum quantity_format { QUANTITY_DECIMAL_SI, QUANTITY_BINARY_SI, QUANTITY_DECIMAL_EXPONENT };
struct quantity {
    __int128 nano; /* value in 10^-9 */
    enum quantity_format format;
};

/* 0 or -EINVAL. Fractions beyond nano round up (away from zero), as Kubernetes does. */
int quantity_parse(const char *s, struct quantity *out);
/* Canonical text: "1500m", "1Gi", "0". */
char *quantity_format(struct arena *a, struct quantity q);
/* What is stored of a text, or NULL when it is no quantity: its canonical form, or the text itself where upstream leaves
 * it ("+1", "5."). */
char *quantity_canonical(struct arena *a, const char *s);
/* Whole units and thousandths, rounded up; saturating at INT64_MAX. */
int64_t quantity_value(struct quantity q);
int64_t quantity_milli(struct quantity q);
/* The same from text: 0 for NULL or a bad one. */
int64_t quantity_str_value(const char *s);
int64_t quantity_str_milli(const char *s);
int quantity_cmp(struct quantity a, struct quantity b);
struct quantity quantity_add(struct quantity a, struct quantity b);
struct quantity quantity_sub(struct quantity a, struct quantity b);
