/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of AF_VSOCK, in this process: no socket of the host is involved. The guest sees CID
 * 2; listeners and connections here are objects with callbacks. Stream sockets only.
 *
 * Back-pressure: on_data says how much it took; what it leaves is kept (at most
 * LIMIT_VSOCK_BUFFER_BYTES per connection, which is also the credit the guest gets) until
 * vsock_conn_resume(). vsock_conn_write() takes what fits into the connection's send buffer of the
 * same size; on_writable follows a short write when at least half of it is free again.
 *
 * Life: a connection exists from vsock_connect() or on_accept until on_closed returns, or until
 * vsock_conn_close(). No callback runs inside vsock_connect() or vsock_conn_write(); any function here
 * may be called from any callback, vsock_conn_close() included. A reset of the device by the guest
 * closes every connection with -ECONNRESET; listeners stay. Freeing the device ends all without a
 * callback.
 * Threads: the loop's thread only. Source: virtio 1.2 section 5.10. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct virtio_device;
struct vsock;
struct vsock_conn;

#define VSOCK_HOST_CID 2U

/* All members may be NULL. */
struct vsock_conn_ops {
    /* host-initiated: the guest accepted */
    void (*on_connected)(struct vsock_conn *c, void *ud);
    /* Bytes taken, 0 … n. The rest stays buffered and no credit is given for it. Without this
     * callback everything is dropped. */
    size_t (*on_data)(struct vsock_conn *c, const uint8_t *p, size_t n, void *ud);
    /* room again after a short write */
    void (*on_writable)(struct vsock_conn *c, void *ud);
    /* the guest half-closed: after the buffered bytes no more data comes */
    void (*on_peer_shutdown)(struct vsock_conn *c, void *ud);
    /* Last callback; c is gone when it returns. reason: 0 orderly, -ECONNRESET, -ECONNREFUSED (no
     * listener in the guest), -ETIMEDOUT (no answer within 2 s). Buffered bytes of the guest were
     * offered to on_data once more before it. */
    void (*on_closed)(struct vsock_conn *c, int reason, void *ud);
};

/* guest_cid: >= 3. 0 or errno. The device belongs to whoever attaches vsock_device() to a window; v
 * is valid as long as that device. */
int vsock_new(struct loop *loop, uint32_t guest_cid, struct vsock **ret);
struct virtio_device *vsock_device(struct vsock *v);

/* on_accept sets the connection's ops with vsock_conn_set_ops() and returns true, or returns false:
 * the guest gets RST. At most 16 listeners. -EEXIST, -ENOSPC. */
int vsock_listen(struct vsock *v, uint32_t port,
                 bool (*on_accept)(struct vsock *v, struct vsock_conn *c, void *ud), void *ud);
/* Starts connecting; on_connected or on_closed follows. Possible before the guest's driver is up: the
 * 2 s begin when the request is in the guest's ring. ops: borrowed, for the connection's life.
 * -EMFILE: LIMIT_VSOCK_CONNECTIONS exist; -ENOMEM. */
int vsock_connect(struct vsock *v, uint32_t guest_port, const struct vsock_conn_ops *ops, void *ud,
                  struct vsock_conn **ret);

void vsock_conn_set_ops(struct vsock_conn *c, const struct vsock_conn_ops *ops, void *ud);
uint32_t vsock_conn_local_port(const struct vsock_conn *c);
uint32_t vsock_conn_peer_port(const struct vsock_conn *c);

/* Bytes taken into the send buffer; 0 after vsock_conn_shutdown(). Before on_connected it takes too. */
size_t vsock_conn_write(struct vsock_conn *c, const void *p, size_t n);
/* Bytes vsock_conn_write() would take now. */
size_t vsock_conn_room(const struct vsock_conn *c);
/* Offers buffered data to on_data again, on the loop's next turn. */
void vsock_conn_resume(struct vsock_conn *c);
/* Half-closes our direction after the pending bytes. */
void vsock_conn_shutdown(struct vsock_conn *c);
/* Resets the connection and forgets pending bytes in both directions; no callback follows, c is gone.
 * For an orderly end: vsock_conn_shutdown() and wait for on_closed. */
void vsock_conn_close(struct vsock_conn *c);

unsigned vsock_conn_count(const struct vsock *v);
