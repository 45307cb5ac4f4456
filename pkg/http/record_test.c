/* Records against the published trace of RFC 8448, and the server with every kind of TLS against OpenSSL as a client. */
#include "pkg/http/record.h"

#include <arpa/inet.h>
#include <linux/tls.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include "pkg/http/server.h"
#include "pkg/http/testcert.h"
#include "tests/test.h"

/* RFC 8448, section 3: the server's application data; its record 0 was a ticket. */
TEST(a_record_is_that_of_rfc_8448) {
    struct tls12_crypto_info_aes_gcm_128 k = {
        .info = {TLS1_3_VERSION, TLS_CIPHER_AES_GCM_128},
        .key = "\x9f\x02\x28\x3b\x6c\x9c\x07\xef\xc2\x6b\xb9\xf2\xac\x92\xe3\x56",
        .rec_seq = {0, 0, 0, 0, 0, 0, 0, 1},
    };
    memcpy(k.salt, "\xcf\x78\x2b\x88", 4);
    memcpy(k.iv, "\xdd\x83\x54\x9a\xad\xf1\xe9\x84", 8);
    static const char want[] =
        "\x17\x03\x03\x00\x43\x2e\x93\x7e\x11\xef\x4a\xc7\x40\xe5\x38\xad\x36\x00\x5f\xc4\xa4\x69\x32\xfc\x32\x25"
        "\xd0\x5f\x82\xaa\x1b\x36\xe3\x0e\xfa\xf9\x7d\x90\xe6\xdf\xfc\x60\x2d\xcb\x50\x1a\x59\xa8\xfc\xc4\x9c\x4b"
        "\xf2\xe5\xf0\xa2\x1c\x00\x47\xc2\xab\xf3\x32\x54\x0d\xd0\x32\xe1\x67\xc2\x95\x5d";
    char plain[50];
    for (size_t i = 0; i < sizeof(plain); i++) plain[i] = (char)i;
    struct tls_records *t = NULL;
    _cleanup_buf_ struct buf out = BUF_INIT;
    CHECK(tls_records_key(&t, &k));
    CHECK(tls_records_add(t, RECORD_APPLICATION, plain, 9, plain + 9, sizeof(plain) - 9, &out));
    CHECK_INT(out.len, sizeof(want) - 1);
    CHECK(out.len == sizeof(want) - 1 && memcmp(out.data, want, out.len) == 0);
    buf_reset(&out);
    CHECK(tls_records_add(t, RECORD_APPLICATION, NULL, 0, plain, sizeof(plain),
                          &out)); /* the same again is another record */
    CHECK(memcmp(out.data + 5, want + 5, sizeof(plain)) != 0);
    tls_records_free(t);
}

TEST(keys_of_other_versions_and_ciphers_stay_openssls) {
    struct tls12_crypto_info_aes_gcm_128 k = {.info = {TLS1_2_VERSION, TLS_CIPHER_AES_GCM_128}};
    struct tls_records *t = NULL;
    CHECK(!tls_records_key(&t, &k));
    k.info = (struct tls_crypto_info){TLS1_3_VERSION, TLS_CIPHER_CHACHA20_POLY1305};
    CHECK(!tls_records_key(&t, &k));
    CHECK(t == NULL);
}

/* ---- the server ---- */

enum { BODY = 3 * 1000 * 1000 + 7 };

static void handler(struct http_req *r, void *arg) {
    struct rbytes *b = arg;
    http_respond_bytes(r, 200, NULL, 0, &b, 1, 0);
}

struct server {
    struct test_cert ca, cert;
    struct rbytes *body;
    struct http_server *s;
    int id;
    SSL_CTX *client;
};

static void server_start(struct server *v) {
    v->ca = test_cert_new("ca", NULL, NULL);
    v->cert = test_cert_new("localhost", NULL, &v->ca);
    v->body = rbytes_alloc(BODY);
    for (size_t i = 0; i < BODY; i++) v->body->data[i] = (char)(i * 31 + i / 997);
    v->s = http_server_new(&(struct http_server_options){.handler = handler, .arg = v->body});
    struct http_listen l = {.address = "127.0.0.1", .cert_pem = v->cert.cert_pem, .key_pem = v->cert.key_pem};
    CHECK_INT(http_server_listen(v->s, &l, &v->id, NULL), 0);
    CHECK_INT(http_server_start(v->s, NULL), 0);
    v->client = SSL_CTX_new(TLS_client_method());
}

static void server_stop(struct server *v) {
    SSL_CTX_free(v->client);
    http_server_free(v->s);
    rbytes_unref(v->body);
    test_cert_done(&v->cert);
    test_cert_done(&v->ca);
}

static SSL *dial(struct server *v, int version, const char *cipher) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_server_port(v->s, v->id))};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    SSL *ssl = SSL_new(v->client);
    SSL_set_min_proto_version(ssl, version);
    SSL_set_max_proto_version(ssl, version);
    if (version == TLS1_3_VERSION)
        SSL_set_ciphersuites(ssl, cipher);
    else
        SSL_set_cipher_list(ssl, cipher);
    SSL_set_fd(ssl, fd);
    CHECK_INT(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    CHECK_INT(SSL_connect(ssl), 1);
    return ssl;
}

static void hang_up(SSL *ssl) {
    close(SSL_get_fd(ssl));
    SSL_free(ssl);
}

/* One request; true when the whole body came, as it is. */
static bool fetch(SSL *ssl, const struct rbytes *want) {
    static const char get[] = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    _cleanup_buf_ struct buf in = BUF_INIT;
    char *body = NULL, piece[16384];
    if (SSL_write(ssl, get, sizeof(get) - 1) <= 0) return false;
    while (!body || in.len - (size_t)(body - in.data) < want->len) {
        int n = SSL_read(ssl, piece, sizeof(piece));
        if (n <= 0) return false;
        buf_add(&in, piece, (size_t)n);
        body = memmem(in.data, in.len, "\r\n\r\n", 4);
        if (body) body += 4;
    }
    return memcmp(body, want->data, want->len) == 0;
}

TEST(every_version_and_cipher_carries_long_bodies) {
    static const struct {
        int version;
        const char *cipher;
    } rows[] = {
        {TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256"},        {TLS1_3_VERSION, "TLS_AES_256_GCM_SHA384"},
        {TLS1_3_VERSION, "TLS_CHACHA20_POLY1305_SHA256"},  {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256"},
        {TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384"},
    };
    struct server v = {0};
    server_start(&v);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        SSL *ssl = dial(&v, rows[i].version, rows[i].cipher);
        for (int turn = 0; turn < 3; turn++)
            if (!fetch(ssl, v.body)) TEST_FAIL("%s: body %d differs", rows[i].cipher, turn);
        CHECK(SSL_shutdown(ssl) >= 0);
        hang_up(ssl);
    }
    server_stop(&v);
}

TEST(a_client_may_change_its_keys_and_loses_no_more_than_the_connection_when_it_asks_for_others) {
    struct server v = {0};
    server_start(&v);
    SSL *ssl = dial(&v, TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256");
    CHECK(fetch(ssl, v.body));
    CHECK_INT(SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
    CHECK(fetch(ssl, v.body));
    CHECK_INT(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED), 1);
    bool goes_on = fetch(ssl, v.body); /* with OpenSSL 3.2 and later */
    if (!goes_on) CHECK(SSL_get_shutdown(ssl) || SSL_want_nothing(ssl));
    hang_up(ssl);
    ssl = dial(&v, TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256");
    CHECK(fetch(ssl, v.body));
    hang_up(ssl);
    server_stop(&v);
}
