/* A plain HTTP port that answers /healthz, /livez and /readyz with "ok": for programs that serve nothing
 * else. */
#pragma once

#include "pkg/base/err.h"

struct health;
int health_start(const char *address, int port, struct health **out, struct err *e);
void health_stop(struct health *h); /* NULL-safe */
