/* SPDX-License-Identifier: Apache-2.0 */
#include "fakes/mem-transport.h"

#include <errno.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/list.h"
#include "event/loop.h"

#define BUFFER_BYTES (64U << 10)
#define LISTENERS 4

struct transport_conn {
    struct list link;
    struct side *side;
    struct transport_conn *peer; /* NULL: closed its end */
    const struct transport_conn_ops *ops;
    void *ud;
    uint32_t port;
    struct buf in;   /* from the peer */
    bool connecting; /* the listener has not been asked yet */
    bool connected_owed;
    bool blocked; /* on_data left something; waits for resume */
    bool starved; /* a write of ours was short */
    bool eof, eof_told;
    bool closed; /* by the peer */
    int reason;
    bool dead; /* closed by its owner, or told */
};

struct listener {
    uint32_t port;
    transport_accept_fn fn;
    void *ud;
};

struct side {
    struct mem_transport *t;
    struct side *other;
    struct listener listeners[LISTENERS];
};

struct mem_transport {
    struct loop *loop;
    struct loop_source *pump;
    struct list conns;
    size_t count;
    struct side sides[2];
    struct transport transports[2];
};

static void kick(struct mem_transport *t)
{
    loop_defer_arm(t->pump);
}

static struct transport_conn *conn_new(struct side *side, uint32_t port)
{
    struct transport_conn *c = calloc(1, sizeof(*c));

    if (!c)
        abort();
    c->side = side;
    c->port = port;
    buf_init(&c->in, BUFFER_BYTES);
    list_append(&side->t->conns, &c->link);
    side->t->count++;
    return c;
}

static int do_listen(void *impl, uint32_t port, transport_accept_fn fn, void *ud)
{
    struct side *side = impl;
    struct listener *found = NULL;

    for (int i = 0; i < LISTENERS; i++) {
        if (side->listeners[i].fn && side->listeners[i].port == port)
            found = &side->listeners[i];
        else if (!side->listeners[i].fn && !found)
            found = &side->listeners[i];
    }
    if (!found)
        return fn ? -ENOSPC : 0;
    if (fn && found->fn)
        return -EADDRINUSE;
    *found = (struct listener){.port = port, .fn = fn, .ud = ud};
    return 0;
}

static int do_connect(void *impl, uint32_t port, const struct transport_conn_ops *ops, void *ud,
                      struct transport_conn **ret)
{
    struct side *side = impl;
    struct transport_conn *c = conn_new(side, port);

    c->ops = ops;
    c->ud = ud;
    c->connecting = true;
    kick(side->t);
    *ret = c;
    return 0;
}

static void do_set_ops(struct transport_conn *c, const struct transport_conn_ops *ops, void *ud)
{
    c->ops = ops;
    c->ud = ud;
}

static size_t do_write(struct transport_conn *c, const void *p, size_t n)
{
    size_t room;

    if (!c->peer) { /* not connected yet, or the peer has closed: nothing moves */
        c->starved = true;
        return 0;
    }
    room = BUFFER_BYTES - c->peer->in.used;
    if (n > room) {
        n = room;
        c->starved = true;
    }
    if (n && buf_append(&c->peer->in, p, n) < 0)
        abort();
    kick(c->side->t);
    return n;
}

static void do_resume(struct transport_conn *c)
{
    c->blocked = false;
    kick(c->side->t);
}

static void do_shutdown(struct transport_conn *c)
{
    if (c->peer)
        c->peer->eof = true;
    kick(c->side->t);
}

static void unpair(struct transport_conn *c, int reason)
{
    struct transport_conn *peer = c->peer;

    if (!peer)
        return;
    peer->peer = NULL;
    peer->eof = true;
    peer->closed = true;
    peer->reason = reason;
    c->peer = NULL;
}

/* The host resets, as its vsock device does; a guest's close is orderly: what it sent arrives. */
static void do_close(struct transport_conn *c)
{
    bool host = c->side == &c->side->t->sides[0];

    if (host && c->peer)
        buf_done(&c->peer->in);
    unpair(c, host ? -ECONNRESET : 0);
    c->dead = true;
    kick(c->side->t);
}

static void told(struct transport_conn *c, int reason)
{
    const struct transport_conn_ops *ops = c->ops;

    c->dead = true;
    if (ops && ops->on_closed)
        ops->on_closed(c, reason, c->ud);
}

static void ask_listener(struct transport_conn *c)
{
    struct side *other = c->side->other;
    struct transport_conn *far;

    c->connecting = false;
    for (int i = 0; i < LISTENERS; i++) {
        struct listener *l = &other->listeners[i];

        if (!l->fn || l->port != c->port)
            continue;
        far = conn_new(other, c->port);
        far->peer = c;
        c->peer = far;
        if (l->fn(far, l->ud)) {
            c->connected_owed = true;
            return;
        }
        far->dead = true;
        c->peer = NULL;
        far->peer = NULL;
        break;
    }
    told(c, -ECONNREFUSED);
}

static void give_data(struct transport_conn *c)
{
    size_t n = c->ops->on_data(c, c->in.data, c->in.used, c->ud);

    if (c->dead)
        return;
    c->blocked = n < c->in.used;
    buf_consume(&c->in, n);
    if (c->in.used == 0)
        buf_done(&c->in);
}

/* One event of one connection. True if there was one. */
static bool step(struct transport_conn *c)
{
    if (c->connecting) {
        ask_listener(c);
    } else if (c->connected_owed) {
        c->connected_owed = false;
        if (c->ops->on_connected)
            c->ops->on_connected(c, c->ud);
    } else if (c->in.used && !c->blocked && c->ops && c->ops->on_data) {
        give_data(c);
    } else if (c->starved && c->peer && c->peer->in.used <= BUFFER_BYTES / 2) {
        c->starved = false;
        if (c->ops->on_writable)
            c->ops->on_writable(c, c->ud);
    } else if (c->eof && !c->eof_told && c->in.used == 0) {
        c->eof_told = true;
        if (c->ops && c->ops->on_peer_shutdown)
            c->ops->on_peer_shutdown(c, c->ud);
    } else if (c->closed && c->in.used == 0) {
        told(c, c->reason);
    } else {
        return false;
    }
    return true;
}

static void on_pump(struct loop_source *s, void *ud)
{
    struct mem_transport *t = ud;
    struct transport_conn *c, *tmp;
    bool progress = false;

    /* connections made on the way are appended and get their turn; freed only below */
    list_foreach (c, &t->conns, link)
        if (!c->dead)
            progress |= step(c);
    list_foreach_safe (c, tmp, &t->conns, link) {
        if (!c->dead)
            continue;
        unpair(c, 0);
        list_remove(&c->link);
        buf_done(&c->in);
        free(c);
        t->count--;
    }
    if (progress)
        kick(t);
}

int mem_transport_new(struct loop *loop, struct mem_transport **ret)
{
    struct mem_transport *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return -ENOMEM;
    t->loop = loop;
    list_init(&t->conns);
    for (int i = 0; i < 2; i++) {
        t->sides[i].t = t;
        t->sides[i].other = &t->sides[1 - i];
        t->transports[i] = (struct transport){
            .impl = &t->sides[i],
            .listen = do_listen,
            .connect = do_connect,
            .conn_set_ops = do_set_ops,
            .conn_write = do_write,
            .conn_resume = do_resume,
            .conn_shutdown = do_shutdown,
            .conn_close = do_close,
        };
    }
    r = loop_add_defer(loop, on_pump, t, &t->pump);
    if (r < 0) {
        free(t);
        return r;
    }
    *ret = t;
    return 0;
}

void mem_transport_free(struct mem_transport *t)
{
    if (!t)
        return;
    while (!list_is_empty(&t->conns)) {
        struct transport_conn *c = list_first(&t->conns, struct transport_conn, link);

        list_remove(&c->link);
        buf_done(&c->in);
        free(c);
    }
    loop_remove(t->pump);
    free(t);
}

const struct transport *mem_transport_host(struct mem_transport *t)
{
    return &t->transports[0];
}

const struct transport *mem_transport_guest(struct mem_transport *t)
{
    return &t->transports[1];
}

void mem_transport_reset_guest(struct mem_transport *t)
{
    struct transport_conn *c;

    list_foreach (c, &t->conns, link) {
        if (c->side != &t->sides[0] || c->dead)
            continue;
        if (c->peer) {
            c->peer->dead = true;
            unpair(c->peer, -ECONNRESET);
        }
    }
    kick(t);
}

size_t mem_transport_count(const struct mem_transport *t)
{
    return t->count;
}
