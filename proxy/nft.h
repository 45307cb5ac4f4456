/* Transactions of nftables, written as text. Not thread-safe. */
#pragma once

#include "pkg/base/err.h"

struct nft;
int nft_open(struct nft **out, struct err *e);
void nft_close(struct nft *n); /* NULL-safe */
/* All of the text or nothing. -EIO with nftables' own words. */
int nft_run(struct nft *n, const char *text, struct err *e);
