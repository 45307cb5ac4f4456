/* Immutable reference-counted bytes, shared between caches, watchers, connections and threads; and a few encodings. */
#pragma once

#include <stdatomic.h>

#include "util.h"

struct rbytes {
    _Atomic uint32_t refs;
    uint32_t reserved;
    size_t len;
    char data[]; /* len bytes and a NUL */
};

/* Copies p; the caller holds the one reference. */
struct rbytes *rbytes_new(const void *p, size_t len);
/* Uninitialised: fill before sharing. */
struct rbytes *rbytes_alloc(size_t len);
struct rbytes *rbytes_ref(struct rbytes *b);
void rbytes_unref(struct rbytes *b); /* NULL-safe */
static inline void cleanup_rbytes(struct rbytes **b) { rbytes_unref(*b); }
#define _cleanup_rbytes_ _cleanup_(cleanup_rbytes)

/* Base64 (RFC 4648, standard alphabet, padded). `out` has room for base64_encoded_len(n) + 1; returns the length. */
static inline size_t base64_encoded_len(size_t n) { return (n + 2) / 3 * 4; }
size_t base64_encode(const void *p, size_t n, char *out);
/* Strict decoding as Go's StdEncoding does it (CR and LF are skipped). `out` has room for n/4*3. -EINVAL when bad. */
int base64_decode(const char *s, size_t n, void *out, size_t *out_len);
/* base64url without padding (RFC 7515): tokens. */
size_t base64url_encode(const void *p, size_t n, char *out);
int base64url_decode(const char *s, size_t n, void *out, size_t *out_len);
/* Lower-case hex; `out` has room for 2n + 1. */
void hex_encode(const void *p, size_t n, char *out);

/* Random bytes from the kernel; aborts when there are none. */
void random_bytes(void *p, size_t n);
/* Random UUID version 4 in its text form. */
void uuid_new(char out[37]);
/* n characters of Kubernetes' name alphabet (bcdfghjklmnpqrstvwxz2456789) and a NUL. */
void random_name(char *out, size_t n);
