/* Reviews by somebody else: TokenReview and SubjectAccessReview posted to a server that a kubeconfig file names, and their
 * answers kept for a while. Upstream: apiserver/pkg/util/webhook, plugin/pkg/authenticator/token/webhook,
 * plugin/pkg/authorizer/webhook. */
#pragma once

#include <stdatomic.h>

#include "apiserver/auth/authz.h"

/* ---- one server ---- thread-safe; calls block */
struct remote;
/* file NULL: the API server of the cluster that this program runs in, as its pod. timeout_ns of one attempt. */
int remote_new(const char *file, int64_t timeout_ns, struct remote **out, struct err *e);
void remote_free(struct remote *r); /* NULL-safe */
/* Posts an object, several times when the server is out of reach or overloaded; the answer's `status` is in *status. */
int remote_review(struct remote *r, struct arena *a, const struct json *body, struct json **status, struct err *e);

/* Posts JSON text and looks at nothing but the status code: `attempts` times at most, whatever fails, with pauses from
 * first_pause_ns on. *stop (may be NULL) ends the pauses. */
int remote_post(struct remote *r, const char *text, size_t len, int attempts, int64_t first_pause_ns,
                const _Atomic bool *stop, struct err *e);

/* ---- answers that are kept ---- thread-safe; when it is full it starts anew */
struct remote_cache;
struct remote_cache *remote_cache_new(void);
void remote_cache_free(struct remote_cache *c); /* NULL-safe */
/* The answer to `question`, a copy in `a`; NULL when there is none any more. */
struct json *remote_cache_get(struct remote_cache *c, struct arena *a, const char *question);
void remote_cache_put(struct remote_cache *c, const char *question, const struct json *answer, int64_t ttl_ns);

/* ---- tokens ---- */
struct token_webhook_config {
    const char *file, *version; /* v1 or v1beta1 */
    int64_t ttl_ns;             /* of answers, good and bad ones */
};
struct token_webhook;
int token_webhook_new(const struct token_webhook_config *c, struct token_webhook **out, struct err *e);
void token_webhook_free(struct token_webhook *w); /* NULL-safe */
/* authn_config.review. `api`: audiences that are meant when the answer names none. */
int token_webhook_check(struct token_webhook *w, struct arena *a, const char *token, const char *const *want,
                        size_t n_want, const char *const *api, size_t n_api, struct user_info *out,
                        struct json **matched, struct err *e);

/* ---- access ---- */
struct access_webhook_config {
    const char *name; /* of the authorizer */
    const char *file; /* NULL: in the cluster */
    const char *version;
    int64_t allowed_ttl_ns, denied_ttl_ns, timeout_ns;
    bool deny_on_error;            /* failurePolicy Deny */
    const struct json *conditions; /* matchConditions, or NULL */
};
struct access_webhook;
int access_webhook_new(const struct access_webhook_config *c, struct access_webhook **out, struct err *e);
void access_webhook_free(struct access_webhook *w); /* NULL-safe */
/* As a mode of the authorizer; *error (in `a`) is set when the webhook failed. */
enum authz_decision access_webhook_decide(struct access_webhook *w, struct arena *a, const struct authz_attrs *q,
                                          const char **reason, const char **error);
