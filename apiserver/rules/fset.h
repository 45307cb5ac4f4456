/* Sets of field paths: what managedFields hold. A node is one path element below its parent; it can itself be
 * a member of the set ("."), and have children. The text form is FieldsV1: f:NAME a member of an object,
 * k:{...} an item of a keyed list, v:VALUE an item of a set, i:N an item by index. */
#pragma once

#include "apiserver/rules/schema.h"

struct fset {
    bool member;
    uint32_t n, cap;
    struct fset_entry {
        const char *elem; /* "f:spec", "k:{\"name\":\"c\"}" */
        struct fset *sub;
    } * items;
};

struct fset *fset_new(struct arena *a);
bool fset_empty(const struct fset *s);
struct fset *fset_get(const struct fset *s, const char *elem);
/* The child, made when absent. */
struct fset *fset_child(struct arena *a, struct fset *s, const char *elem);
/* Of operations on sets: what they give may share nodes with what they were given, so a set is not changed any more once
 * it is made. */
struct fset *fset_union(struct arena *a, const struct fset *x, const struct fset *y);
struct fset *fset_difference(struct arena *a, const struct fset *x, const struct fset *y);
struct fset *fset_intersection(struct arena *a, const struct fset *x, const struct fset *y);
bool fset_equal(const struct fset *x, const struct fset *y);
struct fset *fset_from_json(struct arena *a, const struct json *v);
struct json *fset_to_json(struct arena *a, const struct fset *s);
/* All fields of a value (upstream: ToFieldSet). */
struct fset *fset_of_value(struct arena *a, struct schema s, const struct json *v);
/* What differs between two values; any may be NULL. */
struct fset_diff {
    struct fset *added, *modified, *removed;
};
struct fset_diff fset_compare(struct arena *a, struct schema s, const struct json *x, const struct json *y);
/* Path element of a list's item: "k:{...}" or "v:..."; NULL when a key is missing. */
const char *fset_item_elem(struct arena *a, struct schema list, const struct json *item);
const char *fset_field_elem(struct arena *a, const char *name);
