/* Custom resources whose versions a webhook converts (spec.conversion.strategy Webhook).
 *
 * Objects lie in the store and in the watch cache in the version they were written in. A read, an event of a watch, or
 * a write that finds an object in another version than the request's has the webhook convert it: one ConversionReview
 * for all objects of a list. What came back is kept with the cached object, so that each version of an object is
 * converted once, however many clients look at it, until the definition changes.
 *
 * A webhook may change everything but metadata; of that only labels and annotations. Its answers are pruned and
 * defaulted by the schema of the version, like what is read from the store. Errors are 500s with upstream's messages.
 * Upstream: apiextensions-apiserver/pkg/apiserver/conversion. */
#pragma once

#include "apiserver/request.h"

enum { CONVERT_BATCH_MAX = 512, VIEWS_MAX = 8 };

/* True when the object must be converted before it can be shown in the version of `to`. */
static inline bool crd_must_convert(const struct resource *to, const struct object *o) {
    return to->converts && !str_eq(to->version, object_version(o));
}
/* The object in the version of `to`: a new reference to itself when nothing has to be converted. Blocks. */
int crd_view(struct apiserver *s, const struct resource *to, struct object *o, struct object **out, struct err *e);
/* The same for many at once: each reference in `items` is replaced by that to the view. */
int crd_views(struct apiserver *s, const struct resource *to, struct object **items, size_t n, struct err *e);
/* The view that is there already, as a new reference; NULL when crd_view would have to call. Does not block. */
struct object *crd_view_known(struct apiserver *s, const struct resource *to, struct object *o);
/* A tree (with its apiVersion), on its way to the store: *v becomes the tree in the version of `to`. Blocks. */
int crd_convert_tree(struct apiserver *s, struct arena *a, const struct resource *to, struct json **v, struct err *e);
