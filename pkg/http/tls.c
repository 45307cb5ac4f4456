/* TLS of the server: contexts from PEM, client certificates, and the BIO between OpenSSL and a connection.
 *
 * A client's certificate never fails the handshake: the verify callback accepts everything, and the identity counts
 * only when OpenSSL's verdict (kept by the callback) was X509_V_OK. So a client with a bad certificate and a good
 * token can still be served, as kube-apiserver does. Sessions are not resumed: a resumed one has no chain to look at. */
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "pkg/http/internal.h"

enum { CLIENT_CAS_MAX = 64, PEM_FILE_MAX = 4 * 1024 * 1024, ORGANIZATIONS_MAX = 256 };

struct tls_conf {
    _Atomic uint32_t refs;
    SSL_CTX *ctx;
    size_t n_cas;
    STACK_OF(X509) * cas[CLIENT_CAS_MAX];
};

struct tls_conf *tls_conf_ref(struct tls_conf *t) {
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void tls_conf_unref(struct tls_conf *t) {
    if (!t || atomic_fetch_sub(&t->refs, 1) != 1) return;
    for (size_t i = 0; i < t->n_cas; i++) sk_X509_pop_free(t->cas[i], X509_free);
    SSL_CTX_free(t->ctx);
    free(t);
}

/* ---- the BIO ---- */

static int bio_read(BIO *b, char *out, int n) {
    struct conn *c = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (n <= 0) return 0;
    if (!c->cipher_in_len) {
        BIO_set_retry_read(b);
        return -1;
    }
    size_t m = MIN_OF((size_t)n, c->cipher_in_len);
    memcpy(out, c->cipher_in, m);
    c->cipher_in += m;
    c->cipher_in_len -= m;
    return (int)m;
}

/* What OpenSSL says to a BIO that does TLS in its place; <openssl/bio.h> has the numbers in a comment. */
enum { KTLS_KEYS = 72, KTLS_ACTIVE = 73, KTLS_NEXT_TYPE = 74 };

/* Ciphertext; or, when this BIO has the keys, the plaintext of a record. After a handshake message (it can only be a
 * KeyUpdate, which a client asked for) other keys are due: OpenSSL 3.0 does not hand them over, and then the
 * connection ends with the next record. No known client asks before it has received some hundred gigabytes. */
static int bio_write(BIO *b, const char *p, int n) {
    struct conn *c = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (n <= 0) return n;
    if (!c->records) {
        conn_cipher_out(c, p, (size_t)n);
        return n;
    }
    uint8_t type = c->record_type ? c->record_type : RECORD_APPLICATION;
    c->record_type = 0;
    if (c->keys_over || !conn_record_out(c, type, NULL, 0, p, (size_t)n)) {
        conn_kill(c);
        return -1;
    }
    c->keys_over = type == RECORD_HANDSHAKE;
    return n;
}

static long bio_ctrl(BIO *b, int cmd, long n, void *p) {
    struct conn *c = BIO_get_data(b);
    switch (cmd) {
        case BIO_CTRL_FLUSH: return 1;
        case KTLS_ACTIVE: return c->records != NULL;
        case KTLS_NEXT_TYPE: c->record_type = (uint8_t)n; return 0;
        case KTLS_KEYS: /* n: for what is sent */
            if (!n || !tls_records_key(&c->records, p)) return 0;
            c->keys_over = false;
            return 1;
    }
    return 0;
}

static BIO_METHOD *bio_method;
static void make_bio_method(void) {
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "coracle connection");
    BIO_meth_set_read(bio_method, bio_read);
    BIO_meth_set_write(bio_method, bio_write);
    BIO_meth_set_ctrl(bio_method, bio_ctrl);
}

SSL *tls_conn_new(struct tls_conf *t, struct conn *c) {
    static pthread_once_t once = PTHREAD_ONCE_INIT; /* constant afterwards */
    pthread_once(&once, make_bio_method);
    SSL *ssl = SSL_new(t->ctx);
    BIO *bio = ssl ? BIO_new(bio_method) : NULL;
    if (!bio) {
        SSL_free(ssl);
        return NULL;
    }
    BIO_set_data(bio, c);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_accept_state(ssl);
    return ssl;
}

/* ---- contexts ---- */

static int ssl_err(struct err *e, const char *what, const char *name) {
    char text[200] = "no reason given";
    unsigned long code = ERR_get_error();
    if (code) ERR_error_string_n(code, text, sizeof(text));
    ERR_clear_error();
    return err_set(e, -EINVAL, "%s %s: %s", what, name, text);
}

/* The text, or the file's content. *owned is to be freed. */
static int load_pem(const char *pem, const char *file, const char **out, char **owned, struct err *e) {
    *owned = NULL;
    if (pem) {
        *out = pem;
        return 0;
    }
    int rc = file_read(file, PEM_FILE_MAX, owned, NULL);
    if (rc < 0) return err_errno(e, rc, "cannot read %s", file);
    *out = *owned;
    return 0;
}

static int use_certificate(SSL_CTX *ctx, const char *pem, const char *name, struct err *e) {
    BIO *b = BIO_new_mem_buf(pem, -1);
    X509 *x = PEM_read_bio_X509_AUX(b, NULL, NULL, NULL);
    int ok = x && SSL_CTX_use_certificate(ctx, x) == 1;
    X509_free(x);
    while (ok && (x = PEM_read_bio_X509(b, NULL, NULL, NULL))) ok = SSL_CTX_add0_chain_cert(ctx, x) == 1;
    BIO_free(b);
    if (!ok) return ssl_err(e, "cannot use the certificate", name);
    ERR_clear_error(); /* the end of the PEM text counts as an error */
    return 0;
}

static int use_key(SSL_CTX *ctx, const char *pem, const char *name, struct err *e) {
    BIO *b = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *k = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
    BIO_free(b);
    int ok = k && SSL_CTX_use_PrivateKey(ctx, k) == 1 && SSL_CTX_check_private_key(ctx) == 1;
    EVP_PKEY_free(k);
    return ok ? 0 : ssl_err(e, "cannot use the key", name);
}

static int add_client_ca(struct tls_conf *t, const struct http_ca *ca, struct err *e) {
    _cleanup_free_ char *owned = NULL;
    const char *pem = NULL;
    int rc = load_pem(ca->pem, ca->file, &pem, &owned, e);
    if (rc < 0) return rc;
    STACK_OF(X509) *set = t->cas[t->n_cas++] = sk_X509_new_null();
    BIO *b = BIO_new_mem_buf(pem, -1);
    X509_STORE *store = SSL_CTX_get_cert_store(t->ctx);
    for (X509 *x; (x = PEM_read_bio_X509(b, NULL, NULL, NULL));) {
        X509_STORE_add_cert(store, x);
        SSL_CTX_add_client_CA(t->ctx, x);
        sk_X509_push(set, x);
    }
    BIO_free(b);
    ERR_clear_error();
    if (!sk_X509_num(set)) return err_set(e, -EINVAL, "no certificate in %s", ca->file ? ca->file : "the client CA");
    return 0;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned n,
                   void *arg) {
    static const unsigned char ours[] = "\x02h2\x08http/1.1";
    if (SSL_select_next_proto((unsigned char **)(uintptr_t)out, out_len, ours, sizeof(ours) - 1, in, n) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_NOACK;
    return SSL_TLSEXT_ERR_OK;
}

/* Keeps the first error as the verdict (OpenSSL would overwrite it when told to go on). */
static int on_verify(int ok, X509_STORE_CTX *ctx) {
    if (!ok) {
        SSL *ssl = X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
        struct conn *c = BIO_get_data(SSL_get_rbio(ssl));
        if (!c->peer->pub.cert_error)
            c->peer->pub.cert_error = X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx));
    }
    return 1;
}

static int conf_fill(struct tls_conf *t, const struct http_listen *l, struct err *e) {
    SSL_CTX *ctx = t->ctx;
    SSL_CTX_set_min_proto_version(ctx, l->tls13_only ? TLS1_3_VERSION : TLS1_2_VERSION);
    SSL_CTX_set_mode(ctx,
                     SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF |
                                 SSL_OP_ENABLE_KTLS /* by the BIO: record.c */);
    /* AES-128 first: as strong as the P-256 keys, and cheaper. A client that puts ChaCha20 first has no AES in hardware. */
    SSL_CTX_set_options(ctx, SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    _cleanup_free_ char *cert_owned = NULL, *key_owned = NULL;
    const char *cert = NULL, *key = NULL;
    int rc = load_pem(l->cert_pem, l->cert_file, &cert, &cert_owned, e);
    if (rc < 0) return rc;
    if (!l->key_pem && !l->key_file) return err_set(e, -EINVAL, "a certificate needs its key");
    rc = load_pem(l->key_pem, l->key_file, &key, &key_owned, e);
    if (rc < 0) return rc;
    rc = use_certificate(ctx, cert, l->cert_pem ? "given" : l->cert_file, e);
    if (!rc) rc = use_key(ctx, key, l->key_pem ? "given" : l->key_file, e);
    if (rc < 0 || !l->n_client_cas) return rc;
    if (l->n_client_cas > CLIENT_CAS_MAX) return err_set(e, -E2BIG, "more than %d client CAs", CLIENT_CAS_MAX);
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_PARTIAL_CHAIN); /* any listed CA is an anchor */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, on_verify);
    for (size_t i = 0; i < l->n_client_cas && !rc; i++) rc = add_client_ca(t, &l->client_cas[i], e);
    return rc;
}

struct tls_conf *tls_conf_new(const struct http_listen *l, struct err *e) {
    struct tls_conf *t = xcalloc(1, sizeof(*t));
    atomic_init(&t->refs, 1);
    ERR_clear_error();
    t->ctx = SSL_CTX_new(TLS_server_method());
    if (!t->ctx) ssl_err(e, "cannot make", "a TLS context");
    if (!t->ctx || conf_fill(t, l, e) < 0) {
        tls_conf_unref(t);
        return NULL;
    }
    return t;
}

/* ---- who the peer is ---- */

static char *name_entry_text(struct arena *a, X509_NAME_ENTRY *ne) {
    unsigned char *utf8 = NULL;
    int n = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(ne));
    if (n < 0) return NULL;
    char *s = memchr(utf8, 0, (size_t)n) ? NULL : arena_strndup(a, (const char *)utf8, (size_t)n);
    OPENSSL_free(utf8);
    return s;
}

static void fill_subject(struct peer *peer, X509 *x) {
    struct http_peer *p = &peer->pub;
    X509_NAME *subject = X509_get_subject_name(x);
    int n = X509_NAME_entry_count(subject);
    const char **orgs = arena_alloc(peer->arena, (size_t)(n > 0 ? n : 1) * sizeof(*orgs));
    for (int i = 0; i < n; i++) {
        X509_NAME_ENTRY *ne = X509_NAME_get_entry(subject, i);
        ASN1_OBJECT *obj = X509_NAME_ENTRY_get_object(ne);
        char oid[64], *text = name_entry_text(peer->arena, ne);
        if (!text) continue;
        if (OBJ_obj2nid(obj) == NID_commonName) {
            p->common_name = text;
        } else if (OBJ_obj2nid(obj) == NID_organizationName) {
            if (p->n_organizations < ORGANIZATIONS_MAX) orgs[p->n_organizations++] = text;
        } else if (OBJ_obj2txt(oid, sizeof(oid), obj, 1) > 0 && str_eq(oid, "1.3.6.1.4.1.57683.2")) {
            p->cert_uid = text;
        }
    }
    p->organizations = orgs;
}

static uint64_t matching_cas(const struct tls_conf *t, STACK_OF(X509) * chain) {
    uint64_t mask = 0;
    X509 *root = chain && sk_X509_num(chain) > 0 ? sk_X509_value(chain, sk_X509_num(chain) - 1) : NULL;
    for (size_t i = 0; root && i < t->n_cas; i++)
        for (int j = 0; j < sk_X509_num(t->cas[i]); j++)
            if (X509_cmp(root, sk_X509_value(t->cas[i], j)) == 0) mask |= UINT64_C(1) << i;
    return mask;
}

void tls_fill_peer(struct conn *c) {
    struct http_peer *p = &c->peer->pub;
    X509 *x = SSL_get0_peer_certificate(c->ssl);
    if (!x) return;
    c->peer->arena = arena_new();
    p->cert_given = true;
    if (!p->cert_error) {
        p->ca_mask = matching_cas(c->tls, SSL_get0_verified_chain(c->ssl));
        p->cert_verified = p->ca_mask && SSL_get_verify_result(c->ssl) == X509_V_OK;
        if (!p->cert_verified) p->cert_error = "not issued by a known CA";
    }
    fill_subject(c->peer, x);
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (X509_digest(x, EVP_sha256(), md, &n) == 1 && n == 32) hex_encode(md, n, p->cert_sha256);
    struct tm tm;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) == 1) p->cert_not_after = (int64_t)timegm(&tm);
}
