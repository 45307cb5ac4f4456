/* --encryption-provider-config: which resources are stored encrypted. Upstream: apiserver/pkg/server/options/
 * encryptionconfig. */
#pragma once

#include "apiserver/resource.h"
#include "pkg/store/store.h"

struct encryption;
/* Reads the EncryptionConfiguration, once; *store is replaced by one that encrypts what the file says. *out must live as
 * long as the store. */
int encryption_open(const char *path, const struct resource_table *resources, struct store **store,
                    struct encryption **out, struct err *e);
void encryption_free(struct encryption *x); /* NULL-safe */
