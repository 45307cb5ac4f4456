/* What the codecs of pkg/api share: the shapes of generic containers, and the textual forms of scalars. */
#pragma once

#include "pkg/api/api.h"

enum {
    API_MAX_PROTO_DEPTH = 100, /* nested messages in protobuf */
    API_MAX_PATH = 512,        /* bytes of a field path in a message */
};

/* Every generated vector and map has this layout. */
struct any_vec {
    void *items;
    size_t n;
};
/* Every map entry begins with its key; the value follows at MAP_VALUE. */
enum { MAP_VALUE = sizeof(char *) };

/* Stands for the memory of a list or map that is present but empty. */
extern char api_empty_items[1];

/* Bytes of one value of this kind in C. */
size_t api_elem_size(const struct api_field *f);
/* Bytes of one entry of a map (API_MAP, API_MAP_LISTS). */
size_t api_entry_size(const struct api_field *f);
/* Room for one more element (zeroed), which is counted. */
void *api_vec_push(struct arena *a, struct any_vec *v, size_t elem);
/* Sorts entries by key; of equal keys the last stays. */
void api_map_sort(struct arena *a, struct any_vec *m, size_t entry);
/* Whether what a field that may be nil points to, or the list or map at p, is not there. */
bool api_is_nil(const struct api_field *f, const void *p);
/* Is the C value of a scalar *bool, *int32, ... a pointer? */
static inline bool api_is_pointer(const struct api_field *f) {
    return f->shape == API_PTR &&
           (f->kind == API_BOOL || f->kind == API_INT32 || f->kind == API_INT64 || f->kind == API_UINT32 ||
            f->kind == API_UINT64 || f->kind == API_DOUBLE || f->kind == API_ENUM || f->kind == API_MESSAGE);
}

/* Where a codec is in a document: a chain on the C stack, turned into text only for messages. */
struct api_at {
    const struct api_at *up;
    const char *key; /* NULL: an element of a list */
    size_t key_len, index;
};
/* "spec.containers[0].image"; without indices "spec.containers.image". `out` has API_MAX_PATH bytes. */
char *api_at_text(const struct api_at *at, bool indices, char *out);

/* Time of a textual form, as the kind keeps it: whole seconds or microseconds. 0 or -EINVAL. */
int api_time_parse(enum api_kind k, const char *s, struct ktime *out);

/* Tree to struct for the API server: strict, and raw values stay trees (raw_json.tree). */
int api_decode_tree_strict(struct arena *a, const struct api_type *t, const struct json *v, void *out,
                           struct api_problems *unknown, struct err *e);
/* The same, with empty lists and maps as absent ones. */
int api_decode_tree_stored(struct arena *a, const struct api_type *t, const struct json *v, void *out, struct err *e);
/* Struct to tree sharing the strings (and raw trees) of `obj`, which lives in `a`. */
struct json *api_encode_tree_shared(struct arena *a, const struct api_type *t, const void *obj);
