/* An object as the watch cache holds it: its JSON (resourceVersion in its place) once, and beside it what selectors
 * compare, as spans into those bytes. Immutable and reference-counted: caches, history, lists in flight and watchers
 * share it.
 *
 * The bytes are the object's JSON without its beginning: from `"metadata":` to the closing brace. What goes before is
 * the same for all objects of a resource: {"kind":...,"apiVersion":..., in a GET and in an event of a watch, only {
 * in a list of built-in objects. So every answer is a series of shared pieces and nothing is copied. */
#pragma once

#include <stdatomic.h>

#include "apiserver/resource.h"
#include "pkg/base/bytes.h"

struct span {
    uint32_t off, len;
};
struct object_label {
    struct span key, value;
};

struct object {
    _Atomic uint32_t refs;
    uint32_t version; /* custom: which of res->versions the data is in, from 1; 0: that of the row */
    int64_t rev;      /* the resourceVersion */
    int64_t create_rev;
    const struct resource *res;
    struct rbytes *tail;
    const char *key; /* "ns/name", or "name" for cluster-scoped resources */
    uint32_t ns_len; /* of the part before the slash, 0: cluster-scoped */
    uint32_t n_labels, n_fields;
    struct object_label *labels;
    struct span *fields;                 /* values of res->fields; len 0: empty or absent */
    _Atomic(struct object_view *) views; /* the same in other versions: crd/convert.h */
};

/* An object in another version, as a conversion webhook gave it: a list that only grows and goes with the object. */
struct object_view {
    struct object *o;
    int64_t spec_rev; /* of the definition by which it was converted */
    struct object_view *next;
};

/* Makes an object of a stored value (without resourceVersion, or with one, which is replaced by `rev`; rev 0: none). `key` is what
 * follows the resource's key prefix. NULL when the bytes are not an object's JSON. */
struct object *object_new(const struct resource *r, const char *key, const char *value, size_t len, int64_t create_rev,
                          int64_t rev);
/* The same object at another revision: the last state of something deleted carries the deletion's revision. */
struct object *object_at_rev(const struct object *o, int64_t rev);
/* The same object for another row of its resource. */
struct object *object_new_tail(const struct resource *r, const struct object *o);
struct object *object_ref(struct object *o);
void object_unref(struct object *o); /* NULL-safe */
static inline void cleanup_object(struct object **o) { object_unref(*o); }
#define _cleanup_object_ _cleanup_(cleanup_object)
static inline const char *object_name(const struct object *o) { return o->ns_len ? o->key + o->ns_len + 1 : o->key; }
static inline const char *object_at(const struct object *o, struct span s) { return o->tail->data + s.off; }
/* The version that the object's data is in: "v1". */
static inline const char *object_version(const struct object *o) {
    return o->version ? o->res->versions[o->version - 1] : o->res->version;
}
/* The object as a tree in `a`, with the kind and apiVersion of its resource; the apiVersion of its data where a webhook
 * converts. */
struct json *object_tree(struct arena *a, const struct object *o);
/* `{"kind":"Pod","apiVersion":"v1",` in `a`: what stands before the tail. */
char *object_head(struct arena *a, const struct resource *r);
struct pieces *pieces_new(const struct resource *r);
void pieces_free(struct pieces *p); /* NULL-safe */
/* The whole JSON in `a`. */
char *object_text(struct arena *a, const struct object *o, size_t *len);
