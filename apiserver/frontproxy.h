/* Users that a trusted front proxy names in headers. */
#pragma once

#include "apiserver/request.h"

/* True with *out (in the request's arena) when the connection is a trusted front proxy's and a user is named.
 */
bool frontproxy_user(struct request *q, struct user_info *out);
/* A comma-separated flag as a JSON array. */
struct json *frontproxy_list(struct arena *a, const char *list);
