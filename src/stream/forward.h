/* SPDX-License-Identifier: Apache-2.0 */
/* Port forwarding on one client connection: many pairs of SPDY streams (error and data), each a connection to a
 * port of the pod. Directly, or with the SPDY bytes in WebSocket messages, or the older WebSocket form
 * (port-channels.h). Sans-IO: time is an argument.
 * A pair is known by the id of its data stream, or the place of its port. One that fails ends alone.
 * Source: the published behaviour of Kubernetes' port-forward clients. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "stream/upgrade.h"

#define FORWARD_PAIRS_MAX 256
#define FORWARD_WRITE_BYTES 8192       /* of one forward_write, at most */
#define FORWARD_PAIR_NS 30000000000ULL /* for the second stream of a pair */

enum forward_event_type {
    FORWARD_CONNECT, /* a pair is complete: port is wanted */
    FORWARD_DATA,
    FORWARD_EOF,  /* the client writes no more; it may still read */
    FORWARD_GONE, /* the client has reset the pair: it is no more */
    FORWARD_LEFT, /* the client said it leaves */
};
struct forward_event {
    enum forward_event_type type;
    uint32_t pair;
    uint16_t port;       /* CONNECT; 1 to 65535 */
    const uint8_t *data; /* DATA; len bytes, borrowed until the next call on it */
    size_t len;
};

struct forward;

/* ports: with UPGRADE_PORTS. 0 or -ENOMEM. */
int forward_new(const struct upgrade *upgrade, const uint16_t *ports, size_t n_ports,
                struct forward **ret);
void forward_free(struct forward *f);
DEFINE_CLEANUP(struct forward *, forward_free);

bool forward_wants_input(const struct forward *f);
/* At most 64 KiB. 0; -EMSGSIZE: take events first; -ENOMEM. */
int forward_feed(struct forward *f, const void *bytes, size_t len);
/* As channels_next. */
int forward_next(struct forward *f, uint64_t now_ns, struct forward_event *ret);
bool forward_is_paused(const struct forward *f);
/* Drops pairs that were not completed in time; returns when to be called again, UINT64_MAX: no need. */
uint64_t forward_tick(struct forward *f, uint64_t now_ns);

/* To the client. 0 (also if it does not listen any more); -EAGAIN: no room, nothing was taken; -ENOMEM. */
int forward_write(struct forward *f, uint32_t pair, const void *bytes, size_t len);
/* Nothing more will be written to it; the client may still write. False: it cannot, and the pair is no more. */
bool forward_end(struct forward *f, uint32_t pair);
/* It is over, both ways; what the client still writes is thrown away. */
void forward_close(struct forward *f, uint32_t pair);
/* It failed: the client is told why and the pair is no more. text NULL: nothing to tell, a reset. */
void forward_fail(struct forward *f, uint32_t pair, const char *text);
/* The last: after what waits, the connection is to be closed. */
void forward_finish(struct forward *f);

size_t forward_out(struct forward *f, const uint8_t **ret);
void forward_out_done(struct forward *f, size_t n);
