/* The certificates and keys of a cluster that has none given: made under DATA-DIR/pki, with kubeconfigs for the
 * administrator and the components beside it, and renewed at start when they run out or the address has changed. */
#pragma once

#include "apiserver/apiserver.h"

/* Fills the file names in `o` that no flag has set (in `a`). */
int identity_ensure(struct apiserver_options *o, struct arena *a, struct err *e);
/* The address that other machines reach this one at: of the interface with the default route, else the first one that
 * is up and no loopback, else 127.0.0.1. In `a`. */
const char *identity_address(struct arena *a);
