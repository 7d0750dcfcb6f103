/* SPDX-License-Identifier: Apache-2.0 */
/* The vsock device: packets in, packets out, time limits. Three movements:
 *   the guest's packets (on_packet)   → buffers and flags of connections, nothing else happens there;
 *   vsock_tell_users() (vsock.c)      → the callbacks;
 *   the pump                          → one packet per free receive buffer, round robin over whoever
 *                                       is on the ready list.
 * What is owed to the guest is flags in the connection, so no reply is ever queued twice and nothing
 * grows. Without receive buffers the pump stops and waits for a kick. */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/le.h"
#include "event/loop.h"
#include "virtio/vsock-internal.h"

#define QUEUE_RX 0U
#define QUEUE_TX 1U
#define QUEUE_EVENT 2U /* for resets after a restore; nothing is sent on it yet */
#define HEADER_BYTES 44U
#define CHAIN_BYTES_MAX (2 * LIMIT_VSOCK_PACKET_BYTES)
#define CONNECT_NS 2000000000ULL
#define CLOSE_NS 2000000000ULL
#define POLL_MS_FIRST 10U
#define POLL_MS_MAX 1000U
#define SHUTDOWN_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

struct header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len;
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt;
};

static void timer_at(struct vsock *v, uint64_t ns)
{
    if (ns >= v->timer_ns)
        return;
    v->timer_ns = ns;
    loop_timer_set(v->timer, ns);
}

/* ---- packets from the guest ---- */

static void stray_reset(struct vsock *v, const struct header *h)
{
    if (h->op == VIRTIO_VSOCK_OP_RST || v->n_strays == VSOCK_STRAYS_MAX)
        return; /* a reset is never answered with a reset */
    v->strays[(v->first_stray + v->n_strays++) % VSOCK_STRAYS_MAX] =
        (struct vsock_stray){.local_port = h->dst_port, .peer_port = h->src_port, .type = h->type};
    vsock_work_soon(v);
}

static void on_request(struct vsock *v, const struct header *h)
{
    const struct vsock_listener *l = vsock_listener_of(v, h->dst_port);
    struct vsock_conn *c;

    if (!l || v->n_conns >= LIMIT_VSOCK_CONNECTIONS ||
        !(c = vsock_conn_new(v, h->dst_port, h->src_port))) {
        stray_reset(v, h);
        return;
    }
    c->state = VSOCK_OPEN;
    (void)vsock_conn_credit(c, h->buf_alloc, h->fwd_cnt);
    vsock_conn_owe(c, VSOCK_OWE_RESPONSE);
    c->busy++;
    if (!l->on_accept(v, c, l->ud) && !c->user_gone) {
        vsock_conn_end(c, 0, true);
        c->user_gone = true;
    }
    c->busy--;
    vsock_conn_settle(c);
}

/* The payload goes from the guest's pieces into the buffer, once. 0 or errno. */
static int take_payload(struct vsock_conn *c, const struct vq_chain *chain, uint32_t len)
{
    uint32_t at = 0;
    int r;

    if (c->peer_done || len > c->in.max - (c->in_received - c->in_taken))
        return -EPROTO; /* after its own end, or more than it has credit for */
    r = vsock_fifo_grow(&c->in, len);
    while (r == 0 && at < len) {
        uint8_t *p;
        uint32_t n = min_of(vsock_fifo_tail(&c->in, &p), len - at);

        if (vq_chain_read(chain, HEADER_BYTES + at, p, n) != n)
            return -EPROTO;
        vsock_fifo_put(&c->in, n);
        at += n;
    }
    if (r < 0)
        return r;
    c->in_received += len;
    if (len)
        vsock_conn_tell(c, VSOCK_TELL_DATA);
    return 0;
}

static int on_response(struct vsock_conn *c)
{
    if (c->state != VSOCK_CONNECTING || c->owed & VSOCK_OWE_REQUEST)
        return -EPROTO; /* nobody asked */
    c->state = VSOCK_OPEN;
    c->deadline_ns = UINT64_MAX;
    vsock_conn_tell(c, VSOCK_TELL_CONNECTED);
    return 0;
}

static void on_shutdown(struct vsock_conn *c, uint32_t flags)
{
    if (flags & VIRTIO_VSOCK_SHUTDOWN_SEND && !c->peer_done) {
        c->peer_done = true;
        vsock_conn_tell(c, VSOCK_TELL_DATA);
    }
    if (flags & VIRTIO_VSOCK_SHUTDOWN_RCV && !c->peer_deaf) {
        c->peer_deaf = true;
        vsock_fifo_done(&c->out);
    }
    vsock_conn_check_end(c);
}

/* One packet for a connection that is not ended. 0, or errno: the guest broke the protocol. */
static int on_conn_packet(struct vsock_conn *c, const struct header *h,
                          const struct vq_chain *chain)
{
    int r = vsock_conn_credit(c, h->buf_alloc, h->fwd_cnt);

    if (r < 0)
        return r;
    if (r > 0)
        vsock_conn_ready(c);
    if (h->op == VIRTIO_VSOCK_OP_RESPONSE)
        return on_response(c);
    if (c->state != VSOCK_OPEN)
        return -EPROTO; /* anything else needs an answer to our request first */
    switch (h->op) {
    case VIRTIO_VSOCK_OP_RW:
        return take_payload(c, chain, h->len);
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        on_shutdown(c, h->flags);
        return 0;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        return 0;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        vsock_conn_owe(c, VSOCK_OWE_CREDIT);
        return 0;
    default: /* a second REQUEST, or no operation at all */
        return -EPROTO;
    }
}

static void on_reset_packet(struct vsock_conn *c)
{
    bool orderly = c->peer_done && (c->shutdown_sent || c->peer_deaf);

    vsock_conn_end(c,
                   c->state == VSOCK_CONNECTING ? -ECONNREFUSED
                   : orderly                    ? 0
                                                : -ECONNRESET,
                   false);
}

static void on_packet(struct vsock *v, const struct header *h, const struct vq_chain *chain,
                      bool whole)
{
    struct vsock_conn *c;

    if (h->src_cid != v->guest_cid || h->dst_cid != VSOCK_HOST_CID)
        return; /* not from it or not for us: there is nobody to answer */
    if (h->type != VIRTIO_VSOCK_TYPE_STREAM) {
        stray_reset(v, h);
        return;
    }
    c = vsock_find(v, h->dst_port, h->src_port);
    if (!c && h->op == VIRTIO_VSOCK_OP_REQUEST && whole) {
        on_request(v, h);
        return;
    }
    if (!c) {
        stray_reset(v, h);
        return;
    }
    if (c->state == VSOCK_ENDED)
        return; /* its RST is on the way */
    if (h->op == VIRTIO_VSOCK_OP_RST)
        on_reset_packet(c);
    else if (!whole || on_conn_packet(c, h, chain) < 0)
        vsock_conn_end(c, -ECONNRESET, true);
}

static struct header parse_header(const uint8_t b[HEADER_BYTES])
{
    return (struct header){
        .src_cid = le64_load(b),
        .dst_cid = le64_load(b + 8),
        .src_port = le32_load(b + 16),
        .dst_port = le32_load(b + 20),
        .len = le32_load(b + 24),
        .type = le16_load(b + 28),
        .op = le16_load(b + 30),
        .flags = le32_load(b + 32),
        .buf_alloc = le32_load(b + 36),
        .fwd_cnt = le32_load(b + 40),
    };
}

static int serve_tx(struct virtio_device *dev, const struct vq_chain *c, const char **ret_fault)
{
    struct vsock *v = container_of(dev, struct vsock, dev);
    uint8_t b[HEADER_BYTES];
    struct header h;

    if (vq_chain_read(c, 0, b, sizeof(b)) < sizeof(b))
        return 0; /* no header, no packet */
    h = parse_header(b);
    on_packet(v, &h, c, h.len <= LIMIT_VSOCK_PACKET_BYTES && h.len <= c->out_bytes - HEADER_BYTES);
    return 0;
}

/* ---- packets to the guest ---- */

static void put_header(const struct vsock *v, const struct header *h, const struct vq_chain *chain)
{
    uint8_t b[HEADER_BYTES];

    le64_store(b, VSOCK_HOST_CID);
    le64_store(b + 8, v->guest_cid);
    le32_store(b + 16, h->src_port);
    le32_store(b + 20, h->dst_port);
    le32_store(b + 24, h->len);
    le16_store(b + 28, h->type);
    le16_store(b + 30, h->op);
    le32_store(b + 32, h->flags);
    le32_store(b + 36, h->buf_alloc);
    le32_store(b + 40, h->fwd_cnt);
    (void)vq_chain_write(chain, 0, b, sizeof(b));
}

static void put_payload(struct vsock_conn *c, const struct vq_chain *chain, uint32_t len)
{
    uint32_t at = 0;

    while (at < len) {
        const uint8_t *p;
        uint32_t n = min_of(vsock_fifo_front(&c->out, &p), len - at);

        (void)vq_chain_write(chain, HEADER_BYTES + at, p, n);
        vsock_fifo_drop(&c->out, n);
        at += n;
    }
    vsock_conn_sent(c, len);
    if (c->short_write && c->out.used <= c->out.max / 2) {
        c->short_write = false;
        vsock_conn_tell(c, VSOCK_TELL_WRITABLE);
    }
}

/* What c has to say next, most urgent first; op 0: nothing now. Marks it as said. */
static struct header next_packet(struct vsock_conn *c, uint32_t room)
{
    struct header h = {.src_port = c->local_port,
                       .dst_port = c->peer_port,
                       .type = VIRTIO_VSOCK_TYPE_STREAM,
                       .buf_alloc = c->in.max,
                       .fwd_cnt = c->in_taken};

    if (c->owed & VSOCK_OWE_RST) {
        h.op = VIRTIO_VSOCK_OP_RST;
        c->owed = 0;
    } else if (c->owed & VSOCK_OWE_REQUEST) {
        h.op = VIRTIO_VSOCK_OP_REQUEST;
        c->owed &= ~VSOCK_OWE_REQUEST;
    } else if (c->state != VSOCK_OPEN) {
        return h;
    } else if (c->owed & VSOCK_OWE_RESPONSE) {
        h.op = VIRTIO_VSOCK_OP_RESPONSE;
        c->owed &= ~VSOCK_OWE_RESPONSE;
    } else if ((h.len = vsock_conn_sendable(c, room)) > 0) {
        h.op = VIRTIO_VSOCK_OP_RW;
    } else if (c->local_done && c->out.used == 0 && !c->shutdown_sent) {
        h.op = VIRTIO_VSOCK_OP_SHUTDOWN;
        h.flags = c->peer_done ? SHUTDOWN_BOTH : VIRTIO_VSOCK_SHUTDOWN_SEND;
        c->shutdown_sent = true;
        c->both_sent = c->peer_done;
    } else if (c->shutdown_sent && c->peer_done && !c->both_sent) {
        h.op = VIRTIO_VSOCK_OP_SHUTDOWN;
        h.flags = SHUTDOWN_BOTH;
        c->both_sent = true;
    } else if (c->owed & VSOCK_OWE_ASK_CREDIT) {
        h.op = VIRTIO_VSOCK_OP_CREDIT_REQUEST;
        c->owed &= ~(VSOCK_OWE_ASK_CREDIT | VSOCK_OWE_CREDIT);
    } else if (c->owed & VSOCK_OWE_CREDIT) {
        h.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE;
    }
    if (h.op != 0) { /* every packet carries our count */
        c->owed &= ~VSOCK_OWE_CREDIT;
        c->in_told = c->in_taken;
    }
    return h;
}

/* Asks for credit if data waits for it: at once, then at growing intervals. A guest that took a few
 * small packets need not say so by itself. */
static void ask_credit(struct vsock_conn *c)
{
    if (c->credit_asked || !vsock_conn_is_blocked(c))
        return;
    c->credit_asked = true;
    c->owed |= VSOCK_OWE_ASK_CREDIT;
    c->poll_ms = c->poll_ms ? min_of(c->poll_ms * 2, POLL_MS_MAX) : POLL_MS_FIRST;
    c->poll_ns = clock_mono_ns() + c->poll_ms * 1000000ULL;
    timer_at(c->v, c->poll_ns);
}

/* Time limits begin when the packet they wait for an answer to is in the ring. */
static void start_timer(struct vsock_conn *c, uint16_t op)
{
    if (op == VIRTIO_VSOCK_OP_REQUEST)
        c->deadline_ns = clock_mono_ns() + CONNECT_NS;
    else if (op == VIRTIO_VSOCK_OP_SHUTDOWN && c->both_sent)
        c->deadline_ns = clock_mono_ns() + CLOSE_NS;
    else
        return;
    timer_at(c->v, c->deadline_ns);
}

/* One packet into a receive buffer of in_bytes; its length, or 0: nobody has anything to say. */
static uint32_t fill(struct vsock *v, const struct vq_chain *chain)
{
    if (v->n_strays) {
        const struct vsock_stray *s = &v->strays[v->first_stray];
        struct header h = {.src_port = s->local_port,
                           .dst_port = s->peer_port,
                           .type = s->type,
                           .op = VIRTIO_VSOCK_OP_RST};

        put_header(v, &h, chain);
        v->first_stray = (v->first_stray + 1) % VSOCK_STRAYS_MAX;
        v->n_strays--;
        return HEADER_BYTES;
    }
    while (!list_is_empty(&v->ready)) {
        struct vsock_conn *c = list_first(&v->ready, struct vsock_conn, ready);
        struct header h;

        list_remove(&c->ready);
        ask_credit(c);
        h = next_packet(c, chain->in_bytes - HEADER_BYTES);
        if (h.op == 0)
            continue;
        put_header(v, &h, chain);
        if (h.len)
            put_payload(c, chain, h.len);
        start_timer(c, h.op);
        if (h.op == VIRTIO_VSOCK_OP_RST) {
            list_remove(&c->bucket);
            vsock_conn_settle(c);
        } else {
            list_append(&v->ready, &c->ready); /* behind the others; it may have more */
        }
        return HEADER_BYTES + h.len;
    }
    return 0;
}

static bool has_work(const struct vsock *v)
{
    return v->n_strays || !list_is_empty(&v->ready);
}

/* True: more to do at once. */
static bool pump(struct vsock *v)
{
    struct vq *rx = &v->dev.vq[QUEUE_RX];
    struct vq_chain chain;
    unsigned n = 0;
    int r = 1;

    if (!v->dev.running || !vq_is_started(rx))
        return false;
    while (has_work(v) && n < VIRTIO_SERVE_CHAINS) {
        uint32_t len;

        r = vq_pop(rx, &chain);
        if (r == 0 && vq_kicks_on(rx))
            continue; /* buffers came at this moment */
        if (r <= 0)
            break;
        if (chain.in_bytes < HEADER_BYTES) {
            virtio_device_fail(&v->dev, "receive buffer is shorter than a header");
            return false;
        }
        len = fill(v, &chain);
        if (len == 0) {
            vq_rewind(rx, 1);
            break;
        }
        vq_push(rx, chain.head, len);
        n++;
    }
    if (r < 0) {
        virtio_device_fail(&v->dev, rx->fault);
        return false;
    }
    if (r > 0)
        vq_kicks_off(rx); /* buffers are left: nothing to be told */
    virtio_queue_flush(&v->dev, QUEUE_RX);
    return r > 0 && has_work(v);
}

/* ---- the loop's side ---- */

void vsock_work_soon(struct vsock *v)
{
    if (!v->working)
        loop_defer_arm(v->work);
}

void vsock_work(struct vsock *v)
{
    bool more;

    v->working = true;
    vsock_tell_users(v);
    more = pump(v);
    v->working = false;
    if (more || !list_is_empty(&v->telling))
        vsock_work_soon(v);
}

void vsock_on_timer(struct loop_source *s, void *userdata)
{
    struct vsock *v = userdata;
    uint64_t now = clock_mono_ns(), next = UINT64_MAX;
    struct vsock_conn *c;

    list_foreach (c, &v->conns, all) {
        if (c->deadline_ns <= now) {
            /* after both shutdowns nothing can be lost any more: the guest was only slow to agree */
            vsock_conn_end(c, c->state == VSOCK_CONNECTING ? -ETIMEDOUT : 0, true);
        } else if (c->poll_ns <= now) {
            c->poll_ns = UINT64_MAX;
            c->credit_asked = false;
            vsock_conn_ready(c);
        }
        next = min_of(next, c->deadline_ns);
        next = min_of(next, c->poll_ns);
    }
    v->timer_ns = UINT64_MAX;
    if (next != UINT64_MAX)
        timer_at(v, next);
}

static void vsock_kick(struct virtio_device *dev, unsigned q)
{
    struct vsock *v = container_of(dev, struct vsock, dev);

    if (q == QUEUE_EVENT)
        return;
    v->working = true; /* what the packets give rise to is done right after them */
    if (q == QUEUE_TX)
        virtio_queue_serve(dev, q, serve_tx);
    vsock_work(v);
}

static void vsock_reset(struct virtio_device *dev)
{
    struct vsock *v = container_of(dev, struct vsock, dev);
    struct vsock_conn *c, *next;

    v->n_strays = 0;
    list_foreach_safe (c, next, &v->conns, all) {
        vsock_conn_end(c, -ECONNRESET, false);
        c->owed = 0;
        list_remove(&c->bucket);
        list_remove(&c->ready);
        vsock_conn_settle(c);
    }
}

static void vsock_free(struct virtio_device *dev)
{
    struct vsock *v = container_of(dev, struct vsock, dev);

    while (!list_is_empty(&v->conns))
        vsock_conn_free(list_first(&v->conns, struct vsock_conn, all));
    loop_remove(v->work);
    loop_remove(v->timer);
    free(v);
}

const struct virtio_ops vsock_virtio_ops = {
    .name = "vsock",
    .device_id = VIRTIO_ID_VSOCK,
    .queues = 3,
    .queue_size = 256,
    .bytes_max = CHAIN_BYTES_MAX,
    .reset = vsock_reset,
    .kick = vsock_kick,
    .free = vsock_free,
};
