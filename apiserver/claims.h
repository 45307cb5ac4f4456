/* From the claims of a verified ID token to a user: claim mappings and validation rules of a JWTAuthenticator
 * (apiserver.config.k8s.io/v1), by claim or by expression in CEL. The flags --oidc-* are given in the same form.
 * Upstream: apiserver/pkg/authentication/cel, plugin/pkg/authenticator/token/oidc. */
#pragma once

#include "apiserver/auth/authn.h"

struct claim_map;
/* `jwt`: the JWTAuthenticator, copied. -EINVAL names the field that is wrong. */
int claim_map_new(const struct json *jwt, struct claim_map **out, struct err *e);
void claim_map_free(struct claim_map *m); /* NULL-safe */
/* The claims (their signature, issuer, audience and times are good already) as a user in `a`; -EACCES. Thread-safe. */
int claim_map_user(const struct claim_map *m, struct arena *a, const struct json *claims, struct user_info *out,
                   struct err *e);
