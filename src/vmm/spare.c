/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/spare.h"

#include <errno.h>

#include "base/checked.h"
#include "base/log.h"
#include "event/loop.h"

struct spare {
    struct transport transport; /* below's own verbs, but connect */
    const struct transport *below;
    struct loop_source *timer;   /* opens the next one */
    struct transport_conn *conn; /* NULL: none */
    bool connected;              /* conn may be given out */
    bool on;
    uint32_t first_ms, next_ms; /* until the next one is opened; grows with each that is lost */
};

static void open_later(struct spare *s)
{
    if (s->on)
        loop_timer_set_after_ms(s->timer, s->next_ms);
}

static void forget(struct spare *s)
{
    s->conn = NULL;
    s->connected = false;
}

/* It went before anybody took it. */
static void lost(struct spare *s)
{
    forget(s);
    s->next_ms = min_of(2 * s->next_ms, SPARE_DELAY_MAX_MS);
    open_later(s);
}

static void drop(struct spare *s)
{
    struct transport_conn *c = s->conn;

    lost(s);
    s->below->conn_close(c);
}

static void on_connected(struct transport_conn *c, void *ud)
{
    ((struct spare *)ud)->connected = true;
}

static size_t on_data(struct transport_conn *c, const uint8_t *p, size_t n, void *ud)
{
    log_limited(LOG_WARNING, "in guest: the agent spoke on a stream nobody has opened");
    drop(ud);
    return n;
}

static void on_peer_shutdown(struct transport_conn *c, void *ud)
{
    drop(ud);
}

static void on_closed(struct transport_conn *c, int reason, void *ud)
{
    lost(ud);
}

static const struct transport_conn_ops conn_ops = {
    .on_connected = on_connected,
    .on_data = on_data,
    .on_peer_shutdown = on_peer_shutdown,
    .on_closed = on_closed,
};

static void on_timer(struct loop_source *source, void *ud)
{
    struct spare *s = ud;

    if (s->conn || !s->on)
        return;
    if (s->below->connect(s->below->impl, TRANSPORT_PORT_STREAM, &conn_ops, s, &s->conn) < 0)
        lost(s);
}

static int do_connect(void *impl, uint32_t port, const struct transport_conn_ops *ops, void *ud,
                      struct transport_conn **ret)
{
    struct spare *s = impl;

    if (port != TRANSPORT_PORT_STREAM || !s->connected)
        return s->below->connect(s->below->impl, port, ops, ud, ret);
    *ret = s->conn;
    forget(s);
    s->below->conn_set_ops(*ret, ops, ud);
    s->next_ms = s->first_ms;
    open_later(s);
    return 1;
}

static void do_return(void *impl, struct transport_conn *c)
{
    struct spare *s = impl;

    if (s->conn || !s->on) {
        s->below->conn_close(c);
        return;
    }
    s->below->conn_set_ops(c, &conn_ops, s);
    s->conn = c;
    s->connected = true;
    loop_timer_set(s->timer, UINT64_MAX);
}

static int do_listen(void *impl, uint32_t port, transport_accept_fn on_accept, void *ud)
{
    struct spare *s = impl;

    return s->below->listen(s->below->impl, port, on_accept, ud);
}

int spare_new(struct loop *loop, const struct transport *below, struct spare **ret)
{
    _cleanup_(spare_freep) struct spare *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->below = below;
    s->transport = *below;
    s->transport.impl = s;
    s->transport.listen = do_listen;
    s->transport.connect = do_connect;
    s->transport.conn_return = do_return;
    spare_set_delay_ms(s, SPARE_DELAY_MS);
    r = loop_add_timer(loop, on_timer, s, &s->timer);
    if (r < 0)
        return r;
    *ret = TAKE(s);
    return 0;
}

void spare_free(struct spare *s)
{
    if (!s)
        return;
    spare_stop(s);
    loop_remove(s->timer);
    free(s);
}

const struct transport *spare_transport(const struct spare *s)
{
    return &s->transport;
}

void spare_start(struct spare *s)
{
    s->on = true;
    open_later(s);
}

void spare_stop(struct spare *s)
{
    struct transport_conn *c = s->conn;

    s->on = false;
    if (s->timer)
        loop_timer_set(s->timer, UINT64_MAX);
    forget(s);
    if (c)
        s->below->conn_close(c);
}

void spare_set_delay_ms(struct spare *s, uint32_t ms)
{
    s->first_ms = s->next_ms = ms;
}
