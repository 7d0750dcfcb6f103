/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs are the device's own; what is added is a connection object, since the callbacks of the two
 * differ in type, and listeners that can be taken back. */
#include "vmm/transport-vsock.h"

#include <errno.h>

#include "virtio/vsock.h"

#define LISTENERS 2

struct transport_conn {
    struct vsock_conn *vsock;
    const struct transport_conn_ops *ops;
    void *ud;
};

struct listener {
    struct transport_vsock *t;
    uint32_t port;
    transport_accept_fn fn; /* NULL: taken back; the device asks, we refuse */
    void *ud;
};

struct transport_vsock {
    struct vsock *vsock;
    struct transport transport;
    struct listener listeners[LISTENERS];
    unsigned n_listeners;
};

/* A callback may close the connection, which frees c: nothing is read from c after one. */

static void on_connected(struct vsock_conn *vsock, void *ud)
{
    struct transport_conn *c = ud;

    if (c->ops->on_connected)
        c->ops->on_connected(c, c->ud);
}

static size_t on_data(struct vsock_conn *vsock, const uint8_t *p, size_t n, void *ud)
{
    struct transport_conn *c = ud;

    return c->ops->on_data ? c->ops->on_data(c, p, n, c->ud) : n;
}

static void on_writable(struct vsock_conn *vsock, void *ud)
{
    struct transport_conn *c = ud;

    if (c->ops->on_writable)
        c->ops->on_writable(c, c->ud);
}

static void on_peer_shutdown(struct vsock_conn *vsock, void *ud)
{
    struct transport_conn *c = ud;

    if (c->ops->on_peer_shutdown)
        c->ops->on_peer_shutdown(c, c->ud);
}

static void on_closed(struct vsock_conn *vsock, int reason, void *ud)
{
    struct transport_conn *c = ud;

    c->vsock = NULL; /* a close from within finds it gone */
    if (c->ops->on_closed)
        c->ops->on_closed(c, reason, c->ud);
    free(c);
}

static const struct vsock_conn_ops vsock_ops = {
    .on_connected = on_connected,
    .on_data = on_data,
    .on_writable = on_writable,
    .on_peer_shutdown = on_peer_shutdown,
    .on_closed = on_closed,
};

static bool on_accept(struct vsock *v, struct vsock_conn *vsock, void *ud)
{
    struct listener *l = ud;
    struct transport_conn *c = l->fn ? calloc(1, sizeof(*c)) : NULL;

    if (!c)
        return false;
    c->vsock = vsock;
    if (!l->fn(c, l->ud)) {
        free(c);
        return false;
    }
    vsock_conn_set_ops(vsock, &vsock_ops, c);
    return true;
}

static int do_listen(void *impl, uint32_t port, transport_accept_fn fn, void *ud)
{
    struct transport_vsock *t = impl;
    struct listener *l = NULL;
    int r;

    for (unsigned i = 0; i < t->n_listeners; i++)
        if (t->listeners[i].port == port)
            l = &t->listeners[i];
    if (l && l->fn && fn)
        return -EADDRINUSE;
    if (!l && !fn)
        return 0;
    if (!l) {
        if (t->n_listeners == LISTENERS)
            return -ENOSPC;
        l = &t->listeners[t->n_listeners];
        l->t = t;
        l->port = port;
        r = vsock_listen(t->vsock, port, on_accept, l);
        if (r < 0)
            return r == -EEXIST ? -EADDRINUSE : r;
        t->n_listeners++;
    }
    l->fn = fn;
    l->ud = ud;
    return 0;
}

static int do_connect(void *impl, uint32_t guest_port, const struct transport_conn_ops *ops,
                      void *ud, struct transport_conn **ret)
{
    struct transport_vsock *t = impl;
    struct transport_conn *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    c->ops = ops;
    c->ud = ud;
    r = vsock_connect(t->vsock, guest_port, &vsock_ops, c, &c->vsock);
    if (r < 0) {
        free(c);
        return r == -EMFILE ? -EAGAIN : r;
    }
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
    return vsock_conn_write(c->vsock, p, n);
}

static void do_resume(struct transport_conn *c)
{
    vsock_conn_resume(c->vsock);
}

static void do_shutdown(struct transport_conn *c)
{
    vsock_conn_shutdown(c->vsock);
}

static void do_close(struct transport_conn *c)
{
    vsock_conn_close(c->vsock);
    free(c);
}

int transport_vsock_new(struct vsock *v, struct transport_vsock **ret)
{
    struct transport_vsock *t = calloc(1, sizeof(*t));

    if (!t)
        return -ENOMEM;
    t->vsock = v;
    t->transport = (struct transport){
        .impl = t,
        .listen = do_listen,
        .connect = do_connect,
        .conn_set_ops = do_set_ops,
        .conn_write = do_write,
        .conn_resume = do_resume,
        .conn_shutdown = do_shutdown,
        .conn_close = do_close,
    };
    *ret = t;
    return 0;
}

void transport_vsock_free(struct transport_vsock *t)
{
    free(t);
}

const struct transport *transport_vsock_transport(const struct transport_vsock *t)
{
    return &t->transport;
}
