#include "apiserver/watch_ws.h"

enum { KEY_LEN = 24, ACCEPT_LEN = 29 };

/* The one protocol that is offered beside the bearer's token, which a browser expects back; NULL: none. */
static const char *protocol_of(struct request *q) {
    const char *v, *found = NULL;
    for (size_t i = 0; (v = http_header_n(q->http, "sec-websocket-protocol", i)); i++) {
        char *list = arena_strdup(q->a, v), *item;
        while ((item = strsep(&list, ", ")))
            if (*item && !str_has_prefix(item, "base64url.bearer.authorization.k8s.io.") && !found) found = item;
    }
    return found;
}

bool watch_ws_wanted(const struct request *q) {
    return q->http->version == 11 && http_wants_upgrade(q->http, "websocket");
}

/* Before anything is answered: 0, or 400. */
int watch_ws_check(const struct request *q, struct err *e) {
    const char *key = http_header(q->http, "sec-websocket-key");
    if (!watch_ws_wanted(q)) return 0;
    if (str_eq(http_header(q->http, "sec-websocket-version"), "13") && key && strlen(key) == KEY_LEN) return 0;
    return err_status(e, 400, "BadRequest", "bad WebSocket handshake");
}

struct ws *watch_ws_begin(struct request *q, watch_ws_input_fn *input, void *arg) {
    const char *protocol = protocol_of(q);
    char *accept = arena_alloc(q->a, ACCEPT_LEN);
    ws_accept_key(http_header(q->http, "sec-websocket-key"), accept);
    const struct http_header h[] = {{"Upgrade", "websocket"},
                                    {"Connection", "Upgrade"},
                                    {"Sec-WebSocket-Accept", accept},
                                    {"Sec-WebSocket-Protocol", str_or_empty(protocol)}};
    struct ws *ws = xcalloc(1, sizeof(*ws));
    ws_init(ws, true);
    http_req_on_input(q->http, input, arg);
    http_stream_begin(q->http, 101, h, protocol ? 4 : 3, 0);
    return ws;
}
