/* Encryption with a key that a key management plugin keeps: KMS v2 of Kubernetes, over gRPC on a unix socket. A value is
 *
 *   "k8s:enc:kms:v2:NAME:" and the protobuf message EncryptedObject (pkg/api/idl/kms.idl)
 *
 * whose data is 32 random bytes, a nonce, and AES-GCM of the value by the key that HKDF expands from a seed and those
 * bytes. The seed is made here, and stands in the message as the plugin has encrypted it; it is made anew whenever the
 * plugin says that its key is another. Seeds that were decrypted are remembered. Upstream:
 * apiserver/pkg/storage/value/encrypt/envelope/kmsv2, apiserver/pkg/server/options/encryptionconfig. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/base/err.h"
#include "pkg/json/json.h"

struct envelope;
/* `config`: {apiVersion, name, endpoint, timeout}. Waits some seconds for a plugin that is not there yet; then it is asked in
 * the background. -EINVAL for settings that make no sense. */
int envelope_new(const struct json *config, struct envelope **out, struct err *e);
void envelope_free(struct envelope *x); /* waits for a question that is under way; NULL-safe */
const char *envelope_name(const struct envelope *x);

/* Behind the name. -EAGAIN: the plugin has not been well for so long that nothing may be written. */
int envelope_encrypt(struct envelope *x, const char *key, const char *p, size_t n, struct buf *out, struct err *e);
/* In `a`, NUL-terminated. May ask the plugin. */
int envelope_decrypt(struct envelope *x, struct arena *a, const char *key, const char *p, size_t n, const char **out,
                     size_t *out_len, struct err *e);
/* Whether it was encrypted by the plugin's present key. */
bool envelope_current(struct envelope *x, const char *p, size_t n);
/* Whether the plugin is well; asks it when it has not been asked lately. */
int envelope_check(struct envelope *x, struct err *e);
