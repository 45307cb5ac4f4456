/* coracle-dns: the cluster's DNS server (Kubernetes DNS specification 1.1), CoreDNS' place in a cluster.
 *
 * It runs on every node and listens on the cluster DNS address itself, which it adds to the loopback interface: pods
 * reach the server of their own node, and it goes on answering when other nodes are away. Names outside of the cluster's
 * zone are forwarded to the servers of resolv.conf. */
#include <arpa/inet.h>
#include <signal.h>

#include "dns/server.h"
#include "pkg/base/flags.h"
#include "pkg/base/log.h"
#include "pkg/base/memory.h"
#include "pkg/netlink/netlink.h"

struct options {
    const char *kubeconfig, *domain, *resolv_conf;
    struct flag_list listen, upstream;
    bool add_address, cleanup;
    int64_t ttl, v;
};

struct program {
    uv_loop_t loop;
    uv_signal_t term, intr;
    struct dns_server *server;
};

/* nameserver lines of resolv.conf, except for the addresses that we listen on. */
static void read_resolv_conf(const struct options *o, struct flag_list *out) {
    _cleanup_free_ char *text = NULL;
    if (file_read(o->resolv_conf, 65536, &text, NULL) < 0) return;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char addr[64];
        bool own = false;
        if (sscanf(line, " nameserver %63s", addr) != 1 || strchr(addr, '%')) continue;
        for (size_t i = 0; i < o->listen.n; i++) own |= str_has_prefix(o->listen.items[i], addr);
        if (own) continue;
        VEC_GROW(out->items, out->n, out->cap);
        out->items[out->n++] = xstrdup(addr);
    }
}

static void on_signal(uv_signal_t *h, int signum) {
    struct program *p = h->data;
    if (uv_is_closing((uv_handle_t *)&p->term)) return;
    dns_server_close(p->server);
    uv_close((uv_handle_t *)&p->term, NULL);
    uv_close((uv_handle_t *)&p->intr, NULL);
}

static int serve(struct options *o, struct client *c, struct err *e) {
    struct program p = {0};
    struct zone *zone = zone_new(c, o->domain, (uint32_t)o->ttl);
    uv_loop_init(&p.loop);
    struct dns_server_options so = {.zone = zone,
                                    .listen = o->listen.items,
                                    .n_listen = o->listen.n,
                                    .upstreams = o->upstream.items,
                                    .n_upstreams = o->upstream.n};
    int r = dns_server_new(&p.loop, &so, &p.server, e);
    if (r == 0) {
        p.term.data = p.intr.data = &p;
        uv_signal_init(&p.loop, &p.term);
        uv_signal_init(&p.loop, &p.intr);
        uv_signal_start(&p.term, on_signal, SIGTERM);
        uv_signal_start(&p.intr, on_signal, SIGINT);
        log_info("answering", "address", o->listen.items[0], "zone", o->domain, NULL);
        uv_run(&p.loop, UV_RUN_DEFAULT);
    } else {
        dns_server_close(p.server);
        uv_run(&p.loop, UV_RUN_DEFAULT);
    }
    uv_loop_close(&p.loop);
    dns_server_free(p.server);
    zone_free(zone);
    return r;
}

int main(int argc, char **argv) {
    struct options o = {.domain = "cluster.local", .resolv_conf = "/etc/resolv.conf", .add_address = true, .ttl = 30};
    const struct flag flags[] = {
        {"kubeconfig", 0, FLAG_STR, &o.kubeconfig, "FILE", "how to reach the API server"},
        {"listen", 0, FLAG_LIST, &o.listen, "ADDR[:PORT],...", "addresses to answer on (default 10.96.0.10:53)"},
        {"add-address", 0, FLAG_BOOL, &o.add_address, NULL,
         "add the addresses to the loopback interface, remove them at the end"},
        {"cluster-domain", 0, FLAG_STR, &o.domain, "NAME", "the cluster's zone"},
        {"upstream", 0, FLAG_LIST, &o.upstream, "ADDR[:PORT],...",
         "servers for all other names (default: those of resolv.conf)"},
        {"resolv-conf", 0, FLAG_STR, &o.resolv_conf, "FILE", "where the default upstream servers stand"},
        {"ttl", 0, FLAG_INT, &o.ttl, "SECONDS", "time to live of answers"},
        {"cleanup", 0, FLAG_BOOL, &o.cleanup, NULL, "remove the addresses from the loopback interface and exit"},
        {"v", 'v', FLAG_INT, &o.v, "N", "log level: 0 normal, 4 debug"},
        {0}};
    flags_main("coracle-dns", "coracle-dns answers names of Services and pods, and forwards all others.", flags, argc,
               argv, 0);
    log_init("coracle-dns", o.v >= 4 ? LOG_DEBUG : LOG_INFO);
    memory_keep_small();
    signal(SIGPIPE, SIG_IGN);
    if (!o.listen.n) {
        VEC_GROW(o.listen.items, o.listen.n, o.listen.cap);
        o.listen.items[o.listen.n++] = xstrdup("10.96.0.10:53");
    }
    if (!o.upstream.n) read_resolv_conf(&o, &o.upstream);

    _cleanup_err_ struct err e = {0};
    int r = 0;
    for (size_t i = 0; i < o.listen.n && r == 0 && (o.add_address || o.cleanup); i++)
        r = netlink_lo_addr(o.listen.items[i], !o.cleanup, &e);
    if (r == 0 && !o.cleanup) {
        struct client_config cfg = {.user_agent = "coracle-dns"};
        struct client *c = NULL;
        r = o.kubeconfig ? client_new_from_kubeconfig(o.kubeconfig, &cfg, &c, &e)
                         : err_set(&e, -EINVAL, "--kubeconfig is missing");
        if (r == 0) {
            r = serve(&o, c, &e);
            client_free(c);
        }
        for (size_t i = 0; i < o.listen.n && o.add_address; i++) netlink_lo_addr(o.listen.items[i], false, NULL);
    }
    if (r < 0) log_error("stopped", "error", e.msg, NULL);
    flag_list_done(&o.listen);
    flag_list_done(&o.upstream);
    return r < 0;
}
