#include "apiserver/identity.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#include "pkg/base/map.h"
#include "pkg/netlink/netlink.h"
#include "pkg/pki/cluster.h"

const char *identity_address(struct arena *a, const char *was) {
    char text[64];
    if (was && !netlink_address_moved(was, text)) return was;
    return arena_strdup(a, netlink_node_address(text, NULL) == 0 ? text : "127.0.0.1");
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
    struct pki_spec spec = {.cn = "kube-apiserver",
                            .sans = sans,
                            .n_sans = n,
                            .usages = PKI_SERVER_AUTH,
                            .seconds = o->certificate_ns / NS_PER_SEC};
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
                                .seconds = o->certificate_ns / NS_PER_SEC,
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
        if ((rc = pki_front_proxy_ensure(o->data_dir, o->certificate_ns / NS_PER_SEC, a, e))) return rc;
        DEFAULT_FILE(requestheader_ca, "front-proxy-ca.crt");
        DEFAULT_FILE(proxy_cert, PKI_FRONT_PROXY ".crt");
        DEFAULT_FILE(proxy_key, PKI_FRONT_PROXY ".key");
        if (!o->requestheader_names) o->requestheader_names = PKI_FRONT_PROXY;
    }
    return 0;
}

/* ---- while the server runs ---- */

/* The files that the listener has loaded, or that are renewed here. */
static size_t files_of(const struct apiserver_options *o, const char *out[8]) {
    const char *const all[] = {o->tls_cert,         o->tls_key,      o->client_ca,
                               o->requestheader_ca, o->kubelet_cert, o->proxy_cert};
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (!str_empty(all[i])) out[n++] = all[i];
    return n;
}

uint64_t identity_files(const struct apiserver_options *o) {
    const char *files[8];
    size_t n = files_of(o, files);
    uint64_t h = 0;
    for (size_t i = 0; i < n; i++) {
        struct stat st = {0};
        if (stat(files[i], &st) < 0) continue;
        const int64_t facts[] = {(int64_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (int64_t)st.st_ino};
        h = h * 31 + hash_bytes(facts, sizeof(facts));
    }
    return h;
}

int64_t identity_renew_at(const struct apiserver_options *o) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *files[8];
    size_t n = files_of(o, files);
    int64_t first = INT64_MAX;
    for (size_t i = 0; i < n; i++) {
        _cleanup_free_ char *text = NULL;
        struct pki_info info;
        if (file_read(files[i], 1 << 20, &text, NULL) == 0 && pki_inspect(a, text, &info, NULL) == 0 && !info.is_ca)
            first = MIN_OF(first, pki_renew_at(&info).sec);
    }
    return first;
}
