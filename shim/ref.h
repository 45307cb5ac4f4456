/* Image references: "busybox", "localhost:5000/team/app:v1@sha256:...". The rules are those of the OCI distribution
 * specification and of Docker's familiar names: no host means docker.io, one path component on docker.io means
 * library/, no tag and no digest means :latest. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"

enum { IMAGE_REF_MAX = 512 };

struct image_ref {
    const char *host;   /* "docker.io", "localhost:5000" */
    const char *path;   /* "library/busybox" */
    const char *tag;    /* NULL when the reference has a digest only */
    const char *digest; /* "sha256:..." or NULL */
};

/* Parses and normalises; strings live in `a`. -EINVAL with a reason. */
int image_ref_parse(struct arena *a, const char *s, struct image_ref *out, struct err *e);
/* "host/path" */
const char *image_ref_repo(struct arena *a, const struct image_ref *r);
/* The full normal form: "host/path[:tag][@digest]". */
const char *image_ref_str(struct arena *a, const struct image_ref *r);
/* True for "sha256:" and 64 lower-case hex digits. */
bool digest_valid(const char *s);
/* True for 64 (or, as a prefix of an id, at least 6) lower-case hex digits. */
bool is_hex_id(const char *s, size_t min);
