/* SPDX-License-Identifier: Apache-2.0 */
/* How the supervisor reaches its guest: byte streams between this process and ports in the guest. The
 * real one is the vsock device (transport-vsock.h), tests use one in memory. The far end is hostile.
 *
 * Rules for implementers and users:
 *  1 One thread: that of the loop. No callback runs inside listen, connect, conn_write, conn_shutdown
 *    or conn_close; conn_resume may call on_data.
 *  2 A callback may close its own or any other connection. After conn_close no callback comes and the
 *    pointer is dead; after on_closed likewise.
 *  3 Order: on_connected (connect only), on_data…, on_peer_shutdown (all data was taken), on_closed.
 *    Data that on_data did not take is kept and offered again by conn_resume; an orderly end waits
 *    for it, a reset need not. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRANSPORT_PORT_CONTROL 1024 /* the agent connects here, on CID 2 */
#define TRANSPORT_PORT_STREAM 1025  /* the agent listens here, in the guest */

struct transport_conn;

struct transport_conn_ops {
    void (*on_connected)(struct transport_conn *c, void *ud);
    /* Bytes taken; no credit is given for the rest. */
    size_t (*on_data)(struct transport_conn *c, const uint8_t *p, size_t n, void *ud);
    /* Room again after a short write. */
    void (*on_writable)(struct transport_conn *c, void *ud);
    void (*on_peer_shutdown)(struct transport_conn *c, void *ud);
    /* reason: 0 orderly, else -ECONNRESET, -ECONNREFUSED, -ETIMEDOUT. */
    void (*on_closed)(struct transport_conn *c, int reason, void *ud);
};

/* False refuses (reset); true: the callback has called conn_set_ops. */
typedef bool (*transport_accept_fn)(struct transport_conn *c, void *ud);

struct transport {
    void *impl;
    /* 0 or errno; -EADDRINUSE. on_accept NULL stops listening. */
    int (*listen)(void *impl, uint32_t port, transport_accept_fn on_accept, void *ud);
    /* 0: on_connected or on_closed follows. 1: it is connected already, no on_connected comes.
     * -EAGAIN: too many connections. */
    int (*connect)(void *impl, uint32_t guest_port, const struct transport_conn_ops *ops, void *ud,
                   struct transport_conn **ret);
    void (*conn_set_ops)(struct transport_conn *c, const struct transport_conn_ops *ops, void *ud);
    /* Bytes taken into a bounded buffer; fewer than n: on_writable follows. */
    size_t (*conn_write)(struct transport_conn *c, const void *p, size_t n);
    void (*conn_resume)(struct transport_conn *c);
    /* No more bytes from us, after those pending. */
    void (*conn_shutdown)(struct transport_conn *c);
    void (*conn_close)(struct transport_conn *c);
    /* The stream on it is over, and the guest waits for the next one's first frame: like conn_close
     * for its user. NULL: conn_close it is. */
    void (*conn_return)(void *impl, struct transport_conn *c);
};
