/* SPDX-License-Identifier: Apache-2.0 */
/* TLS 1.2 and 1.3 on non-blocking sockets, the server's end: a context (certificate, key, who may come) that can be
 * replaced at any time, and a connection, which keeps the context it began with. No sessions, no renegotiation. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct tls_context;
struct tls;

struct tls_pem {             /* borrowed; PEM text */
    const void *certificate; /* and those between it and its root */
    size_t certificate_len;
    const void *key;
    size_t key_len;
    const void *client_ca; /* len 0: clients need no certificate */
    size_t client_ca_len;
};

/* Everything OpenSSL reads or probes, before files and system calls are given up. */
int tls_prepare(struct error **err);

/* 0, or -EINVAL with *err set: one of the three is none, or the key is another's. */
int tls_context_new(const struct tls_pem *pem, struct tls_context **ret, struct error **err);
void tls_context_free(struct tls_context *c);
DEFINE_CLEANUP(struct tls_context *, tls_context_free);

/* fd: borrowed, non-blocking. 0 or -ENOMEM. */
int tls_new(struct tls_context *c, int fd, struct tls **ret);
void tls_free(struct tls *t);

/* 0: done; -EAGAIN; -EPROTOTYPE: the client speaks plain HTTP; -EPROTO: tls_reason says why, the client was told. */
int tls_handshake(struct tls *t);
/* For people; borrowed. */
const char *tls_reason(const struct tls *t);

/* Bytes, 0: the end; -EAGAIN; -ECONNRESET: it broke. size: 16 KiB at least, so that nothing that was read waits
 * inside. */
ssize_t tls_recv(struct tls *t, void *bytes, size_t size);
/* A part of them, then it is called again with what is left and perhaps more behind it. */
ssize_t tls_send(struct tls *t, const void *bytes, size_t len);
/* The last word. 0; -EAGAIN. Doing it twice is doing it once. */
int tls_close(struct tls *t);
/* Which of EPOLLIN and EPOLLOUT the call that was answered -EAGAIN waits for. */
bool tls_handshake_waits_out(const struct tls *t);
bool tls_recv_waits_out(const struct tls *t);
