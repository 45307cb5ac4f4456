/* Fuzz target: pages that are rewritten for .../proxy/. What is no link must stay, whatever the page. */
#include "apiserver/rewrite.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct rewrite w = {"/p", "t:1", "h", "https"}, none = {"", "t:1", "h", "https"};
    _cleanup_buf_ struct buf out = BUF_INIT, same = BUF_INIT;
    rewrite_html(&w, (const char *)data, size, &out);
    rewrite_html(&none, (const char *)data, size, &same);
    if (out.len + 16 * size < size) __builtin_trap();
    return 0;
}
