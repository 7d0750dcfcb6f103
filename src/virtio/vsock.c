/* SPDX-License-Identifier: Apache-2.0 */
/* Connections, ports and callbacks of the vsock device: what users see. Callbacks but on_accept run
 * from one place, vsock_tell_users(), a batch per turn; everywhere else only flags are set. */
#include "virtio/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/le.h"
#include "event/loop.h"
#include "virtio/vsock-internal.h"

#define PORT_FIRST (1U << 30)
#define PORT_LAST (UINT32_MAX >> 1)

/* ---- connections ---- */

static struct list *bucket_of(struct vsock *v, uint32_t local_port, uint32_t peer_port)
{
    uint32_t h = local_port * 2654435761U ^ peer_port * 2246822519U;

    return &v->buckets[(h ^ h >> 15) % VSOCK_BUCKETS];
}

struct vsock_conn *vsock_find(struct vsock *v, uint32_t local_port, uint32_t peer_port)
{
    struct list *b = bucket_of(v, local_port, peer_port);
    struct vsock_conn *c;

    list_foreach (c, b, bucket) {
        if (c->local_port == local_port && c->peer_port == peer_port)
            return c;
    }
    return NULL;
}

struct vsock_conn *vsock_conn_new(struct vsock *v, uint32_t local_port, uint32_t peer_port)
{
    struct vsock_conn *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->v = v;
    c->local_port = local_port;
    c->peer_port = peer_port;
    c->deadline_ns = c->poll_ns = UINT64_MAX;
    c->large = v->n_large < VSOCK_LARGE_CONNS;
    c->in.max = c->out.max = c->large ? LIMIT_VSOCK_BUFFER_BYTES : VSOCK_SMALL_BUFFER_BYTES;
    v->n_large += c->large;
    v->n_conns++;
    list_append(&v->conns, &c->all);
    list_append(bucket_of(v, local_port, peer_port), &c->bucket);
    list_init(&c->ready);
    list_init(&c->told);
    return c;
}

void vsock_conn_free(struct vsock_conn *c)
{
    list_remove(&c->all);
    list_remove(&c->bucket);
    list_remove(&c->ready);
    list_remove(&c->told);
    c->v->n_large -= c->large;
    c->v->n_conns--;
    vsock_fifo_done(&c->in);
    vsock_fifo_done(&c->out);
    free(c);
}

void vsock_conn_settle(struct vsock_conn *c)
{
    if (c->user_gone && c->busy == 0 && !(c->owed & VSOCK_OWE_RST))
        vsock_conn_free(c);
}

void vsock_conn_ready(struct vsock_conn *c)
{
    if (!list_is_linked(&c->ready))
        list_append(&c->v->ready, &c->ready);
    vsock_work_soon(c->v);
}

void vsock_conn_owe(struct vsock_conn *c, unsigned owed)
{
    c->owed |= owed;
    vsock_conn_ready(c);
}

void vsock_conn_tell(struct vsock_conn *c, unsigned tell)
{
    c->tell |= tell;
    if (!list_is_linked(&c->told))
        list_append(&c->v->telling, &c->told);
    vsock_work_soon(c->v);
}

void vsock_conn_end(struct vsock_conn *c, int reason, bool rst)
{
    if (c->state == VSOCK_ENDED)
        return;
    c->state = VSOCK_ENDED;
    c->reason = reason;
    c->deadline_ns = c->poll_ns = UINT64_MAX;
    c->owed = 0;
    vsock_fifo_done(&c->out);
    if (rst)
        vsock_conn_owe(c, VSOCK_OWE_RST);
    else
        list_remove(&c->bucket);
    vsock_conn_tell(c, VSOCK_TELL_DATA);
}

void vsock_conn_check_end(struct vsock_conn *c)
{
    if (c->state != VSOCK_OPEN)
        return;
    if (c->peer_done && c->peer_deaf)
        vsock_conn_end(c, 0, true); /* the guest closed and waits for this reset */
    else if (c->peer_done && c->shutdown_sent && !c->both_sent)
        vsock_conn_ready(c); /* the pump says it: SHUTDOWN of both directions */
}

const struct vsock_listener *vsock_listener_of(const struct vsock *v, uint32_t port)
{
    for (unsigned i = 0; i < v->n_listeners; i++) {
        if (v->listeners[i].port == port)
            return &v->listeners[i];
    }
    return NULL;
}

/* ---- callbacks ---- */

static void offer_data(struct vsock_conn *c)
{
    const uint8_t *p;
    uint32_t n, taken;

    while (!c->user_gone && (n = vsock_fifo_front(&c->in, &p)) > 0) {
        taken = n;
        if (c->ops && c->ops->on_data)
            taken = (uint32_t)min_of(c->ops->on_data(c, p, n, c->ud), (size_t)n);
        if (c->user_gone)
            return; /* closed in the callback: the buffers are gone */
        vsock_fifo_drop(&c->in, taken);
        c->in_taken += taken;
        if (taken < n)
            break;
    }
    if (!c->user_gone && c->state == VSOCK_OPEN && vsock_conn_credit_due(c) && !c->peer_done)
        vsock_conn_owe(c, VSOCK_OWE_CREDIT);
}

static void tell_user(struct vsock_conn *c)
{
    unsigned tell = c->tell;

    c->tell = 0;
    c->busy++;
    if (tell & VSOCK_TELL_CONNECTED && !c->user_gone && c->ops && c->ops->on_connected)
        c->ops->on_connected(c, c->ud);
    offer_data(c);
    if (!c->user_gone && c->in.used == 0 && c->peer_done && !c->peer_done_told) {
        c->peer_done_told = true;
        if (c->ops && c->ops->on_peer_shutdown)
            c->ops->on_peer_shutdown(c, c->ud);
    }
    if (tell & VSOCK_TELL_WRITABLE && !c->user_gone && c->state != VSOCK_ENDED && c->ops &&
        c->ops->on_writable)
        c->ops->on_writable(c, c->ud);
    if (!c->user_gone && c->state == VSOCK_ENDED && c->in.used == 0) {
        if (c->ops && c->ops->on_closed)
            c->ops->on_closed(c, c->reason, c->ud);
        c->user_gone = true;
    }
    c->busy--;
    vsock_conn_settle(c);
}

void vsock_tell_users(struct vsock *v)
{
    struct list *mark = &v->told_mark;

    if (list_is_empty(&v->telling))
        return;
    list_append(&v->telling, mark);
    while (v->telling.next != mark) {
        struct vsock_conn *c = list_first(&v->telling, struct vsock_conn, told);

        list_remove(&c->told);
        tell_user(c);
    }
    list_remove(mark);
}

/* ---- for users ---- */

static void on_work(struct loop_source *s, void *userdata)
{
    vsock_work(userdata);
}

int vsock_new(struct loop *loop, uint32_t guest_cid, struct vsock **ret)
{
    struct vsock *v;
    int r;

    if (guest_cid <= VSOCK_HOST_CID || guest_cid == UINT32_MAX)
        return -EINVAL;
    v = calloc(1, sizeof(*v));
    if (!v)
        return -ENOMEM;
    virtio_device_init(&v->dev, &vsock_virtio_ops, 0, sizeof(uint64_t));
    le64_store(v->dev.config, guest_cid);
    v->guest_cid = guest_cid;
    v->next_port = PORT_FIRST;
    v->timer_ns = UINT64_MAX;
    list_init(&v->conns);
    list_init(&v->ready);
    list_init(&v->telling);
    for (unsigned i = 0; i < VSOCK_BUCKETS; i++)
        list_init(&v->buckets[i]);
    r = loop_add_defer(loop, on_work, v, &v->work);
    if (r == 0)
        r = loop_add_timer(loop, vsock_on_timer, v, &v->timer);
    if (r < 0) {
        virtio_device_free(&v->dev);
        return r;
    }
    *ret = v;
    return 0;
}

struct virtio_device *vsock_device(struct vsock *v)
{
    return &v->dev;
}

int vsock_listen(struct vsock *v, uint32_t port,
                 bool (*on_accept)(struct vsock *v, struct vsock_conn *c, void *ud), void *ud)
{
    if (vsock_listener_of(v, port))
        return -EEXIST;
    if (v->n_listeners == VSOCK_LISTENERS_MAX)
        return -ENOSPC;
    v->listeners[v->n_listeners++] =
        (struct vsock_listener){.port = port, .on_accept = on_accept, .ud = ud};
    return 0;
}

int vsock_connect(struct vsock *v, uint32_t guest_port, const struct vsock_conn_ops *ops, void *ud,
                  struct vsock_conn **ret)
{
    struct vsock_conn *c;

    if (v->n_conns >= LIMIT_VSOCK_CONNECTIONS)
        return -EMFILE;
    do { /* ends: there are more ports than connections */
        v->next_port = v->next_port >= PORT_LAST ? PORT_FIRST : v->next_port + 1;
    } while (vsock_find(v, v->next_port, guest_port));
    c = vsock_conn_new(v, v->next_port, guest_port);
    if (!c)
        return -ENOMEM;
    vsock_conn_set_ops(c, ops, ud);
    vsock_conn_owe(c, VSOCK_OWE_REQUEST);
    *ret = c;
    return 0;
}

void vsock_conn_set_ops(struct vsock_conn *c, const struct vsock_conn_ops *ops, void *ud)
{
    c->ops = ops;
    c->ud = ud;
}

uint32_t vsock_conn_local_port(const struct vsock_conn *c)
{
    return c->local_port;
}

uint32_t vsock_conn_peer_port(const struct vsock_conn *c)
{
    return c->peer_port;
}

size_t vsock_conn_room(const struct vsock_conn *c)
{
    return c->state == VSOCK_ENDED || c->local_done || c->peer_deaf ? 0 : c->out.max - c->out.used;
}

size_t vsock_conn_write(struct vsock_conn *c, const void *p, size_t n)
{
    const uint8_t *bytes = p;
    size_t room = vsock_conn_room(c);
    bool open = c->state != VSOCK_ENDED && !c->local_done && !c->peer_deaf;
    uint32_t take = (uint32_t)min_of(n, room), at = 0;

    if (take && vsock_fifo_grow(&c->out, take) < 0)
        take = 0; /* no memory now: as if full */
    while (at < take) {
        uint8_t *tail;
        uint32_t len = min_of(vsock_fifo_tail(&c->out, &tail), take - at);

        memcpy(tail, bytes + at, len);
        vsock_fifo_put(&c->out, len);
        at += len;
    }
    if (take < n && open)
        c->short_write = true;
    if (take)
        vsock_conn_ready(c);
    else if (c->short_write && c->out.used == 0)
        vsock_conn_tell(c, VSOCK_TELL_WRITABLE); /* nothing is under way that could bring it */
    return take;
}

void vsock_conn_resume(struct vsock_conn *c)
{
    vsock_conn_tell(c, VSOCK_TELL_DATA);
}

void vsock_conn_shutdown(struct vsock_conn *c)
{
    if (c->state == VSOCK_ENDED || c->local_done)
        return;
    c->local_done = true;
    vsock_conn_ready(c);
}

void vsock_conn_close(struct vsock_conn *c)
{
    bool known =
        c->state == VSOCK_OPEN || (c->state == VSOCK_CONNECTING && !(c->owed & VSOCK_OWE_REQUEST));

    vsock_conn_end(c, 0, known);
    c->user_gone = true;
    c->tell = 0;
    list_remove(&c->told);
    vsock_fifo_done(&c->in);
    vsock_conn_settle(c);
}

unsigned vsock_conn_count(const struct vsock *v)
{
    return v->n_conns;
}
