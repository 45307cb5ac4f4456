/* Pages that are fetched through .../proxy/ live below another path than they think: links in HTML and Location headers
 * that start at the root of the target are made to start at the proxy's path. Upstream: apimachinery/pkg/util/proxy
 * (transport.go). */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/buf.h"

struct rewrite {
    const char *prefix; /* "/api/v1/namespaces/n/pods/p/proxy" */
    const char *target; /* host and port of the target, "10.0.0.5:80" */
    const char *host;   /* by which the client reaches this server, and "https" */
    const char *scheme;
};

/* A URL as the client has to write it: `url` itself when it is relative, of another host, or already below the prefix. */
const char *rewrite_url(struct arena *a, const struct rewrite *w, const char *url);
/* Appends the page with the URLs of its attributes rewritten; everything else stays byte for byte. Any bytes are a page. */
void rewrite_html(const struct rewrite *w, const char *page, size_t len, struct buf *out);
