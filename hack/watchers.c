/* watchers PORT CA-FILE TOKEN PATH N: opens N connections over TLS, each with a watch of PATH on 127.0.0.1, and holds
 * them until its standard input ends. Prints "ready N" when all are answered. For hack/bench: what watchers cost. */
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PROCESSES = 16 }; /* a handshake is a few round trips: many at once fill the time */

static SSL *connect_to(SSL_CTX *ctx, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        perror("connect");
        exit(1);
    }
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1) {
        fprintf(stderr, "the TLS handshake failed\n");
        exit(1);
    }
    return ssl;
}

/* Waits until the head of the response is there; the client keeps no more than the TLS connection. */
static void start_watch(SSL *ssl, const char *request) {
    char head[4096];
    int n = (int)strlen(request);
    if (SSL_write(ssl, request, n) != n || (n = SSL_read(ssl, head, sizeof(head) - 1)) <= 0) {
        fprintf(stderr, "no answer\n");
        exit(1);
    }
    head[n] = 0;
    if (strncmp(head, "HTTP/1.1 200", 12) != 0) {
        fprintf(stderr, "%.200s\n", head);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    setpgid(0, 0);
    int port = (int)strtol(argv[1], NULL, 10), n = (int)strtol(argv[5], NULL, 10);
    struct rlimit files = {(rlim_t)n + 64, (rlim_t)n + 64};
    setrlimit(RLIMIT_NOFILE, &files);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_load_verify_locations(ctx, argv[2], NULL);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    char request[2048];
    snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n",
             argv[4], argv[3]);
    int done[2];
    if (pipe(done) < 0) return 1;
    for (int k = 0; k < PROCESSES; k++) {
        if (fork() != 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(done[0]);
        for (int i = k; i < n; i += PROCESSES) start_watch(connect_to(ctx, port), request);
        if (write(done[1], "r", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(done[1]);
    char c;
    for (int k = 0; k < PROCESSES; k++)
        if (read(done[0], &c, 1) != 1) return 1;
    printf("ready %d\n", n);
    fflush(stdout);
    while (getchar() != EOF) continue;
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM); /* the processes of our group */
    return 0;
}
