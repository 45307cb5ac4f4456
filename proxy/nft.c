#include "proxy/nft.h"

#include <nftables/libnftables.h>

int nft_open(struct nft **out, struct err *e) {
    struct nft_ctx *c = nft_ctx_new(NFT_CTX_DEFAULT);
    if (!c) return err_set(e, -ENOMEM, "nftables cannot be used");
    nft_ctx_buffer_error(c);
    nft_ctx_buffer_output(c);
    *out = (struct nft *)c;
    return 0;
}

void nft_close(struct nft *n) {
    if (n) nft_ctx_free((struct nft_ctx *)n);
}

int nft_run(struct nft *n, const char *text, struct err *e) {
    struct nft_ctx *c = (struct nft_ctx *)n;
    int r = nft_run_cmd_from_buffer(c, text);
    const char *why = nft_ctx_get_error_buffer(c);
    nft_ctx_get_output_buffer(c);
    return r ? err_set(e, -EIO, "nftables refused the change: %.400s", why ? why : "") : 0;
}
