/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the vsock device, three files: vsock-credit.c (buffers and credit of one connection:
 * arithmetic only), vsock.c (connections, ports, callbacks: what users see), vsock-device.c (packets,
 * rings, time limits: what the guest sees). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limit.h"
#include "base/list.h"
#include "virtio/device-impl.h"
#include "virtio/vsock.h"

/* Connections that may buffer LIMIT_VSOCK_BUFFER_BYTES; the ones beyond get SMALL_BUFFER_BYTES, so
 * that no guest makes this process keep more than 16 MiB for it. */
#define VSOCK_LARGE_CONNS 32U
#define VSOCK_SMALL_BUFFER_BYTES (8U << 10)

/* A ring of bytes that grows up to max and gives large memory back when it is empty. */
struct vsock_fifo {
    uint8_t *data; /* owned */
    uint32_t size; /* allocated, 0 or a power of two */
    uint32_t head; /* index of the first byte */
    uint32_t used;
    uint32_t max;
};
void vsock_fifo_done(struct vsock_fifo *f);
/* Room for n more contiguous or wrapped bytes. -ENOBUFS: over max; -ENOMEM. */
int vsock_fifo_grow(struct vsock_fifo *f, uint32_t n);
/* The free (write) or used (read) bytes that lie together, from the end or the front: their number. */
uint32_t vsock_fifo_tail(struct vsock_fifo *f, uint8_t **ret);
uint32_t vsock_fifo_front(const struct vsock_fifo *f, const uint8_t **ret);
void vsock_fifo_put(struct vsock_fifo *f, uint32_t n);  /* n bytes were written at the tail */
void vsock_fifo_drop(struct vsock_fifo *f, uint32_t n); /* n <= used, at the front */

enum vsock_conn_state {
    VSOCK_CONNECTING, /* from vsock_connect(): REQUEST is owed or sent. RESPONSE → OPEN */
    VSOCK_OPEN,       /* both sides agreed */
    VSOCK_ENDED,      /* no packet belongs to it but an RST owed; the user may still take bytes */
};

/* Packets a connection has to send beside its data. */
#define VSOCK_OWE_REQUEST 1U
#define VSOCK_OWE_RESPONSE 2U
#define VSOCK_OWE_RST 4U
#define VSOCK_OWE_CREDIT 8U      /* CREDIT_UPDATE */
#define VSOCK_OWE_ASK_CREDIT 16U /* CREDIT_REQUEST */

/* Callbacks a connection has to make. */
#define VSOCK_TELL_CONNECTED 1U
#define VSOCK_TELL_DATA 2U /* and what follows the last byte: shutdown, closed */
#define VSOCK_TELL_WRITABLE 4U

#define VSOCK_SENT_MAX 256U

struct vsock_conn {
    struct vsock *v;
    struct list all;    /* v->conns */
    struct list bucket; /* v->buckets; not linked: the guest does not know it (any more) */
    struct list ready;  /* v->ready: may have something to send */
    struct list told;   /* v->telling: tell != 0 */
    const struct vsock_conn_ops *ops;
    void *ud;
    uint32_t local_port, peer_port;
    enum vsock_conn_state state;
    int reason;     /* for on_closed */
    unsigned owed;  /* VSOCK_OWE_* */
    unsigned tell;  /* VSOCK_TELL_* */
    unsigned busy;  /* callbacks running */
    bool user_gone; /* closed by the user or told so: freed when nothing is owed */
    bool large;

    bool peer_done; /* the guest sends no more */
    bool peer_deaf; /* the guest receives no more */
    bool peer_done_told;
    bool local_done; /* the user shut down: SHUTDOWN after the last byte of out */
    bool shutdown_sent;
    bool both_sent;   /* SHUTDOWN of both directions */
    bool short_write; /* on_writable is due when out is half empty */

    struct vsock_fifo in; /* from the guest, not yet taken */
    uint32_t in_received; /* bytes since the start, wraps */
    uint32_t in_taken;    /* our fwd_cnt */
    uint32_t in_told;     /* fwd_cnt as the guest knows it */

    struct vsock_fifo out; /* to the guest */
    uint32_t out_sent;     /* bytes since the start, wraps */
    uint32_t peer_taken;   /* the guest's fwd_cnt */
    uint32_t peer_alloc;   /* the guest's buf_alloc */
    /* where each packet ended that the guest has not taken: out_sent after it */
    uint32_t sent_end[VSOCK_SENT_MAX];
    unsigned sent_first, sent_count;
    bool credit_asked; /* since the last progress */
    uint32_t poll_ms;  /* next interval of asking again */

    uint64_t deadline_ns; /* of connecting or closing; UINT64_MAX: none */
    uint64_t poll_ns;     /* when to ask for credit again; UINT64_MAX: not */
};

/* Bytes of the next data packet, at most room; 0: nothing to send or not now. */
uint32_t vsock_conn_sendable(const struct vsock_conn *c, uint32_t room);
/* Data waits and may not be sent. */
bool vsock_conn_is_blocked(const struct vsock_conn *c);
void vsock_conn_sent(struct vsock_conn *c, uint32_t n);
/* Takes the credit fields of any packet of the guest. True: bytes were freed. -EPROTO: it claims to
 * have taken what was never sent. */
int vsock_conn_credit(struct vsock_conn *c, uint32_t buf_alloc, uint32_t fwd_cnt);
/* True if the guest should hear about the bytes taken since it last did. */
bool vsock_conn_credit_due(const struct vsock_conn *c);

/* ---- the device ---- */

#define VSOCK_BUCKETS 256U
#define VSOCK_LISTENERS_MAX 16U
#define VSOCK_STRAYS_MAX 64U /* resets owed for packets of no connection; more are dropped */

struct vsock_listener {
    uint32_t port;
    bool (*on_accept)(struct vsock *v, struct vsock_conn *c, void *ud);
    void *ud;
};

struct vsock_stray {
    uint32_t local_port, peer_port;
    uint16_t type;
};

struct vsock {
    struct virtio_device dev;
    uint32_t guest_cid;
    struct list conns; /* all; owned */
    unsigned n_conns, n_large;
    struct list buckets[VSOCK_BUCKETS];
    struct list ready;
    struct list telling;
    struct list told_mark; /* in telling while its members are called */
    struct vsock_listener listeners[VSOCK_LISTENERS_MAX];
    unsigned n_listeners;
    struct vsock_stray strays[VSOCK_STRAYS_MAX];
    unsigned first_stray, n_strays;
    uint32_t next_port;
    bool working;             /* vsock_work() is running: no need to ask for it */
    struct loop_source *work; /* deferred: vsock_work() */
    struct loop_source *timer;
    uint64_t timer_ns; /* what it is set to */
};

/* vsock.c */
struct vsock_conn *vsock_find(struct vsock *v, uint32_t local_port, uint32_t peer_port);
const struct vsock_listener *vsock_listener_of(const struct vsock *v, uint32_t port);
/* NULL without memory. The caller keeps to LIMIT_VSOCK_CONNECTIONS. */
struct vsock_conn *vsock_conn_new(struct vsock *v, uint32_t local_port, uint32_t peer_port);
void vsock_conn_free(struct vsock_conn *c);
/* Frees c if neither the user nor the guest waits for anything of it. */
void vsock_conn_settle(struct vsock_conn *c);
/* c may have something to send. */
void vsock_conn_ready(struct vsock_conn *c);
void vsock_conn_owe(struct vsock_conn *c, unsigned owed);
/* c's user has something to hear: VSOCK_TELL_*. */
void vsock_conn_tell(struct vsock_conn *c, unsigned tell);
/* No packet belongs to c from now on; with rst the guest is told so. What it sent before is still the
 * user's: on_closed comes after the last byte. Calling it again changes nothing. */
void vsock_conn_end(struct vsock_conn *c, int reason, bool rst);
/* Looks whether the end is near; after anything that can bring it nearer. */
void vsock_conn_check_end(struct vsock_conn *c);
/* All callbacks due now; what becomes due during them has its turn next time. */
void vsock_tell_users(struct vsock *v);

/* vsock-device.c */
extern const struct virtio_ops vsock_virtio_ops;
/* Tells users and fills receive buffers, once. */
void vsock_work(struct vsock *v);
void vsock_work_soon(struct vsock *v);
void vsock_on_timer(struct loop_source *s, void *userdata);
