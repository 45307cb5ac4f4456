#include "apiserver/identity.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "pkg/pki/cluster.h"

const char *identity_address(struct arena *a) {
    char text[INET_ADDRSTRLEN] = "127.0.0.1";
    struct ifaddrs *list = NULL;
    /* a datagram socket's connect sends nothing: it asks the routing table */
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0xc0000201)},
                       me = {0};
    socklen_t len = sizeof(me);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 &&
        getsockname(fd, (struct sockaddr *)&me, &len) == 0 && me.sin_addr.s_addr)
        return arena_strdup(a, inet_ntop(AF_INET, &me.sin_addr, text, sizeof(text)));
    if (getifaddrs(&list)) return arena_strdup(a, text);
    for (struct ifaddrs *i = list; i; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK) ||
            !(i->ifa_flags & IFF_UP))
            continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, text, sizeof(text));
        break;
    }
    freeifaddrs(list);
    return arena_strdup(a, text);
}

static const char *service_ip(struct arena *a, const char *cidr) {
    char ip[64];
    struct in_addr in;
    snprintf(ip, sizeof(ip), "%.*s", (int)strcspn(cidr, "/"), cidr);
    if (inet_pton(AF_INET, ip, &in) != 1) return NULL;
    in.s_addr = htonl(ntohl(in.s_addr) + 1);
    return arena_strdup(a, inet_ntop(AF_INET, &in, ip, sizeof(ip)));
}

static int ensure_server(const struct apiserver_options *o, struct arena *a, const struct pki_pair *ca, struct err *e) {
    char host[256] = "localhost";
    const char *sans[12] = {"localhost",
                            "kubernetes",
                            "kubernetes.default",
                            "kubernetes.default.svc",
                            "kubernetes.default.svc.cluster.local",
                            "127.0.0.1",
                            "::1",
                            o->advertise_address};
    size_t n = 8;
    const char *ip = service_ip(a, o->service_cidr);
    if (ip) sans[n++] = ip;
    if (gethostname(host, sizeof(host) - 1) == 0 && *host) sans[n++] = host;
    struct pki_spec spec = {.cn = "kube-apiserver", .sans = sans, .n_sans = n, .usages = PKI_SERVER_AUTH};
    return pki_ensure(ca, &spec, o->tls_cert, o->tls_key, NULL, e);
}

int identity_ensure(struct apiserver_options *o, struct arena *a, struct err *e) {
    const char *pki = arena_printf(a, "%s/pki", o->data_dir);
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    _cleanup_free_ char *sa = NULL;
    int rc = mkdir_p(pki, 0700);
    if (rc) return err_errno(e, rc, "making %s", pki);
#define DEFAULT_FILE(field, name) \
    if (str_empty(o->field)) o->field = arena_printf(a, "%s/" name, pki)
    bool own_ca = str_empty(o->client_ca), own_tls = str_empty(o->tls_cert), own_sa = str_empty(o->sa_signing_key_file);
    DEFAULT_FILE(client_ca, "ca.crt");
    if (own_ca || own_tls) {
        rc = pki_ensure_ca(arena_printf(a, "%s/ca.crt", pki), arena_printf(a, "%s/ca.key", pki), "kubernetes", &ca, e);
        struct pki_cluster c = {.data_dir = o->data_dir,
                                .server = arena_printf(a, "https://127.0.0.1:%lld", (long long)o->secure_port),
                                .keep_kubeconfigs = true};
        if (!rc && own_ca) rc = pki_cluster_ensure(&c, &ca, a, e);
        if (rc) return rc;
    }
    if (own_tls) {
        DEFAULT_FILE(tls_cert, "apiserver.crt");
        DEFAULT_FILE(tls_key, "apiserver.key");
        if ((rc = ensure_server(o, a, &ca, e))) return rc;
    }
    if (own_sa) {
        DEFAULT_FILE(sa_signing_key_file, "sa.key");
        /* P-256: made in no time (RSA takes up to half a second of a first start), and signs thirty times faster */
        if ((rc = pki_ensure_key(o->sa_signing_key_file, "EC", &sa, e))) return rc;
    }
    if (own_ca) {
        DEFAULT_FILE(kubelet_cert, "apiserver-kubelet-client.crt");
        DEFAULT_FILE(kubelet_key, "apiserver-kubelet-client.key");
    }
    if (own_ca && str_empty(o->requestheader_ca) && str_empty(o->proxy_cert)) {
        if ((rc = pki_front_proxy_ensure(o->data_dir, a, e))) return rc;
        DEFAULT_FILE(requestheader_ca, "front-proxy-ca.crt");
        DEFAULT_FILE(proxy_cert, PKI_FRONT_PROXY ".crt");
        DEFAULT_FILE(proxy_key, PKI_FRONT_PROXY ".key");
        if (!o->requestheader_names) o->requestheader_names = PKI_FRONT_PROXY;
    }
    return 0;
}
