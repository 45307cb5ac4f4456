/* The certificates and keys of a cluster that has none given: made under DATA-DIR/pki, with kubeconfigs for the
 * administrator and the components beside it, and renewed at start when they run out or the address has changed. */
#pragma once

#include "apiserver/apiserver.h"

/* Fills the file names in `o` that no flag has set (in `a`). */
int identity_ensure(struct apiserver_options *o, struct arena *a, struct err *e);
/* The address that other machines reach this one at, in `a`: `was` (may be NULL) while the machine has it, else that of
 * netlink_node_address, else 127.0.0.1. */
const char *identity_address(struct arena *a, const char *was);
/* A number that differs once one of the certificate files has been replaced. */
uint64_t identity_files(const struct apiserver_options *o);
/* When the first of the certificates is to be renewed, in seconds since 1970. */
int64_t identity_renew_at(const struct apiserver_options *o);
