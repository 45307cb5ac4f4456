/* Selectors of devices: the one variable `device` of the expressions in DeviceClasses and ResourceClaims. The API server
 * compiles with this environment, the scheduler evaluates in it (upstream k8s.io/dynamic-resource-allocation/cel). */
#pragma once

#include "pkg/cel/cel.h"

struct resource_device;

struct cel_env *cel_device_env_new(struct arena *a);
/* cel_compile, and -EDOM when the expression gives no boolean. */
int cel_device_compile(struct arena *a, const struct cel_env *env, const char *src, const struct cel_prog **out,
                       const char **issues);
/* `device` for cel_run.vars, in `a`; refers to `d`. Attributes and capacities by domain and name: those without a domain
 * have the driver's; a domain that is not there is an empty map. -EINVAL: an attribute without a value that is known. */
int cel_device_value(struct arena *a, const char *driver, const struct resource_device *d, struct cel_val *out,
                     struct err *e);
