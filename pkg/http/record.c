/* Encrypting straight from where the bytes are to where they are sent from.
 *
 * SSL_write copies the plaintext into a buffer of its own and encrypts it there; the BIO copies the result into the
 * output. For a list of some megabytes these copies cost a third of the encryption. OpenSSL has a door through which
 * records leave unencrypted: with SSL_OP_ENABLE_KTLS it offers the keys to the BIO (BIO_CTRL_SET_KTLS), and when the
 * BIO takes them it hands over the plaintext of each record from then on, as it would to a kernel that does TLS. Here
 * the BIO takes them (tls.c) and this file does the kernel's part, with OpenSSL's own AES-GCM. The handshake, what is
 * received, alerts and everything but TLS 1.3 with AES-GCM stay OpenSSL's.
 *
 * Invariant: a sequence number, and so a nonce, is used once. It only ever grows, and starts where OpenSSL says.
 *
 * The bytes (RFC 8446 5.2): a head of 5 bytes, which is also what is authenticated beside the ciphertext, then the
 * plaintext with its content type as the last byte, encrypted, then the tag. The nonce is the IV with the sequence
 * number XORed into its end. */
#include "pkg/http/record.h"

#include <assert.h>
#include <linux/tls.h>
#include <openssl/evp.h>
#include <openssl/tls1.h>

enum { IV_LEN = 12, SALT_LEN = 4, SEQ_LEN = 8, TAG_LEN = 16, HEAD_LEN = 5 };

struct tls_records {
    EVP_CIPHER_CTX *gcm;
    unsigned char iv[IV_LEN];
    uint64_t seq; /* of the next record */
};

/* The two ciphers' structs differ in the length of their keys only. */
struct keys {
    const EVP_CIPHER *cipher;
    const unsigned char *iv, *key, *salt, *seq;
};

static bool keys_read(const void *info, struct keys *k) {
    const struct tls_crypto_info *i = info;
    if (i->version != TLS1_3_VERSION) return false;
    if (i->cipher_type == TLS_CIPHER_AES_GCM_128) {
        const struct tls12_crypto_info_aes_gcm_128 *x = info;
        *k = (struct keys){EVP_aes_128_gcm(), x->iv, x->key, x->salt, x->rec_seq};
        return true;
    }
    if (i->cipher_type == TLS_CIPHER_AES_GCM_256) {
        const struct tls12_crypto_info_aes_gcm_256 *x = info;
        *k = (struct keys){EVP_aes_256_gcm(), x->iv, x->key, x->salt, x->rec_seq};
        return true;
    }
    return false;
}

bool tls_records_key(struct tls_records **t, const void *info) {
    struct keys k;
    if (!keys_read(info, &k)) return false;
    EVP_CIPHER_CTX *gcm = EVP_CIPHER_CTX_new();
    if (!gcm || EVP_EncryptInit_ex(gcm, k.cipher, NULL, k.key, NULL) != 1) {
        EVP_CIPHER_CTX_free(gcm);
        return false;
    }
    if (!*t) *t = xcalloc(1, sizeof(**t));
    EVP_CIPHER_CTX_free((*t)->gcm);
    (*t)->gcm = gcm;
    memcpy((*t)->iv, k.salt, SALT_LEN);
    memcpy((*t)->iv + SALT_LEN, k.iv, IV_LEN - SALT_LEN);
    (*t)->seq = 0;
    for (size_t i = 0; i < SEQ_LEN; i++) (*t)->seq = (*t)->seq << 8 | k.seq[i];
    return true;
}

void tls_records_free(struct tls_records *t) {
    if (!t) return;
    EVP_CIPHER_CTX_free(t->gcm);
    OPENSSL_cleanse(t, sizeof(*t));
    free(t);
}

static bool update(struct tls_records *t, unsigned char *o, const void *p, size_t n) {
    int len;
    return !n || EVP_EncryptUpdate(t->gcm, o, &len, p, (int)n) == 1;
}

bool tls_records_add(struct tls_records *t, uint8_t type, const char *head, size_t n_head, const char *p, size_t n,
                     struct buf *out) {
    size_t plain = n_head + n + 1, sealed = plain + TAG_LEN;
    assert(plain <= TLS_RECORD_MAX + 1);
    unsigned char *o = (unsigned char *)buf_reserve(out, HEAD_LEN + sealed), nonce[IV_LEN];
    if (!o) return false;
    const unsigned char first[HEAD_LEN] = {RECORD_APPLICATION, 3, 3, (unsigned char)(sealed >> 8),
                                           (unsigned char)sealed};
    memcpy(o, first, HEAD_LEN);
    o += HEAD_LEN;
    memcpy(nonce, t->iv, IV_LEN);
    for (size_t i = 0; i < SEQ_LEN; i++) nonce[IV_LEN - 1 - i] ^= (unsigned char)(t->seq >> (8 * i));
    t->seq++;
    int len;
    bool ok = EVP_EncryptInit_ex(t->gcm, NULL, NULL, NULL, nonce) == 1 && update(t, NULL, first, HEAD_LEN) &&
              update(t, o, head, n_head) && update(t, o + n_head, p, n) && update(t, o + n_head + n, &type, 1) &&
              EVP_EncryptFinal_ex(t->gcm, o + plain, &len) == 1 &&
              EVP_CIPHER_CTX_ctrl(t->gcm, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, o + plain) == 1;
    if (!ok) return false;
    out->len += HEAD_LEN + sealed;
    out->data[out->len] = 0;
    return true;
}
