/* Objects, as the informers make them. */
#pragma once

#include "pkg/client/informer.h"

/* An object with one reference out of `obj`, a struct of type `t` that lives in `a`; takes the arena over. */
struct object *object_adopt(struct arena *a, const struct client_resource *r, const struct api_type *t, void *obj);
/* Appends with a reference of the list's own. */
void object_list_add(struct object_list *l, struct object *o);
