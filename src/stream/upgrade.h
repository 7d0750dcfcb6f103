/* SPDX-License-Identifier: Apache-2.0 */
/* The upgrade handshake: what a request asks for, and the HTTP answer to it. Sans-IO.
 * Source: the published behaviour of Kubernetes' streaming clients; RFC 6455 section 4.2. */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "stream/http-head.h"

enum upgrade_purpose {
    UPGRADE_REMOTE,  /* exec and attach: v1 to v5 of channel.k8s.io */
    UPGRADE_FORWARD, /* portforward.k8s.io */
};
enum upgrade_wire {
    UPGRADE_SPDY,
    UPGRADE_WEBSOCKET, /* UPGRADE_REMOTE: channels in messages; UPGRADE_FORWARD: SPDY/3.1 in them */
    UPGRADE_PORTS, /* UPGRADE_FORWARD: two channels per port in WebSocket messages (port-channels.h) */
};
struct upgrade {
    enum upgrade_wire wire;
    unsigned version; /* of the remote command protocol, 1 to 5; 0 with UPGRADE_FORWARD */
    bool base64;      /* text messages, their bytes in base64 */
};

/* Appends the answer to out. 0: it is 101 and *ret is set; -EINVAL: it is an error, after which the connection
 * closes; -ENOMEM. */
int upgrade_negotiate(const struct http_head *h, enum upgrade_purpose purpose, struct upgrade *ret,
                      struct buf *out);
/* Appends an error answer with text as its body. status: 400, 403, 404, 405, 408, 426, 429, 431, 503. */
int upgrade_refuse(struct buf *out, unsigned status, const char *text);
