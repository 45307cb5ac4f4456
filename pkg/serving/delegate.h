/* Who asks a program that is no API server, and whether they may: the API server is asked (upstream: delegated
 * authentication and authorization). Its answers are kept for a while. Functions block and are thread-safe. */
#pragma once

#include "pkg/client/client.h"
#include "pkg/http/server.h"

struct delegate_config {
    bool token_reviews; /* bearer tokens are reviewed; else they are refused */
    bool anonymous;     /* who shows neither a certificate nor a token is system:anonymous; else 401 */
    int64_t token_ttl_ns, allow_ttl_ns, deny_ttl_ns;
};
struct delegate;
struct delegate *delegate_new(const struct delegate_config *c);
void delegate_free(struct delegate *d); /* NULL-safe */
/* {username, uid, groups, extra} of who sent the request, in its arena: by a verified client certificate, else by a
 * TokenReview. client may be NULL: tokens cannot be reviewed then. 0, an API error of status 401, or the client's. */
int delegate_user(struct delegate *d, struct client *client, struct http_req *r, struct json **user, struct err *e);
/* A SubjectAccessReview about the user; `attributes` is its member of that name ("resourceAttributes",
 * "nonResourceAttributes"). */
int delegate_may(struct delegate *d, struct client *client, struct arena *a, const struct json *user,
                 const char *attributes, struct json *what, bool *allowed, struct err *e);
