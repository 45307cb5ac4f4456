/* One repository at one registry: requests, authentication, blobs (OCI distribution specification, which docker's
 * registry API v2 became).
 *
 *   GET BASE/REPO/manifests/TAG-or-DIGEST     what the reference means now
 *   GET BASE/REPO/blobs/DIGEST                config and layers; Range: goes on where a try broke off
 *   401 with WWW-Authenticate: Bearer realm=...   GET the realm for a token (POST with an identity token: OAuth 2)
 *                              Basic              user and password
 *
 * Redirects are followed (blobs live elsewhere), and then the token is not sent along. Failures of the network, 429 and
 * 5xx are tried again. Nothing that comes is believed here: digests are the caller's (ingest.c). Several threads may
 * fetch at once; each has a connection of its own, kept for the next request. All functions block. */
#pragma once

#include <stdatomic.h>

#include "pkg/api/cri.h"
#include "pkg/base/buf.h"
#include "registries.h"

enum {
    PULL_THREADS = 3, /* layers at a time */
    PULL_MANIFEST_MAX = 4 << 20,
};

struct registry;
/* `auth` (may be NULL) comes from the pod's secrets and wins over the endpoint's own. Bytes received are added to
 * `received`. Strings must outlive it. */
int registry_open(const struct registry_endpoint *ep, const char *repository, const struct cri_auth_config *auth,
                  atomic_llong *received, struct registry **out, struct err *e);
struct registry *registry_close(struct registry *r);

/* Into `body`, whose limit counts. -ENOENT, -EACCES, -EIO. */
int registry_manifest(struct registry *r, const char *reference, struct buf *body, struct err *e);
/* Appends to the file what it does not have yet, at most `size` bytes in all; -EBADMSG when more comes. `manifest`: the
 * digest is an index's or a manifest's. */
int registry_blob(struct registry *r, const char *digest, int64_t size, bool manifest, int fd, struct err *e);
