/* Where images of a registry's name are fetched from: a file that says mirrors, credentials and TLS settings, in the form
 * that k3s and RKE2 users know (registries.yaml):
 *
 *   mirrors:
 *     docker.io:
 *       endpoint: ["https://mirror.example:5000"]
 *     "*":
 *       endpoint: ["http://cache.example"]
 *   configs:
 *     "mirror.example:5000":
 *       auth: {username: u, password: p}          # or auth: BASE64, or identity_token: T
 *       tls: {ca_file: F, cert_file: F, key_file: F, insecure_skip_verify: false}
 *
 * Mirrors are tried in their order, the registry itself last. The file is read at every pull, so a change needs no
 * restart. `rewrite` rules are refused: they are not done here. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"

enum { REGISTRY_ENDPOINTS_MAX = 16 };

struct registry_endpoint {
    const char *base; /* "https://host:port/v2", what comes before /REPOSITORY/manifests */
    const char *ns;   /* for a mirror: the registry it stands for; else NULL */
    const char *username, *password, *auth, *identity_token; /* configured; NULL: none */
    const char *ca_file, *cert_file, *key_file;
    bool skip_verify;
};

/* The endpoints for a registry ("docker.io", "localhost:5000"), in `a`. `path`: the file; missing or NULL is empty.
 * `insecure`: comma-separated hosts that are spoken to without TLS, as are those of this machine. -EINVAL for a bad
 * file. */
int registries_endpoints(struct arena *a, const char *path, const char *insecure, const char *host,
                         struct registry_endpoint *out, size_t *n, struct err *e);
