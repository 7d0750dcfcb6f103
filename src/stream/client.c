/* SPDX-License-Identifier: Apache-2.0 */
/* Start at on_io: shake_hands with TLS, then read_some goes to the head or to the service; settle decides what is next. */
#include "stream/client.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "stream/http-head.h"
#include "stream/port.h"
#include "stream/remote.h"
#include "stream/tls.h"
#include "wire/message.h"

#define READ_BYTES (64U << 10)
#define WRITES_PER_TURN 8
#define SECOND_NS 1000000000ULL

enum client_state {
    CLIENT_TLS,     /* done → HEAD; failed → LEAVING, without TLS */
    CLIENT_HEAD,    /* the request is being read; answered 101 → SERVING, else → LEAVING */
    CLIENT_SERVING, /* the service is over → LEAVING */
    CLIENT_LEAVING, /* what is left is sent; the client closes, or time is up → GONE */
    CLIENT_GONE,    /* the owner is told from the loop */
};

struct client {
    const struct client_host *host;
    enum client_state state;
    int fd;          /* owned */
    struct tls *tls; /* owned; NULL: none */
    sd_event_source *io, *timer, *later;
    struct buf in;  /* the head and what came with it */
    struct buf out; /* the answer to it; sent before the service's */
    size_t out_done;
    struct service *service;
    uint64_t deadline_ns; /* of HEAD, of the set-up, of LEAVING */
    bool shut;            /* all is sent; the client has the last word */
    uint64_t active_ns;   /* the last byte either way */
};

static void settle(struct client *c);

void client_free(struct client *c)
{
    if (!c)
        return;
    if (c->service)
        c->service->ops->free(c->service);
    sd_event_source_disable_unref(c->io);
    sd_event_source_disable_unref(c->timer);
    sd_event_source_disable_unref(c->later);
    tls_free(c->tls);
    (void)close_fd(c->fd);
    buf_done(&c->in);
    buf_done(&c->out);
    free(c);
}

static void set_state(struct client *c, enum client_state state, unsigned seconds)
{
    c->state = state;
    c->deadline_ns = clock_mono_ns() + seconds * SECOND_NS;
    if (state == CLIENT_GONE) {
        (void)sd_event_source_set_enabled(c->io, SD_EVENT_OFF);
        (void)sd_event_source_set_enabled(c->later, SD_EVENT_ONESHOT);
    }
}

void client_kick(struct client *c)
{
    (void)sd_event_source_set_enabled(c->later, SD_EVENT_ONESHOT);
}

/* ---- the request */

static const struct {
    const char *prefix;
    Nexus__StreamOffer__TargetCase target;
} routes[] = {
    {"/exec/", NEXUS__STREAM_OFFER__TARGET_EXEC},
    {"/attach/", NEXUS__STREAM_OFFER__TARGET_ATTACH},
    {"/portforward/", NEXUS__STREAM_OFFER__TARGET_FORWARD},
};

/* The token in a path of ours, or NULL. */
static const char *find_route(const char *path, Nexus__StreamOffer__TargetCase *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
        if (!str_starts(path, routes[i].prefix))
            continue;
        *ret = routes[i].target;
        return path + strlen(routes[i].prefix);
    }
    return NULL;
}

static void refuse(struct client *c, unsigned status, const char *text)
{
    (void)upgrade_refuse(&c->out, status, text);
    set_state(c, CLIENT_LEAVING, LIMIT_STREAM_FLUSH_S);
}

/* Takes the offer on success. The token is used up in any case: it is good for one try. */
static int serve(struct client *c, const struct http_head *h, Nexus__StreamOffer *offer)
{
    bool forward = offer->target_case == NEXUS__STREAM_OFFER__TARGET_FORWARD;
    struct upgrade u = {0};
    struct port_list ports = {.n = 0};
    const char *wrong = NULL;
    int r = upgrade_negotiate(h, forward ? UPGRADE_FORWARD : UPGRADE_REMOTE, &u, &c->out);

    if (r < 0) {
        set_state(c, CLIENT_LEAVING, LIMIT_STREAM_FLUSH_S);
        return r;
    }
    if (u.wire == UPGRADE_PORTS)
        wrong = port_list_get(offer, h->query, u.base64, &ports);
    if (wrong) {
        buf_clear(&c->out);
        refuse(c, 400, wrong);
        return -EINVAL;
    }
    if (forward)
        r = port_service_new(c->host, c, &u, &ports, offer, &c->service);
    else
        r = remote_service_new(c->host, c, &u, offer, &c->service);
    if (r < 0) {
        set_state(c, CLIENT_GONE, 0);
        return r;
    }
    set_state(c, CLIENT_SERVING, LIMIT_STREAM_SETUP_S);
    return 0;
}

static void on_request(struct client *c, const struct http_head *h)
{
    Nexus__StreamOffer__TargetCase target = NEXUS__STREAM_OFFER__TARGET__NOT_SET;
    const char *token = find_route(h->path, &target);
    Nexus__StreamOffer *offer = token ? c->host->take(c->host->ud, token) : NULL;

    if (offer && offer->target_case == target) {
        if (serve(c, h, offer) == 0)
            return;
    } else {
        refuse(c, 404, "there is no such session: a URL is good for one use within a minute");
    }
    if (offer)
        message_free(&offer->base);
}

static void read_head(struct client *c)
{
    struct http_head h;
    ssize_t n = http_head_parse((char *)c->in.data, c->in.used, &h);

    if (n == 0)
        return;
    if (n == -EMSGSIZE)
        refuse(c, 431, "the head of the request is too long");
    else if (n < 0)
        refuse(c, 400, "this is no request that is understood here");
    else
        on_request(c, &h);
    if (c->state != CLIENT_SERVING)
        return;
    /* a client may speak on without waiting for the answer */
    c->service->ops->feed(c->service, c->in.data + n, c->in.used - (size_t)n);
    buf_done(&c->in);
}

/* ---- TLS */

static void drop_tls(struct client *c)
{
    tls_free(c->tls);
    c->tls = NULL;
}

static void shake_hands(struct client *c)
{
    int r = tls_handshake(c->tls);

    if (r == -EAGAIN)
        return;
    if (r == 0) {
        set_state(c, CLIENT_HEAD, LIMIT_STREAM_SETUP_S);
        return;
    }
    if (r != -EPROTOTYPE)
        log_limited(LOG_INFO, "a streaming client's TLS handshake failed: %s", tls_reason(c->tls));
    drop_tls(c); /* what is left to say goes in the clear; an alert was sent */
    if (r == -EPROTOTYPE)
        refuse(c, 400, "this port speaks HTTPS");
    else
        set_state(c, CLIENT_LEAVING, LIMIT_STREAM_FLUSH_S);
}

/* As recv(2) and send(2), with the errno as result. */
static ssize_t receive(struct client *c, void *bytes, size_t size)
{
    ssize_t n;

    if (c->tls)
        return tls_recv(c->tls, bytes, size);
    n = recv(c->fd, bytes, size, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static ssize_t transmit(struct client *c, const void *bytes, size_t len)
{
    ssize_t n;

    if (c->tls)
        return tls_send(c->tls, bytes, len);
    n = send(c->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

/* ---- bytes */

static bool wants_input(const struct client *c)
{
    switch (c->state) {
    case CLIENT_TLS: /* the handshake reads by itself */
        return false;
    case CLIENT_HEAD:
        return true;
    case CLIENT_SERVING:
        return c->service->ops->wants_input(c->service);
    case CLIENT_LEAVING: /* read and thrown away: unread bytes would make a reset of the close */
        return true;
    case CLIENT_GONE:
    default:
        return false;
    }
}

static void read_some(struct client *c)
{
    static uint8_t bytes[READ_BYTES]; /* one thread; copied before the next read */
    /* the head is small, and what is behind it goes to the service in one piece */
    size_t room = c->state == CLIENT_HEAD ? HTTP_HEAD_BYTES : sizeof(bytes);
    ssize_t n = receive(c, bytes, room);

    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n <= 0) {
        set_state(c, CLIENT_GONE, 0);
        return;
    }
    c->active_ns = clock_mono_ns();
    if (c->state == CLIENT_SERVING) {
        c->service->ops->feed(c->service, bytes, (size_t)n);
    } else if (c->state == CLIENT_HEAD) {
        if (buf_append(&c->in, bytes, (size_t)n) < 0)
            set_state(c, CLIENT_GONE, 0);
        else
            read_head(c);
    }
}

/* What is to be sent next; the answer to the request goes first. */
static size_t output(struct client *c, const uint8_t **ret)
{
    if (c->out.used > c->out_done) {
        *ret = c->out.data + c->out_done;
        return c->out.used - c->out_done;
    }
    return c->service ? c->service->ops->out(c->service, ret) : 0;
}

static void output_done(struct client *c, size_t n)
{
    if (c->out.used > c->out_done)
        c->out_done += n;
    else
        c->service->ops->out_done(c->service, n);
}

static void write_some(struct client *c)
{
    const uint8_t *p;
    size_t len;

    for (int i = 0; i < WRITES_PER_TURN && (len = output(c, &p)) > 0; i++) {
        ssize_t n = transmit(c, p, len);

        if (n == -EAGAIN || n == -EINTR)
            return;
        if (n < 0) {
            set_state(c, CLIENT_GONE, 0);
            return;
        }
        c->active_ns = clock_mono_ns();
        output_done(c, (size_t)n);
        if ((size_t)n < len && !c->tls) /* TLS sends a record at a time */
            return;
    }
}

/* ---- what is next */

static uint64_t next_deadline(struct client *c, uint64_t now_ns)
{
    uint64_t next = UINT64_MAX;

    if (c->state == CLIENT_SERVING) {
        next = min_of(c->service->ops->tick(c->service, now_ns), c->active_ns + c->host->idle_ns);
        if (c->service->ops->is_set_up(c->service))
            return next;
    }
    return min_of(next, c->deadline_ns);
}

static uint32_t wanted_events(struct client *c, bool closing)
{
    const uint8_t *p;
    bool recv_waits_out = c->tls && tls_recv_waits_out(c->tls);
    /* RDHUP: a client that went away is noticed while nothing is read from it */
    uint32_t in = wants_input(c) && !recv_waits_out ? EPOLLIN : EPOLLRDHUP;

    if (c->state == CLIENT_TLS)
        return tls_handshake_waits_out(c->tls) ? EPOLLOUT : EPOLLIN;
    return in | (output(c, &p) || recv_waits_out || closing ? EPOLLOUT : 0U);
}

static void settle(struct client *c)
{
    const uint8_t *p;
    bool closing = false; /* TLS waits to say its last word */
    uint64_t next;

    if (c->state == CLIENT_SERVING && c->service->ops->is_over(c->service))
        set_state(c, CLIENT_LEAVING, LIMIT_STREAM_FLUSH_S);
    if (c->state == CLIENT_LEAVING && output(c, &p) == 0)
        closing = c->tls && tls_close(c->tls) == -EAGAIN;
    if (c->state == CLIENT_LEAVING && output(c, &p) == 0 && !closing) {
        /* closed at once, what it still sends would be answered by a reset */
        (void)shutdown(c->fd, SHUT_WR);
        if (!c->shut)
            set_state(c, CLIENT_LEAVING, LIMIT_STREAM_LINGER_S);
        c->shut = true;
    }
    if (c->state == CLIENT_GONE)
        return;
    (void)sd_event_source_set_io_events(c->io, wanted_events(c, closing));
    next = next_deadline(c, clock_mono_ns());
    (void)sd_event_source_set_time(c->timer, next / 1000 + 1);
    (void)sd_event_source_set_enabled(c->timer,
                                      next == UINT64_MAX ? SD_EVENT_OFF : SD_EVENT_ONESHOT);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct client *c = userdata;
    uint32_t readable = EPOLLIN | EPOLLHUP | EPOLLERR;

    if (c->tls && tls_recv_waits_out(c->tls))
        readable |= EPOLLOUT;
    if (c->state == CLIENT_TLS) {
        shake_hands(c);
        settle(c);
        return 0;
    }
    if (revents & EPOLLOUT)
        write_some(c);
    if (c->state != CLIENT_GONE && wants_input(c) && revents & readable)
        read_some(c);
    else if (c->state != CLIENT_GONE && revents & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
        set_state(c, CLIENT_GONE, 0);
    settle(c);
    return 0;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct client *c = userdata;
    uint64_t now_ns = clock_mono_ns();

    if (c->state == CLIENT_GONE)
        return 0;
    if (c->state == CLIENT_SERVING && now_ns >= c->active_ns + c->host->idle_ns) {
        log_info("a streaming client was idle for %llu s and is left",
                 (unsigned long long)(c->host->idle_ns / SECOND_NS));
        set_state(c, CLIENT_GONE, 0);
    } else if (now_ns >= c->deadline_ns &&
               !(c->state == CLIENT_SERVING && c->service->ops->is_set_up(c->service))) {
        if (!c->shut)
            log_info("a streaming client took too long and is left");
        set_state(c, CLIENT_GONE, 0);
    }
    settle(c);
    return 0;
}

static int on_later(sd_event_source *source, void *userdata)
{
    struct client *c = userdata;

    if (c->state == CLIENT_GONE) {
        c->host->on_gone(c->host->ud, c);
        return 0;
    }
    write_some(c);
    if (c->state == CLIENT_SERVING)
        c->service->ops->feed(c->service, NULL, 0);
    settle(c);
    return 0;
}

static int add_sources(struct client *c)
{
    int r = sd_event_add_io(c->host->event, &c->io, c->fd, EPOLLIN, on_io, c);

    if (r >= 0)
        r = sd_event_add_time(c->host->event, &c->timer, CLOCK_MONOTONIC, UINT64_MAX, 0, on_timer,
                              c);
    if (r >= 0)
        r = sd_event_add_defer(c->host->event, &c->later, on_later, c);
    if (r >= 0)
        r = sd_event_source_set_enabled(c->later, SD_EVENT_OFF);
    return r;
}

int client_new(const struct client_host *host, int fd, struct tls_context *tls, struct client **ret)
{
    struct client *c = xcalloc(1, sizeof(*c));
    int r;

    c->host = host;
    c->fd = fd;
    buf_init(&c->in, (size_t)2 * HTTP_HEAD_BYTES);
    buf_init(&c->out, HTTP_HEAD_BYTES);
    r = tls ? tls_new(tls, fd, &c->tls) : 0;
    if (r >= 0)
        r = add_sources(c);
    if (r < 0) {
        c->fd = -EBADF;
        client_free(c);
        return r;
    }
    c->active_ns = clock_mono_ns();
    if (tls)
        set_state(c, CLIENT_TLS, LIMIT_STREAM_HANDSHAKE_S);
    else
        set_state(c, CLIENT_HEAD, LIMIT_STREAM_SETUP_S);
    settle(c);
    *ret = c;
    return 0;
}
