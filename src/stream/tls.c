/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#define CIPHERS_1_2 "ECDHE+AESGCM:ECDHE+CHACHA20"
#define CLIENT_CERTIFICATES_BYTES (32U << 10)
#define CAS_MAX 64

struct tls_context {
    SSL_CTX *ctx;
};

struct tls {
    SSL *ssl;
    bool handshake_waits_out, recv_waits_out, closed;
    char reason[160];
};

/* The first word of OpenSSL about it. */
static const char *take_reason(char *to, size_t size)
{
    unsigned long code = ERR_get_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;

    (void)snprintf(to, size, "%s", text ? text : "the connection broke");
    ERR_clear_error();
    return to;
}

int tls_prepare(struct error **err)
{
    SSL_CTX *ctx;

    if (OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_LOAD_SSL_STRINGS, NULL) != 1)
        return error_set(err, -ENOMEM, "cannot initialise OpenSSL");
    ctx = SSL_CTX_new(TLS_server_method()); /* has it fetch its algorithms */
    SSL_CTX_free(ctx);
    return ctx ? 0 : error_set(err, -ENOMEM, "cannot initialise OpenSSL");
}

/* ---- context */

static int use_certificates(SSL_CTX *ctx, BIO *bio)
{
    X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    int ok = x ? SSL_CTX_use_certificate(ctx, x) : 0;

    X509_free(x);
    while (ok == 1 && (x = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        ok = (int)SSL_CTX_add0_chain_cert(ctx, x);
        if (ok != 1)
            X509_free(x);
    }
    return ok == 1 ? 0 : -EINVAL;
}

/* No file asks a person anything. */
static int no_password(char *buf, int size, int rwflag, void *u)
{
    return -1;
}

static int use_key(SSL_CTX *ctx, BIO *bio)
{
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    int ok = key ? SSL_CTX_use_PrivateKey(ctx, key) : 0;

    EVP_PKEY_free(key);
    return ok == 1 ? 0 : -EINVAL;
}

static int use_client_ca(SSL_CTX *ctx, BIO *bio)
{
    int n = 0;
    X509 *x;

    while (n < CAS_MAX && (x = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        int ok = X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), x) == 1 &&
                 SSL_CTX_add_client_CA(ctx, x) == 1;

        X509_free(x);
        if (!ok)
            return -EINVAL;
        n++;
    }
    if (n == 0)
        return -EINVAL;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return 0;
}

static int use(SSL_CTX *ctx, int (*fn)(SSL_CTX *ctx, BIO *bio), const void *pem, size_t len,
               const char *what, struct error **err)
{
    BIO *bio = len <= INT32_MAX ? BIO_new_mem_buf(len ? pem : "", (int)len) : NULL;
    char reason[160];
    int r = bio ? fn(ctx, bio) : -ENOMEM;

    BIO_free(bio);
    if (r < 0)
        return error_set(err, r, "%s cannot be used: %s", what,
                         take_reason(reason, sizeof(reason)));
    ERR_clear_error(); /* "no further certificate" is an error of OpenSSL's */
    return 0;
}

static int set_rules(SSL_CTX *ctx)
{
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                       SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_max_cert_list(ctx, CLIENT_CERTIFICATES_BYTES);
    return SSL_CTX_set_num_tickets(ctx, 0) == 1 &&
                   SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
                   SSL_CTX_set_cipher_list(ctx, CIPHERS_1_2) == 1
               ? 0
               : -EINVAL;
}

int tls_context_new(const struct tls_pem *pem, struct tls_context **ret, struct error **err)
{
    _cleanup_(tls_context_freep) struct tls_context *c = calloc(1, sizeof(*c));
    char reason[160];
    int r;

    if (c)
        c->ctx = SSL_CTX_new(TLS_server_method());
    if (!c || !c->ctx || set_rules(c->ctx) < 0)
        return error_set(err, -ENOMEM, "cannot set up TLS: %s",
                         take_reason(reason, sizeof(reason)));
    r = use(c->ctx, use_certificates, pem->certificate, pem->certificate_len, "the certificate",
            err);
    if (r == 0)
        r = use(c->ctx, use_key, pem->key, pem->key_len, "the key", err);
    if (r == 0 && pem->client_ca_len)
        r = use(c->ctx, use_client_ca, pem->client_ca, pem->client_ca_len,
                "the client certificate authority", err);
    ERR_clear_error();
    if (r < 0)
        return r;
    *ret = TAKE(c);
    return 0;
}

void tls_context_free(struct tls_context *c)
{
    if (!c)
        return;
    SSL_CTX_free(c->ctx);
    free(c);
}

/* ---- connection */

int tls_new(struct tls_context *c, int fd, struct tls **ret)
{
    struct tls *t = calloc(1, sizeof(*t));

    if (t)
        t->ssl = SSL_new(c->ctx);
    if (!t || !t->ssl || SSL_set_fd(t->ssl, fd) != 1) {
        tls_free(t);
        ERR_clear_error();
        return -ENOMEM;
    }
    SSL_set_accept_state(t->ssl);
    *ret = t;
    return 0;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    SSL_free(t->ssl); /* not its socket: that was set without ownership */
    free(t);
}

const char *tls_reason(const struct tls *t)
{
    return t->reason;
}

/* What OpenSSL's answer means; *waits_out if it is -EAGAIN. */
static int check(struct tls *t, int answer, bool *waits_out)
{
    int e = SSL_get_error(t->ssl, answer);

    *waits_out = e == SSL_ERROR_WANT_WRITE;
    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
        return -EAGAIN;
    if (e == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (e == SSL_ERROR_SSL && ERR_GET_REASON(ERR_peek_error()) == SSL_R_HTTP_REQUEST) {
        ERR_clear_error();
        return -EPROTOTYPE;
    }
    (void)take_reason(t->reason, sizeof(t->reason));
    return e == SSL_ERROR_SSL ? -EPROTO : -ECONNRESET;
}

int tls_handshake(struct tls *t)
{
    int n, r;

    ERR_clear_error();
    n = SSL_do_handshake(t->ssl);
    if (n == 1) {
        t->handshake_waits_out = false;
        return 0;
    }
    r = check(t, n, &t->handshake_waits_out);
    return r == -EAGAIN || r == -EPROTOTYPE ? r : -EPROTO;
}

bool tls_handshake_waits_out(const struct tls *t)
{
    return t->handshake_waits_out;
}

ssize_t tls_recv(struct tls *t, void *bytes, size_t size)
{
    size_t n = 0;
    int r;

    ERR_clear_error();
    r = SSL_read_ex(t->ssl, bytes, size, &n);
    t->recv_waits_out = false;
    if (r == 1)
        return (ssize_t)n;
    r = check(t, r, &t->recv_waits_out);
    return r == -EAGAIN || r == 0 ? r : -ECONNRESET;
}

bool tls_recv_waits_out(const struct tls *t)
{
    return t->recv_waits_out;
}

ssize_t tls_send(struct tls *t, const void *bytes, size_t len)
{
    bool waits_out;
    size_t n = 0;
    int r;

    ERR_clear_error();
    r = SSL_write_ex(t->ssl, bytes, len, &n);
    if (r == 1)
        return (ssize_t)n;
    r = check(t, r, &waits_out);
    return r == -EAGAIN ? r : -ECONNRESET;
}

int tls_close(struct tls *t)
{
    bool waits_out;
    int r;

    if (t->closed)
        return 0;
    ERR_clear_error();
    r = SSL_shutdown(t->ssl);
    if (r < 0 && check(t, r, &waits_out) == -EAGAIN && waits_out)
        return -EAGAIN;
    t->closed = true;
    return 0;
}
