/* Inside pkg/store: AES-GCM, by a key of 16, 24 or 32 bytes; the store's key is authenticated too. */
#pragma once

#include <sys/types.h>

#include "pkg/store/seal.h"

enum { SEAL_GCM_MORE = 12 + 16 }; /* bytes that a value grows by: nonce and tag */

/* Into out, which has room for n + SEAL_GCM_MORE bytes; the length, or -1. */
ssize_t seal_gcm_encrypt(const unsigned char *k, size_t k_len, const char *key, const char *in, size_t n,
                         unsigned char *out);
/* Into out, which has room for n bytes; the length, or -1. */
ssize_t seal_gcm_decrypt(const unsigned char *k, size_t k_len, const char *key, const unsigned char *in, size_t n,
                         unsigned char *out);
