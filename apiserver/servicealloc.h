/* Cluster IPs and node ports, kept in the store, so that several API servers give none out twice. */
#pragma once

#include "apiserver/request.h"

/* The allocator for the rules. `s` must outlive it; its store, caches and resources are used at calls only. */
struct rules_alloc servicealloc(struct apiserver *s);
/* Makes what is kept fit the Services that there are. Called at the start and every few minutes; blocks. What nobody holds
 * goes only after it was found so for a while: it may be about to be used. */
void servicealloc_repair(struct apiserver *s);
void servicealloc_done(struct apiserver *s);
