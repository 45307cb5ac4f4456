/* What the files of pkg/client share among themselves. */
#pragma once

#include "pkg/client/client.h"

enum {
    CLIENT_BODY_MAX = 512 * 1024 * 1024, /* of one answer; lists are asked for in pages well below */
    CLIENT_IN_FLIGHT = 256,              /* default of client_config.max_in_flight */
    CLIENT_TIMEOUT_MS = 60000,
    CLIENT_RETRIES = 10, /* of an answer 429 or 503 that says when to come back */
};

/* The field manager of writes that name none. */
const char *client_user_agent(const struct client *c);

/* Fills `e` from an answer: a Status body where there is one, else the HTTP status. Returns its code. */
int client_status_err(int status, const char *body, size_t len, struct err *e);
