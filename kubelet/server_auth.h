/* Who may talk to the kubelet. Upstream: pkg/kubelet/server/auth.go with delegated authentication and
 * authorisation. */
#pragma once

#include "kubelet/kubelet.h"
#include "pkg/http/server.h"

struct server_auth;
struct server_auth *server_auth_new(struct kubelet *kl);
void server_auth_free(struct server_auth *a);
/* Blocks (TokenReview, SubjectAccessReview; both are cached). 0, or an API error of status 401 or 403. */
int server_auth_check(struct server_auth *a, struct http_req *r, struct err *e);
/* The node subresource that a request is about: "proxy", "log", "stats", "metrics", ... */
const char *server_auth_subresource(const char *path);
