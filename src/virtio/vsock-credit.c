/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers and credit of one vsock connection: arithmetic only. All counters wrap at 2^32; every
 * difference is taken in that ring and bounded before it is used. Start at vsock_conn_sendable(). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "virtio/vsock-internal.h"

#define FIFO_SIZE_MIN 4096U
#define FIFO_KEEP_BYTES (32U << 10) /* memory an empty fifo may keep */

void vsock_fifo_done(struct vsock_fifo *f)
{
    free(f->data);
    f->data = NULL;
    f->size = f->head = f->used = 0;
}

int vsock_fifo_grow(struct vsock_fifo *f, uint32_t n)
{
    const uint8_t *front;
    uint32_t size = f->size ? f->size : FIFO_SIZE_MIN, first;
    uint8_t *data;

    if (n > f->max - f->used)
        return -ENOBUFS;
    while (size < f->used + n)
        size *= 2;
    if (size == f->size)
        return 0;
    data = malloc(size);
    if (!data)
        return -ENOMEM;
    first = vsock_fifo_front(f, &front);
    if (f->used) {
        memcpy(data, front, first);
        memcpy(data + first, f->data, f->used - first);
    }
    free(f->data);
    f->data = data;
    f->size = size;
    f->head = 0;
    return 0;
}

uint32_t vsock_fifo_tail(struct vsock_fifo *f, uint8_t **ret)
{
    uint32_t tail;

    *ret = NULL;
    if (f->size == 0)
        return 0;
    tail = (f->head + f->used) & (f->size - 1);
    *ret = f->data + tail;
    return min_of(f->size - f->used, f->size - tail);
}

uint32_t vsock_fifo_front(const struct vsock_fifo *f, const uint8_t **ret)
{
    *ret = NULL;
    if (f->used == 0)
        return 0;
    *ret = f->data + f->head;
    return min_of(f->used, f->size - f->head);
}

void vsock_fifo_put(struct vsock_fifo *f, uint32_t n)
{
    f->used += n;
}

void vsock_fifo_drop(struct vsock_fifo *f, uint32_t n)
{
    f->used -= n;
    if (f->used) {
        f->head = (f->head + n) & (f->size - 1);
        return;
    }
    f->head = 0;
    if (f->size > FIFO_KEEP_BYTES)
        vsock_fifo_done(f);
}

/* ---- towards the guest ----
 * Two limits. Bytes: never more in flight than the guest's buf_alloc. Packets: Linux (6.12.92 and
 * later) charges a connection for the overhead of each queued packet as well and resets it when the
 * sum passes buf_alloc, so many small packets kill it long before the bytes would. Each packet in
 * flight is therefore charged here too, a little more than Linux does; what may not be sent now waits
 * and leaves in one larger packet. */

#define PACKET_CHARGE 640U  /* SKB_TRUESIZE(0) is 576 to 600 */
#define WORTH_SENDING 2048U /* less than that is not squeezed into the last credit */

static uint32_t in_flight(const struct vsock_conn *c)
{
    return c->out_sent - c->peer_taken;
}

/* Bytes a packet may have now; saturating: a guest may shrink its buffer below what is in flight. */
static uint32_t credit(const struct vsock_conn *c)
{
    uint64_t charged = in_flight(c);

    /* with nothing in flight there is nothing to be charged for, however small the buffer */
    if (charged)
        charged += (uint64_t)(c->sent_count + 1) * PACKET_CHARGE;
    return charged >= c->peer_alloc ? 0 : (uint32_t)(c->peer_alloc - charged);
}

uint32_t vsock_conn_sendable(const struct vsock_conn *c, uint32_t room)
{
    uint32_t most = min_of(room, LIMIT_VSOCK_PACKET_BYTES);
    uint32_t want = min_of(c->out.used, most);
    uint32_t may = credit(c);

    if (c->state != VSOCK_OPEN || c->peer_deaf || want == 0 || c->sent_count == VSOCK_SENT_MAX)
        return 0;
    if (may >= want)
        return want;
    /* part of it: only if it is worth a packet, or if it is all the guest will ever take at once */
    return may >= WORTH_SENDING || in_flight(c) == 0 ? may : 0;
}

bool vsock_conn_is_blocked(const struct vsock_conn *c)
{
    return c->state == VSOCK_OPEN && !c->peer_deaf && c->out.used &&
           vsock_conn_sendable(c, LIMIT_VSOCK_PACKET_BYTES) == 0;
}

void vsock_conn_sent(struct vsock_conn *c, uint32_t n)
{
    c->out_sent += n;
    c->sent_end[(c->sent_first + c->sent_count) % VSOCK_SENT_MAX] = c->out_sent;
    c->sent_count++;
}

int vsock_conn_credit(struct vsock_conn *c, uint32_t buf_alloc, uint32_t fwd_cnt)
{
    uint32_t step = fwd_cnt - c->peer_taken;
    uint32_t before = c->peer_alloc;

    c->peer_alloc = buf_alloc;
    if (step > in_flight(c)) {
        /* packets of one guest may overtake each other, so an older count is no offence */
        return step >= 1U << 31 ? buf_alloc > before : -EPROTO;
    }
    c->peer_taken = fwd_cnt;
    while (c->sent_count &&
           c->sent_end[c->sent_first] - c->peer_taken - 1 >= in_flight(c)) { /* end <= taken */
        c->sent_first = (c->sent_first + 1) % VSOCK_SENT_MAX;
        c->sent_count--;
    }
    if (step == 0)
        return buf_alloc > before;
    c->credit_asked = false;
    c->poll_ms = 0;
    c->poll_ns = UINT64_MAX;
    return 1;
}

/* ---- from the guest ---- */

bool vsock_conn_credit_due(const struct vsock_conn *c)
{
    /* A quarter: a guest that used all its credit hears of it at the latest when that much is taken,
     * and one that never comes near the limit costs few packets. */
    return c->in_taken - c->in_told >= c->in.max / 4;
}
