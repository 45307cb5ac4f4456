/* An etcd of Debian's etcd-server for the tests: on loopback, data in a scratch folder, ended with the test program. */
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "pkg/pki/pki.h"
#include "pkg/store/store.h"

static struct {
    char dir[64], data[80], url[64], peer[64];
    char ca[96], cert[96], key[96], ca_key[96];
    pid_t pid;
    bool tls;
} test_etcd;

static int test_etcd_port(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(sa);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || getsockname(fd, (struct sockaddr *)&sa, &n) < 0)
        abort();
    close(fd);
    return ntohs(sa.sin_port);
}

static void test_etcd_start(void) {
    fflush(NULL);
    test_etcd.pid = fork();
    if (test_etcd.pid > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int null = open("/dev/null", O_RDWR);
    dup2(null, 1);
    dup2(null, 2);
    const char *argv[] = {"etcd",
                          "--data-dir",
                          test_etcd.data,
                          "--listen-client-urls",
                          test_etcd.url,
                          "--advertise-client-urls",
                          test_etcd.url,
                          "--listen-peer-urls",
                          test_etcd.peer,
                          "--initial-advertise-peer-urls",
                          test_etcd.peer,
                          "--initial-cluster",
                          xasprintf("default=%s", test_etcd.peer),
                          "--unsafe-no-fsync",
                          test_etcd.tls ? "--cert-file" : NULL,
                          test_etcd.cert,
                          "--key-file",
                          test_etcd.key,
                          "--trusted-ca-file",
                          test_etcd.ca,
                          "--client-cert-auth",
                          NULL};
    execvp("etcd", (char **)argv);
    _exit(127);
}

static void test_etcd_kill(void) {
    if (test_etcd.pid <= 0) return;
    kill(test_etcd.pid, SIGKILL);
    waitpid(test_etcd.pid, NULL, 0);
    test_etcd.pid = 0;
}

static int test_etcd_remove(const char *p, const struct stat *st, int type, struct FTW *f) { return remove(p); }

static void test_etcd_wipe(void) {
    test_etcd_kill();
    if (*test_etcd.dir) nftw(test_etcd.dir, test_etcd_remove, 8, FTW_DEPTH | FTW_PHYS);
    *test_etcd.dir = 0;
}

/* A CA, and one certificate for both sides. */
static void test_etcd_certs(void) {
    static const char *const sans[] = {"127.0.0.1", "localhost"};
    struct pki_spec spec = {.cn = "etcd", .sans = sans, .n_sans = 2, .usages = PKI_SERVER_AUTH | PKI_CLIENT_AUTH};
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    snprintf(test_etcd.ca, sizeof(test_etcd.ca), "%s/ca.crt", test_etcd.dir);
    snprintf(test_etcd.ca_key, sizeof(test_etcd.ca_key), "%s/ca.key", test_etcd.dir);
    snprintf(test_etcd.cert, sizeof(test_etcd.cert), "%s/etcd.crt", test_etcd.dir);
    snprintf(test_etcd.key, sizeof(test_etcd.key), "%s/etcd.key", test_etcd.dir);
    if (pki_ensure_ca(test_etcd.ca, test_etcd.ca_key, "ca", &ca, NULL) < 0 ||
        pki_ensure(&ca, &spec, test_etcd.cert, test_etcd.key, NULL, NULL) < 0)
        abort();
}

/* Starts an empty etcd and fills the options of a store on it. */
static void test_etcd_options(struct store_options *o) {
    test_etcd_wipe();
    snprintf(test_etcd.dir, sizeof(test_etcd.dir), "/tmp/store-etcd-XXXXXX");
    if (!mkdtemp(test_etcd.dir)) abort();
    snprintf(test_etcd.data, sizeof(test_etcd.data), "%s/data", test_etcd.dir);
    test_etcd.tls = str_eq(getenv("STORE_TEST_ETCD"), "https");
    snprintf(test_etcd.url, sizeof(test_etcd.url), "%s://127.0.0.1:%d", test_etcd.tls ? "https" : "http",
             test_etcd_port());
    snprintf(test_etcd.peer, sizeof(test_etcd.peer), "http://127.0.0.1:%d", test_etcd_port());
    if (test_etcd.tls) {
        test_etcd_certs();
        o->etcd_ca = test_etcd.ca;
        o->etcd_cert = test_etcd.cert;
        o->etcd_key = test_etcd.key;
    }
    test_etcd_start();
    o->etcd_servers = test_etcd.url;
}
