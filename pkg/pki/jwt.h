/* JSON web tokens as Kubernetes uses them: service-account tokens, RS256 and ES256, key ids, and the JWKS document.
 *
 * The key id is base64url(SHA-256(DER of the public key)), as upstream computes it. Tokens longer than
 * JWT_MAX are refused unread. */
#pragma once

#include "pkg/base/ktime.h"
#include "pkg/json/json.h"

enum { JWT_MAX = 16 * 1024, JWT_KEYS_MAX = 64 };

/* ---- signing ---- */
struct jwt_signer;
/* From a private key PEM: RSA (RS256) or EC P-256 (ES256). Thread-safe. */
int jwt_signer_new(const char *key_pem, struct jwt_signer **out, struct err *e);
void jwt_signer_free(struct jwt_signer *s); /* NULL-safe */
/* Signs a claims object; *token lives in `a`. */
int jwt_sign(struct jwt_signer *s, struct arena *a, const struct json *claims, char **token, struct err *e);

/* ---- verifying ---- */
struct jwt_keys;
struct jwt_keys *jwt_keys_new(void);
void jwt_keys_free(struct jwt_keys *k); /* NULL-safe */
/* All keys in the text: PUBLIC KEY, RSA PUBLIC KEY, private keys (their public half), certificates. -EINVAL when none.
 * Not to be called beside jwt_verify. */
int jwt_keys_add_pem(struct jwt_keys *k, const char *pem, struct err *e);
/* The keys of a JWKS document (RFC 7517) that are for signatures, RSA or EC P-256; others are skipped. Their key ids are
 * the document's. -EINVAL when there is none. */
int jwt_keys_add_jwks(struct jwt_keys *k, const struct json *doc, struct err *e);
/* Checks form, algorithm and signature, not the times or the audience; *claims lives in `a`. -EACCES when it is no good. */
int jwt_verify(const struct jwt_keys *k, struct arena *a, const char *token, struct json **claims, struct err *e);
/* The issuer of a token that nobody has verified: to choose who verifies it. NULL when it is no token. */
const char *jwt_unverified_issuer(struct arena *a, const char *token);
/* exp, nbf, iat against `now`: NULL, or what is wrong. */
const char *jwt_times_problem(const struct json *claims, struct ktime now);
/* {"keys":[...]} for /openid/v1/jwks. */
struct json *jwt_keys_jwks(const struct jwt_keys *k, struct arena *a);
/* Names of the algorithms in use ("RS256", "ES256"), a JSON array. */
struct json *jwt_keys_algorithms(const struct jwt_keys *k, struct arena *a);

/* ---- service-account tokens ---- */
struct sa_token {
    const char *issuer;
    const char *const *audiences;
    size_t n_audiences;
    const char *ns, *name, *uid;    /* the ServiceAccount */
    const char *pod_name, *pod_uid; /* bound object: at most one of pod, secret, node (a pod may name its node) */
    const char *secret_name, *secret_uid;
    const char *node_name, *node_uid;
    const char *jti;              /* token id; NULL when signing makes one */
    int64_t expires_in;           /* seconds; signing: 0 means no exp claim (legacy) */
    int64_t warn_after_in;        /* seconds, 0: none */
    struct ktime issued, expires; /* out of parsing */
    bool legacy;                  /* iss kubernetes/serviceaccount: claims in the flat form */
};
/* The claims object upstream would make. */
struct json *sa_token_claims(struct arena *a, const struct sa_token *t, struct ktime now);
/* Reads verified claims (either form). -EACCES when they are not a service account's. */
int sa_token_parse(struct arena *a, const struct json *claims, struct sa_token *out, struct err *e);
