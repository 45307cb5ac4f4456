/* OpenID Connect: ID tokens of providers as bearer tokens. One provider by flags, or any number by an
 * AuthenticationConfiguration (upstream: apiserver/plugin/pkg/authenticator/token/oidc). */
#pragma once

#include "apiserver/auth/authn.h"
#include "pkg/base/flags.h"

struct oidc_config { /* strings live as long as the server; see main.c's flags */
    const char *issuer, *client_id;
    const char *username_claim, *username_prefix, *groups_claim, *groups_prefix;
    const char *algorithms, *ca_file;
    struct flag_list required; /* "key=value" */
};

struct oidc;
/* -EINVAL for settings that make no sense. Nothing is fetched yet: the provider may run in this cluster. */
int oidc_new(const struct oidc_config *c, struct oidc **out, struct err *e);
/* The jwt authenticators of an AuthenticationConfiguration file, and what it says of anonymous requests. own_issuer: of
 * service account tokens, which no provider may claim to be. The file is read once. */
int oidc_new_from_file(const char *path, const char *own_issuer, struct oidc **out, struct err *e);
void oidc_free(struct oidc *o); /* NULL-safe */
struct oidc_anonymous {
    bool configured, enabled;
    const char **paths; /* the only ones, unless n_paths is 0 */
    size_t n_paths;
};
const struct oidc_anonymous *oidc_anonymous(const struct oidc *o);
/* Who a token says its bearer is; *out lives in `a`. -EACCES when it is not this provider's or no good. May
 * block for as long as the provider takes to give its keys. Thread-safe. */
int oidc_check(struct oidc *o, struct arena *a, const char *token, const char *issuer, struct user_info *out,
               struct err *e);
