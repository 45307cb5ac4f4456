/* libFuzzer: SPDY and WebSocket framing. The first byte chooses the framing, the second the size of the pieces. */
#include "pkg/stream/spdy.h"
#include "pkg/stream/ws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int on_stream(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool fin, void *arg) {
    spdy_reply(s, id, h, n, false);
    return 0;
}
static int on_data(struct spdy *s, uint32_t id, const void *p, size_t n, bool fin, void *arg) {
    spdy_data(s, id, p, n, fin);
    return 0;
}
static int on_message(int opcode, const char *p, size_t n, void *arg) {
    if (n > WS_MESSAGE_MAX) abort();
    ws_send(arg, opcode, p, n);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    size_t step = data[1] ? data[1] : n;
    const uint8_t *p = data + 2;
    n -= 2;
    if (data[0] & 1) {
        struct spdy *s = spdy_new(data[0] & 2, &(struct spdy_callbacks){.on_stream = on_stream, .on_data = on_data});
        for (size_t at = 0; at < n; at += step)
            if (spdy_feed(s, p + at, MIN_OF(step, n - at), NULL) < 0) break;
        spdy_free(s);
    } else {
        struct ws w;
        ws_init(&w, data[0] & 2);
        for (size_t at = 0; at < n; at += step)
            if (ws_feed(&w, p + at, MIN_OF(step, n - at), on_message, &w, NULL) < 0) break;
        ws_done(&w);
    }
    return 0;
}
