/* SPDX-License-Identifier: Apache-2.0 */
/* The server's end of one WebSocket connection after the handshake: bytes in, whole messages out; messages
 * in, bytes out. Sans-IO. Pings are answered, a close is answered, a rule that is broken ends the
 * connection with the close code that tells which. Extensions are not spoken.
 * Limits: WEBSOCKET_MESSAGE_BYTES for a message in all its fragments, 256 KiB of output waiting.
 * Source: RFC 6455. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define WEBSOCKET_MESSAGE_BYTES (256U << 10)
#define WEBSOCKET_SEND_BYTES (64U << 10) /* of one websocket_write, at most */
#define WEBSOCKET_OUT_PAUSE (256U << 10) /* bytes that wait to be written */
#define WEBSOCKET_FEED_BYTES (64U << 10) /* of one websocket_feed, at most */
#define WEBSOCKET_ACCEPT_SIZE 29         /* base64 of a SHA-1, and NUL */

enum websocket_close {
    WEBSOCKET_NORMAL = 1000,
    WEBSOCKET_GOING_AWAY = 1001,
    WEBSOCKET_PROTOCOL_ERROR = 1002,
    WEBSOCKET_BAD_DATA = 1007,
    WEBSOCKET_TOO_BIG = 1009,
    WEBSOCKET_INTERNAL_ERROR = 1011,
};

struct websocket_message {
    bool close;          /* the peer's last: nothing follows */
    bool text;           /* valid UTF-8 */
    const uint8_t *data; /* len bytes, borrowed until the next call on the reader */
    size_t len;
};

struct websocket;

/* 0 or -ENOMEM. */
int websocket_new(struct websocket **ret);
void websocket_free(struct websocket *w);
DEFINE_CLEANUP(struct websocket *, websocket_free);

/* True while websocket_next would take more: feed it. */
bool websocket_wants_input(const struct websocket *w);
/* 0; -EMSGSIZE: too much at once (take messages first); -ENOMEM. */
int websocket_feed(struct websocket *w, const void *bytes, size_t len);
/* 1: *ret; 0: more bytes or room for output are needed; -EPROTO, -ENOMEM: over, a close frame is
 * among what websocket_out has. */
int websocket_next(struct websocket *w, struct websocket_message *ret);
bool websocket_is_paused(const struct websocket *w);

/* One message of at most WEBSOCKET_SEND_BYTES. 0; -EAGAIN: too much waits already, nothing was taken;
 * -EPIPE: a close was sent; -ENOMEM. */
int websocket_write(struct websocket *w, bool text, const void *bytes, size_t len);
/* The last frame; a second one is not sent. */
void websocket_close(struct websocket *w, enum websocket_close code);

/* Bytes to send, borrowed until the next call that is not websocket_out_done; 0: none. */
size_t websocket_out(const struct websocket *w, const uint8_t **ret);
void websocket_out_done(struct websocket *w, size_t n);

/* The answer to a Sec-WebSocket-Key. 0; -EINVAL: the key is not the base64 of 16 bytes. */
int websocket_accept_key(const char *key, char ret[WEBSOCKET_ACCEPT_SIZE]);
