/* Which protocol a client of exec, attach or port-forward gets: the server's preference among those offered.
 *
 *   SPDY       Upgrade: SPDY/3.1, X-Stream-Protocol-Version: v4.channel.k8s.io, ... (one or many headers)
 *   WebSocket  Upgrade: websocket, Sec-WebSocket-Protocol: v5.channel.k8s.io, ... */
#include <strings.h>

#include "pkg/stream/remotecmd.h"
#include "pkg/stream/ws.h"

struct offer {
    const char *name;
    struct remotecmd_proto proto;
};

static const struct offer spdy_exec[] = {{"v4.channel.k8s.io", {REMOTECMD_SPDY, 4}},
                                         {"v3.channel.k8s.io", {REMOTECMD_SPDY, 3}},
                                         {"v2.channel.k8s.io", {REMOTECMD_SPDY, 2}},
                                         {"channel.k8s.io", {REMOTECMD_SPDY, 1}},
                                         {0}};
static const struct offer spdy_forward[] = {{"portforward.k8s.io", {REMOTECMD_SPDY, 1}}, {0}};
static const struct offer ws_exec[] = {{"v5.channel.k8s.io", {REMOTECMD_WS, 5}},
                                       {"v4.channel.k8s.io", {REMOTECMD_WS, 4}},
                                       {"v4.base64.channel.k8s.io", {REMOTECMD_WS_BASE64, 4}},
                                       {"channel.k8s.io", {REMOTECMD_WS, 1}},
                                       {"base64.channel.k8s.io", {REMOTECMD_WS_BASE64, 1}},
                                       {0}};
static const struct offer ws_forward[] = {{"SPDY/3.1+portforward.k8s.io", {REMOTECMD_WS_SPDY, 1}},
                                          {"v4.channel.k8s.io", {REMOTECMD_WS, 4}},
                                          {"v4.base64.channel.k8s.io", {REMOTECMD_WS_BASE64, 4}},
                                          {0}};

static const struct offer *choose(const struct http_req *r, const char *header, const struct offer *offers) {
    for (; offers->name; offers++)
        if (http_header_has_token(r, header, offers->name)) return offers;
    return NULL;
}

static int refuse(struct http_req *r, int status, struct err *e, const char *why) {
    http_respond_text(r, status, "%s\n", why);
    return err_set(e, -EPROTO, "%s", why);
}

static int upgrade(struct http_req *r, const struct http_header *h, size_t n, int *fd, struct err *e) {
    int rc = http_upgrade(r, h, n, fd, e);
    if (rc < 0) http_respond_text(r, 500, "cannot upgrade the connection\n");
    return rc;
}

static int upgrade_ws(struct http_req *r, enum remotecmd_kind kind, struct remotecmd_proto *proto, int *fd,
                      struct err *e) {
    const char *key = http_header(r, "sec-websocket-key");
    if (!str_eq(http_header(r, "sec-websocket-version"), "13") || !key || strlen(key) != 24)
        return refuse(r, 400, e, "bad WebSocket handshake");
    const struct offer *o = choose(r, "sec-websocket-protocol", kind == REMOTECMD_PORTFORWARD ? ws_forward : ws_exec);
    bool none = !http_header(r, "sec-websocket-protocol");
    if (!o && !none) return refuse(r, 403, e, "none of the offered WebSocket protocols is supported");
    char accept[29];
    ws_accept_key(key, accept);
    const struct http_header h[] = {{"Upgrade", "websocket"},
                                    {"Connection", "Upgrade"},
                                    {"Sec-WebSocket-Accept", accept},
                                    {"Sec-WebSocket-Protocol", o ? o->name : ""}};
    *proto = o ? o->proto : (struct remotecmd_proto){REMOTECMD_WS, 1};
    return upgrade(r, h, o ? 4 : 3, fd, e);
}

static int upgrade_spdy(struct http_req *r, enum remotecmd_kind kind, struct remotecmd_proto *proto, int *fd,
                        struct err *e) {
    static const char version[] = "x-stream-protocol-version";
    bool forward = kind == REMOTECMD_PORTFORWARD;
    const struct offer *o = choose(r, version, forward ? spdy_forward : spdy_exec);
    /* clients that offer nothing speak the first version */
    if (!o && !http_header(r, version)) o = forward ? spdy_forward : &spdy_exec[3];
    if (!o) return refuse(r, 403, e, "none of the offered stream protocols is supported");
    const struct http_header h[] = {
        {"Connection", "Upgrade"}, {"Upgrade", "SPDY/3.1"}, {"X-Stream-Protocol-Version", o->name}};
    *proto = o->proto;
    return upgrade(r, h, 3, fd, e);
}

int remotecmd_upgrade(struct http_req *r, enum remotecmd_kind kind, struct remotecmd_proto *proto, int *fd,
                      struct err *e) {
    *fd = -1;
    if (http_wants_upgrade(r, "websocket")) return upgrade_ws(r, kind, proto, fd, e);
    if (http_wants_upgrade(r, "SPDY/3.1")) return upgrade_spdy(r, kind, proto, fd, e);
    return refuse(r, 400, e, "unable to upgrade: the request asks for neither WebSocket nor SPDY/3.1");
}
