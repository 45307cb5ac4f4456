/* Shared by the gRPC client and server: the five-byte message prefix, status messages, time-outs. */
#pragma once

#include "pkg/base/ktime.h"
#include "pkg/grpc/grpc.h"

enum { GRPC_PREFIX = 5, GRPC_STATUS_TEXT_MAX = 8 * 1024 };

/* Appends prefix and message. */
void grpc_frame(struct buf *b, const struct api_type *t, const void *message);
/* Looks at a prefix (n bytes are there): 1 and *len when it is complete, 0 when not, -EPROTO when compressed or bad,
 * -EMSGSIZE when longer than GRPC_MESSAGE_MAX. */
int grpc_prefix(const char *p, size_t n, size_t *len, struct err *e);
/* grpc-message is percent-encoded UTF-8. */
char *grpc_percent_encode(struct arena *a, const char *s);
char *grpc_percent_decode(struct arena *a, const char *s);
/* grpc-timeout ("250m") to nanoseconds; 0 when absent or bad. And back, in `out`. */
int64_t grpc_timeout_parse(const char *s);
void grpc_timeout_format(int64_t ns, char out[16]);
