/* Shared by client.c (libcurl) and upgrade.c (OpenSSL directly). */
#pragma once

#include <pthread.h>

#include "pkg/http/client.h"

struct http_client {
    pthread_mutex_t lock;
    struct http_client_options opt; /* owned copies */
    char *connect_to;               /* libcurl's "::host:port", when opt.server_name replaces the URL's host */
    unsigned generation;            /* of the certificate: older connections are not reused */
    void **idle;                    /* CURL easy handles */
    unsigned n_idle;
    int64_t cert_mtime; /* of opt.cert_file when it was last looked at */
    char *file_token;   /* what token_file held at file_token_mtime */
    int64_t file_token_mtime;
};

/* "Bearer ..." or "Basic ..." on the heap, or NULL. */
char *client_authorization(struct http_client *c);
/* base_url and url put together, on the heap. */
char *client_url(struct http_client *c, const char *url);
void resp_reset(struct http_resp *r);
void resp_add_header(struct http_resp *r, const char *name, size_t nn, const char *value, size_t vn);
