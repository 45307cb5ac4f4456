/* --encryption-provider-config: which resources are stored encrypted. Upstream: apiserver/pkg/server/options/
 * encryptionconfig. */
#pragma once

#include "apiserver/resource.h"
#include "pkg/store/store.h"

struct encryption;
/* Reads the EncryptionConfiguration; *store is replaced by one that encrypts what the file says. *out must live as long as
 * the store. `reload`: encryption_reload will be called. */
int encryption_open(const char *path, bool reload, const struct resource_table *resources, struct store **store,
                    struct encryption **out, struct err *e);
void encryption_free(struct encryption *x); /* NULL-safe */
/* Takes up the file when it has changed: 1 then, 0 when it is as it was, negative when it is no good or its plugins are not
 * well; then what was read before goes on. By one thread. */
int encryption_reload(struct encryption *x, struct err *e);

/* The check of health "kms-providers": whether there is one (`x` may be NULL), and what it says of all plugins. */
bool encryption_has_check(struct encryption *x);
int encryption_check(struct encryption *x, struct err *e);
