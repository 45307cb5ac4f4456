#include "pkg/api/reason.h"

#include <string.h>

#include "pkg/base/util.h"

static const char *const reasons[] = {
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "StoreReadError",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "Expired",
    "ServiceUnavailable",
};

const char *api_reason(const char *text) {
    for (size_t i = 0; text && i < ARRAY_LEN(reasons); i++)
        if (strcmp(reasons[i], text) == 0) return reasons[i];
    return NULL;
}
