/* What requests that are passed on have in common, whether to kubelets, pods, Services or aggregated API
 * servers. */
#pragma once

#include "apiserver/request.h"
#include "pkg/http/client.h"

/* Headers of one connection that a proxy does not pass on; the credentials count among them. */
bool forward_hop_by_hop(const char *name);
/* The request's headers for the back end: without hop-by-hop ones, credentials and impersonation; in the
 * request's arena, with room for two more. `upgrade`: Connection and Upgrade stay. Returns their number. */
size_t forward_headers(struct request *q, bool upgrade, struct http_header **out);
/* Answers with the back end's whole answer. */
void forward_answer(struct request *q, const struct http_resp *r);
/* The back end has switched protocols: tells the client so and joins both connections. *fd is taken over. */
void forward_join(struct request *q, const struct http_resp *r, int *fd);
/* "10.0.0.7:443" (in `a`) of a ready endpoint behind a Service's port (a number, a name, or "": the only
 * one); for an ExternalName Service its name and the port. With `cluster_ip` and no endpoints known, the
 * cluster IP. 404 and 503. */
const char *forward_service(struct apiserver *s, struct arena *a, const char *ns, const char *name, const char *port,
                            bool cluster_ip, struct err *e);
