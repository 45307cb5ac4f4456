/* TLS 1.3 records made without OpenSSL's record layer: record.c says why. */
#pragma once

#include <stdbool.h>

#include "pkg/base/buf.h"

enum {
    TLS_RECORD_MAX = 16 * 1024, /* bytes of plaintext in a record (RFC 8446 5.1) */
    RECORD_HANDSHAKE = 22,      /* content types */
    RECORD_APPLICATION = 23,
};

struct tls_records;

/* Keys for what is sent from now on. `info` is a struct tls12_crypto_info_aes_gcm_128 or _256 of linux/tls.h. *t is made
 * when it is NULL; the caller frees it. False when it is another version or cipher (then *t is as before). */
bool tls_records_key(struct tls_records **t, const void *info);
void tls_records_free(struct tls_records *t); /* NULL-safe */
/* Appends to `out` the record of this content type with n_head and then n bytes (at most TLS_RECORD_MAX together; head
 * may be NULL). False when OpenSSL fails. */
bool tls_records_add(struct tls_records *t, uint8_t type, const char *head, size_t n_head, const char *p, size_t n,
                     struct buf *out);
