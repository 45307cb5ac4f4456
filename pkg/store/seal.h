/* Values of the store, encrypted: Kubernetes' encryption at rest, in its formats, so that an upstream API server with the
 * same configuration reads what is written here and the other way round. Upstream: apiserver/pkg/storage/value.
 *
 *   identity   the value itself
 *   aescbc     "k8s:enc:aescbc:v1:NAME:", 16 bytes of IV, AES-CBC with PKCS#7 padding
 *   aesgcm     "k8s:enc:aesgcm:v1:NAME:", 12 bytes of nonce, AES-GCM and its tag; the store's key is authenticated too
 *   secretbox  "k8s:enc:secretbox:v1:NAME:", 24 bytes of nonce, XSalsa20 and Poly1305
 *   kms        "k8s:enc:kms:v2:NAME:", see envelope.h
 */
#pragma once

#include "pkg/json/json.h"
#include "pkg/store/store.h"

/* The providers of one entry of an EncryptionConfiguration: the first encrypts, all decrypt. Thread-safe. */
struct seals;
struct envelope;
/* -EINVAL says what is wrong. Waits some seconds for key management plugins. Keys are wiped when they are freed. */
int seals_new(const struct json *providers, struct seals **out, struct err *e);
void seals_free(struct seals *s); /* NULL-safe */
/* Appends what is to be stored under `key`. */
int seals_encrypt(const struct seals *s, const char *key, const char *p, size_t n, struct buf *out, struct err *e);
/* The plain value in `a`, NUL-terminated (or `p` itself). -EBADMSG: by none of the keys. */
int seals_decrypt(const struct seals *s, struct arena *a, const char *key, const char *p, size_t n, const char **out,
                  size_t *out_len, struct err *e);
/* Whether what is stored is what seals_encrypt would make of it now: by the first key. */
bool seals_current(const struct seals *s, const char *p, size_t n);
/* The i-th of its key management plugins; NULL: there are not so many. */
struct envelope *seals_kms(const struct seals *s, size_t i);

/* Which keys are encrypted how: the first prefix that fits. */
struct sealed_prefix {
    const char *prefix;
    bool custom; /* only keys whose next part has a dot: those of custom resources */
    const struct seals *seals;
};
/* A store before `inner`, which it owns from here on. The table is copied; its strings and seals must live as long. A value
 * that cannot be decrypted fails a get or a list; watches pass it on as it is stored. */
struct store *store_sealed_new(struct store *inner, const struct sealed_prefix *table, size_t n);
/* Another table from now on, once nobody works by the old one, which is then the caller's to free. `s` is of
 * store_sealed_new. */
void store_sealed_replace(struct store *s, const struct sealed_prefix *table, size_t n);
/* True when the key's value is stored otherwise than it would be now: by an older key, or not encrypted. */
bool store_stale(struct store *s, const char *key);
