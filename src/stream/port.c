/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/port.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/str.h"
#include "stream/back.h"
#include "stream/forward.h"
#include "wire/message.h"
#include "wire/tlv.h"

struct port_service {
    struct service service;
    const struct client_host *host;
    struct client *client;
    Nexus__StreamOffer *offer; /* owned */
    struct forward *forward;
    struct list links;
    bool over;
};

/* One pair. */
struct link {
    struct list node;
    struct port_service *owner;
    struct back *back; /* owned */
    uint32_t pair;
    uint16_t port;
    bool refused; /* the back waits for room */
};

static void link_free(struct link *l)
{
    list_remove(&l->node);
    back_free(l->back);
    free(l);
}

static struct link *find(struct port_service *x, uint32_t pair)
{
    struct link *l;

    list_foreach (l, &x->links, node)
        if (l->pair == pair)
            return l;
    return NULL;
}

/* ---- from nexus-vmm */

static void on_started(void *ud)
{
}

static bool on_output(void *ud, uint8_t type, const uint8_t *p, size_t n)
{
    struct link *l = ud;
    struct port_service *x = l->owner;
    int r = n ? forward_write(x->forward, l->pair, p, n) : 0;

    client_kick(x->client);
    if (n == 0 && !forward_end(x->forward, l->pair)) {
        link_free(l);
        return true;
    }
    l->refused = r == -EAGAIN;
    return r != -EAGAIN;
}

static void on_exited(void *ud, int code)
{
    struct link *l = ud;
    struct port_service *x = l->owner;

    if (code == 0)
        forward_close(x->forward, l->pair);
    else /* the application has reset it */
        forward_fail(x->forward, l->pair, NULL);
    link_free(l);
    client_kick(x->client);
}

static void on_failed(void *ud, int r, const struct error *err, int exit_code)
{
    struct link *l = ud;
    struct port_service *x = l->owner;
    _cleanup_(freep) char *text =
        str_printf("cannot forward to port %u of the pod: %s", l->port, error_text(err, r));

    forward_fail(x->forward, l->pair, text);
    link_free(l);
    client_kick(x->client);
}

static void on_room(void *ud)
{
    struct link *l = ud;

    client_kick(l->owner->client);
}

static const struct back_ops back_ops = {
    .on_started = on_started,
    .on_output = on_output,
    .on_exited = on_exited,
    .on_failed = on_failed,
    .on_room = on_room,
};

/* ---- from the client */

static void connect_pair(struct port_service *x, const struct forward_event *ev)
{
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;
    Nexus__ForwardSpec spec = NEXUS__FORWARD_SPEC__INIT;
    _cleanup_(error_freep) struct error *err = NULL;
    struct link *l = xcalloc(1, sizeof(*l));
    int r;

    l->owner = x;
    l->pair = ev->pair;
    l->port = ev->port;
    list_append(&x->links, &l->node);
    spec.port = ev->port;
    hello.version = 1;
    hello.role = NEXUS__CONTROL_HELLO__ROLE__FORWARD;
    hello.forward = &spec;
    r = back_new(x->host->event, x->host->vmm_dirfd, x->offer->vmm_socket, &hello, &back_ops, l,
                 &l->back, &err);
    if (r < 0)
        on_failed(l, r, err, 0);
}

static void on_event(struct port_service *x, const struct forward_event *ev)
{
    struct link *l = find(x, ev->pair);

    switch (ev->type) {
    case FORWARD_CONNECT:
        connect_pair(x, ev);
        break;
    case FORWARD_DATA:
        if (l && back_input(l->back, ev->data, ev->len) < 0) {
            forward_fail(x->forward, ev->pair, "no memory");
            link_free(l);
        }
        break;
    case FORWARD_EOF:
        if (l)
            (void)back_input(l->back, NULL, 0);
        break;
    case FORWARD_GONE:
        if (l)
            link_free(l);
        break;
    case FORWARD_LEFT:
    default:
        x->over = true;
        break;
    }
}

/* While each connection has room: the next bytes may be for any of them. */
static bool takes_input(const struct port_service *x)
{
    const struct link *l;

    list_foreach (l, &x->links, node)
        if (!back_has_room(l->back))
            return false;
    return !x->over;
}

static void port_feed(struct service *s, const uint8_t *p, size_t n)
{
    struct port_service *x = container_of(s, struct port_service, service);
    struct forward_event ev;
    int r = n ? forward_feed(x->forward, p, n) : 0;

    while (r >= 0 && takes_input(x)) {
        r = forward_next(x->forward, clock_mono_ns(), &ev);
        if (r == 0)
            break;
        if (r > 0)
            on_event(x, &ev);
    }
    if (r < 0)
        x->over = true; /* the connection's last words are in out */
}

/* ---- the client's questions */

static bool port_wants_input(struct service *s)
{
    const struct port_service *x = container_of(s, struct port_service, service);

    return takes_input(x) && forward_wants_input(x->forward);
}

static size_t port_out(struct service *s, const uint8_t **ret)
{
    return forward_out(container_of(s, struct port_service, service)->forward, ret);
}

static void port_out_done(struct service *s, size_t n)
{
    struct port_service *x = container_of(s, struct port_service, service);
    struct link *l, *tmp;

    forward_out_done(x->forward, n);
    list_foreach_safe (l, tmp, &x->links, node) {
        if (!l->refused)
            continue;
        l->refused = false;
        back_resume(l->back); /* may end this link, no other */
    }
    if (forward_is_paused(x->forward))
        client_kick(x->client);
}

static bool port_is_set_up(struct service *s)
{
    return true; /* each pair has a time limit of its own */
}

static bool port_is_over(struct service *s)
{
    return container_of(s, struct port_service, service)->over;
}

static uint64_t port_tick(struct service *s, uint64_t now_ns)
{
    return forward_tick(container_of(s, struct port_service, service)->forward, now_ns);
}

static void port_free(struct service *s)
{
    struct port_service *x = container_of(s, struct port_service, service);

    while (!list_is_empty(&x->links))
        link_free(list_first(&x->links, struct link, node));
    forward_free(x->forward);
    message_free(&x->offer->base);
    free(x);
}

static const struct service_ops port_ops = {
    .wants_input = port_wants_input,
    .feed = port_feed,
    .out = port_out,
    .out_done = port_out_done,
    .is_set_up = port_is_set_up,
    .is_over = port_is_over,
    .tick = port_tick,
    .free = port_free,
};

const char *port_list_get(const Nexus__StreamOffer *offer, const char *query, bool base64,
                          struct port_list *ret)
{
    const size_t max = base64 ? PORT_CHANNELS_BASE64_MAX : PORT_CHANNELS_MAX;
    int r = 0;

    ret->n = 0;
    for (size_t i = 0; i < offer->n_ports && i < PORT_CHANNELS_MAX; i++)
        ret->ports[ret->n++] = (uint16_t)offer->ports[i];
    if (ret->n == 0) {
        r = port_channels_parse(query, ret->ports);
        ret->n = r > 0 ? (size_t)r : 0;
    }
    if (r == -EINVAL)
        return "the query parameter port is no list of different ports";
    if (r < 0 || ret->n > max || offer->n_ports > max)
        return "too many ports";
    return ret->n ? NULL : "this protocol needs the query parameter port";
}

int port_service_new(const struct client_host *host, struct client *client,
                     const struct upgrade *upgrade, const struct port_list *ports,
                     Nexus__StreamOffer *offer, struct service **ret)
{
    struct port_service *x = xcalloc(1, sizeof(*x));
    int r = forward_new(upgrade, ports->ports, ports->n, &x->forward);

    if (r < 0) {
        free(x);
        return r;
    }
    x->service.ops = &port_ops;
    x->host = host;
    x->client = client;
    x->offer = offer;
    list_init(&x->links);
    *ret = &x->service;
    return 0;
}
