/* YAML as Kubernetes reads it, turned into JSON trees: YAML 1.1 scalars as go-yaml v2 resolves them (yes/no/on/off are
 * booleans, 0777 is octal, "" and ~ are null), merge keys, anchors, several documents in a stream. Non-string keys
 * become strings. .inf and .nan are refused, as JSON has no word for them. */
#pragma once

#include "pkg/json/json.h"

struct yaml_docs {
    struct json **items; /* empty documents (only comments) are left out */
    size_t n, cap;
};

enum {
    YAML_MAX_DEPTH = 256,
    YAML_MAX_NODES = 2000000, /* of all documents, aliases expanded: against "billion laughs" */
};

/* Parses a stream into trees in `a`. Duplicate keys: the last wins; `dups` (may be NULL) notes each, in
 * the words "line 3: key \"a\" already set in map" rather than by path.
 * -EINVAL with line number for bad syntax, -EFBIG when aliases expand beyond YAML_MAX_NODES. */
int yaml_parse(struct arena *a, const char *p, size_t n, struct yaml_docs *out, struct json_dups *dups, struct err *e);
/* Exactly one document (an empty one gives JSON null). */
int yaml_parse_one(struct arena *a, const char *p, size_t n, struct json **out, struct json_dups *dups, struct err *e);
/* The one document of a file of at most `max` bytes. Blocks. Errors of reading (-ENOENT, -EFBIG, ...) and of parsing name
 * the file. */
int yaml_read_file(struct arena *a, const char *path, size_t max, struct json **out, struct err *e);
/* The first document; what follows it is not looked at. */
int yaml_parse_first(struct arena *a, const char *p, size_t n, struct json **out, struct json_dups *dups,
                     struct err *e);
/* Writes a tree as block-style YAML, keys in tree order: for `Accept: application/yaml`. */
int yaml_write(struct buf *b, const struct json *v, struct err *e);
