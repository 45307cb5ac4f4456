/* Authentication: who makes a request. In this order, the first that recognises the credentials decides:
 *
 *   front proxy headers of a trusted proxy (apiserver/frontproxy.h)
 *   x509        verified client certificate: CN is the user, O the groups
 *   bearer      token file, service-account token, bootstrap token, OpenID Connect, a webhook
 *   anonymous   no credentials at all (wrong ones are 401, never anonymous)
 *
 * and every user but the anonymous one is in system:authenticated. Impersonation comes after that, and is authorised
 * like any request. Upstream: k8s.io/apiserver/pkg/authentication, pkg/serviceaccount, plugin/pkg/auth/authenticator. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"
#include "pkg/json/json.h"
#include "pkg/pki/jwt.h"

struct user_extra {
    const char *key;
    const char **values;
    size_t n;
};
struct user_info {
    const char *name; /* never NULL once authenticated */
    const char *uid;  /* "" when unknown */
    const char **groups;
    size_t n_groups;
    struct user_extra *extra;
    size_t n_extra;
};
bool user_in_group(const struct user_info *u, const char *group);
/* As authentication.k8s.io/v1 UserInfo. */
struct json *user_to_json(struct arena *a, const struct user_info *u);

/* Reads objects (from the watch cache). group "" is core; ns NULL for cluster-scoped kinds. NULL when absent. The
 * result lives in `a` or is shared and immutable. */
typedef const struct json *auth_get_fn(void *arg, struct arena *a, const char *group, const char *resource,
                                       const char *ns, const char *name);

struct authn_config {
    const char *issuer;              /* of our service-account tokens, "https://kubernetes.default.svc.cluster.local" */
    const char *const *more_issuers; /* accepted too */
    size_t n_more_issuers;
    const char *const *audiences; /* API audiences; none: the issuer */
    size_t n_audiences;
    const struct jwt_keys *keys; /* borrowed; NULL: no service-account tokens */
    const char *token_file;      /* --token-auth-file: token,user,uid,"group1,group2" a line; or NULL */
    bool anonymous;
    const char *const *anonymous_paths; /* the only ones; none: all. Borrowed */
    size_t n_anonymous_paths;
    bool bootstrap_tokens;
    /* Others who know tokens (OpenID Connect), asked when the token is none of ours. issuer NULL: not a JWT. 0 with *out in
     * `a`, or -EACCES. May block. NULL: nobody. */
    int (*ask)(void *arg, struct arena *a, const char *token, const char *issuer, struct user_info *out, struct err *e);
    /* Asked last, about any token that nobody else took: the audiences wanted (`api`: those of the API), as authn_token
     * has them. May block. NULL: nobody. */
    int (*review)(void *arg, struct arena *a, const char *token, const char *const *want, size_t n_want,
                  const char *const *api, size_t n_api, struct user_info *out, struct json **matched, struct err *e);
    auth_get_fn *get; /* serviceaccounts, pods, secrets, nodes */
    void *arg;
};

struct authn;
int authn_new(const struct authn_config *c, struct authn **out, struct err *e);
void authn_free(struct authn *n); /* NULL-safe */

/* Adds system:authenticated, which every user but the anonymous one is in. */
void authn_authenticated(struct arena *a, struct user_info *u);

/* The facts of one request. */
struct authn_request {
    bool cert_given; /* one that is not verified is an error, unless a token succeeds */
    bool cert_verified;
    const char *cert_cn, *cert_uid, *cert_sha256; /* may be NULL */
    const char *const *cert_orgs;
    size_t n_cert_orgs;
    const char *authorization; /* header, or NULL */
    const char
        *websocket_token; /* of Sec-WebSocket-Protocol base64url.bearer.authorization.k8s.io.*, decoded; or NULL */
    const char *path;     /* that is asked for */
};
/* True when authn_request will decide at once: no signature to verify, nobody to ask. */
bool authn_quick(struct authn *n, struct arena *a, const struct authn_request *r);
/* 0, or 401 Unauthorized. *out lives in `a` (strings of the request are copied). Thread-safe. */
int authn_request(struct authn *n, struct arena *a, const struct authn_request *r, struct user_info *out,
                  struct err *e);
/* A bearer token by itself, for TokenReview. audiences: wanted ones (none: the API's); *matched (may be NULL) gets those
 * that the token has, a JSON array (JSON null for tokens without audiences). -EACCES when it is no good. */
int authn_token(struct authn *n, struct arena *a, const char *token, const char *const *audiences, size_t n_audiences,
                struct user_info *out, struct json **matched, struct err *e);

/* ---- impersonation ---- */
struct impersonation { /* of the Impersonate-* headers; all NULL/0: none asked for */
    const char *user, *uid;
    const char **groups;
    size_t n_groups;
    struct user_extra *extra; /* keys already unescaped and in lower case */
    size_t n_extra;
};
struct authz;
/* Authorises (verb impersonate on users, groups, uids, userextras, serviceaccounts) and replaces *user. 403 when not
 * allowed, 400 when groups or extra come without a user. Does nothing when `i` asks for nothing. */
int authn_impersonate(struct authz *z, struct arena *a, const struct impersonation *i, struct user_info *user,
                      struct err *e);
