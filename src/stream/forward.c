/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/forward.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/numparse.h"
#include "stream/port-channels.h"
#include "stream/spdy.h"
#include "stream/websocket.h"

#define REQUEST_BYTES 64
#define ERROR_TEXT_BYTES 1024

struct pair {
    char request[REQUEST_BYTES + 1]; /* what joins its two streams */
    uint32_t error_id, data_id;      /* 0: not opened yet */
    uint16_t port;
    uint64_t since_ns; /* its first stream came */
    bool given;        /* CONNECT was given out */
};

struct forward {
    struct port_channels *channels; /* the older form: they are all there is, the rest is unused */
    struct spdy *spdy;
    struct websocket *socket; /* NULL: the SPDY bytes come as they are */
    const uint8_t *held;      /* of the message that is being read; borrowed from socket */
    size_t held_len;
    bool left;
    uint32_t eof_of; /* its EOF is the next event; 0: none */
    struct pair pairs[FORWARD_PAIRS_MAX];
    size_t n;
};

int forward_new(const struct upgrade *upgrade, const uint16_t *ports, size_t n_ports,
                struct forward **ret)
{
    _cleanup_(forward_freep) struct forward *f = calloc(1, sizeof(*f));
    int r = 0;

    if (!f)
        return -ENOMEM;
    if (upgrade->wire == UPGRADE_PORTS)
        r = port_channels_new(ports, n_ports, upgrade->base64, &f->channels);
    else
        r = spdy_new((size_t)2 * FORWARD_PAIRS_MAX, &f->spdy);
    if (r == 0 && upgrade->wire == UPGRADE_WEBSOCKET)
        r = websocket_new(&f->socket);
    if (r < 0)
        return r;
    *ret = TAKE(f);
    return 0;
}

void forward_free(struct forward *f)
{
    if (!f)
        return;
    port_channels_free(f->channels);
    spdy_free(f->spdy);
    websocket_free(f->socket);
    free(f);
}

/* ---- pairs */

static struct pair *find(struct forward *f, uint32_t data_id)
{
    for (size_t i = 0; data_id && i < f->n; i++)
        if (f->pairs[i].data_id == data_id)
            return &f->pairs[i];
    return NULL;
}

static void drop(struct forward *f, struct pair *p)
{
    if (f->eof_of == p->data_id)
        f->eof_of = 0;
    *p = f->pairs[--f->n];
}

/* Both streams at once, without a word. */
static void reset(struct forward *f, struct pair *p, enum spdy_status status)
{
    spdy_reset(f->spdy, p->data_id, status);
    spdy_reset(f->spdy, p->error_id, status);
    drop(f, p);
}

static struct pair *find_or_add(struct forward *f, const char *request, uint16_t port,
                                uint64_t now_ns)
{
    struct pair *p;

    for (size_t i = 0; i < f->n; i++)
        if (!f->pairs[i].given && strcmp(f->pairs[i].request, request) == 0)
            return &f->pairs[i];
    if (f->n == FORWARD_PAIRS_MAX)
        return NULL;
    p = &f->pairs[f->n++];
    *p = (struct pair){.port = port, .since_ns = now_ns};
    (void)snprintf(p->request, sizeof(p->request), "%s", request);
    return p;
}

/* What a new stream says it is. */
struct opening {
    bool is_data;
    uint16_t port;
    char request[REQUEST_BYTES + 1];
};

static bool copy_header(const struct spdy_headers *h, const char *name, char *to, size_t size)
{
    size_t len = 0;
    const char *value = spdy_header_get(h, name, &len);

    if (!value || len == 0 || len >= size || memchr(value, '\0', len))
        return false;
    memcpy(to, value, len);
    to[len] = '\0';
    return true;
}

static bool read_opening(const struct spdy_event *ev, struct opening *ret)
{
    char type[8], port[8];
    uint32_t number = 0;
    size_t len;

    if (!copy_header(ev->headers, "streamtype", type, sizeof(type)) ||
        !copy_header(ev->headers, "port", port, sizeof(port)))
        return false;
    if (parse_u32(port, UINT16_MAX, &number) < 0 || number == 0)
        return false;
    ret->port = (uint16_t)number;
    ret->is_data = strcmp(type, "data") == 0;
    if (!ret->is_data && strcmp(type, "error") != 0)
        return false;
    if (spdy_header_get(ev->headers, "requestid", &len))
        return copy_header(ev->headers, "requestid", ret->request, sizeof(ret->request));
    /* old clients: the data stream is opened behind its error stream */
    (void)snprintf(ret->request, sizeof(ret->request), "%u",
                   ret->is_data ? ev->stream - 2 : ev->stream);
    return true;
}

/* 1: *ret; 0: nothing for the owner. So do all on_… below. */
static int on_open(struct forward *f, const struct spdy_event *ev, uint64_t now_ns,
                   struct forward_event *ret)
{
    struct opening o;
    struct pair *p = read_opening(ev, &o) ? find_or_add(f, o.request, o.port, now_ns) : NULL;

    if (!p || p->port != o.port || (o.is_data ? p->data_id : p->error_id)) {
        spdy_reset(f->spdy, ev->stream, SPDY_REFUSED_STREAM);
        return 0;
    }
    if (o.is_data)
        p->data_id = ev->stream;
    else
        p->error_id = ev->stream;
    spdy_accept(f->spdy, ev->stream);
    if (!p->data_id || !p->error_id)
        return 0;
    p->given = true;
    *ret = (struct forward_event){.type = FORWARD_CONNECT, .pair = p->data_id, .port = p->port};
    return 1;
}

static int on_data(struct forward *f, const struct spdy_event *ev, struct forward_event *ret)
{
    struct pair *p = find(f, ev->stream);

    if (!p)
        return 0;
    if (!p->given) { /* before its error stream: nobody would take it */
        reset(f, p, SPDY_PROTOCOL_ERROR);
        return 0;
    }
    if (ev->fin)
        f->eof_of = ev->stream;
    *ret = (struct forward_event){
        .type = FORWARD_DATA, .pair = ev->stream, .data = ev->data, .len = ev->len};
    return ev->len > 0;
}

static int on_reset(struct forward *f, const struct spdy_event *ev, struct forward_event *ret)
{
    struct pair *p = find(f, ev->stream);
    bool given;

    if (!p) /* an error stream: that it is not listened to is no fault */
        return 0;
    given = p->given;
    *ret = (struct forward_event){.type = FORWARD_GONE, .pair = ev->stream};
    reset(f, p, SPDY_CANCEL);
    return given;
}

static int on_event(struct forward *f, const struct spdy_event *ev, uint64_t now_ns,
                    struct forward_event *ret)
{
    switch (ev->type) {
    case SPDY_EVENT_OPEN:
        return on_open(f, ev, now_ns, ret);
    case SPDY_EVENT_DATA:
        return on_data(f, ev, ret);
    case SPDY_EVENT_RESET:
        return on_reset(f, ev, ret);
    case SPDY_EVENT_GOAWAY: /* what is open goes on */
    default:
        return 0;
    }
}

/* ---- input */

bool forward_wants_input(const struct forward *f)
{
    if (f->channels)
        return port_channels_want_input(f->channels);
    if (!f->socket)
        return spdy_wants_input(f->spdy);
    return f->held_len == 0 && !f->left && websocket_wants_input(f->socket);
}

bool forward_is_paused(const struct forward *f)
{
    if (f->channels)
        return port_channels_are_paused(f->channels);
    return f->held_len > 0 || spdy_is_paused(f->spdy) ||
           (f->socket && websocket_is_paused(f->socket));
}

int forward_feed(struct forward *f, const void *bytes, size_t len)
{
    if (f->channels)
        return port_channels_feed(f->channels, bytes, len);
    return f->socket ? websocket_feed(f->socket, bytes, len) : spdy_feed(f->spdy, bytes, len);
}

/* More SPDY bytes out of WebSocket messages. 1: there are; 0: none for now; errno. */
static int unwrap(struct forward *f)
{
    struct websocket_message m;
    size_t n;
    int r;

    if (!f->socket || f->left || !spdy_wants_input(f->spdy))
        return 0;
    if (f->held_len == 0) {
        r = websocket_next(f->socket, &m);
        if (r <= 0)
            return r;
        f->left = m.close;
        if (m.close)
            return 0;
        f->held = m.data;
        f->held_len = m.len;
    }
    n = min_of(f->held_len, (size_t)SPDY_FEED_BYTES);
    r = n ? spdy_feed(f->spdy, f->held, n) : 0;
    f->held += n;
    f->held_len -= n;
    return r < 0 ? r : 1;
}

int forward_next(struct forward *f, uint64_t now_ns, struct forward_event *ret)
{
    struct spdy_event ev;
    int r = 0;

    if (f->channels)
        return port_channels_next(f->channels, ret);
    while (r == 0) {
        if (f->eof_of) {
            *ret = (struct forward_event){.type = FORWARD_EOF, .pair = f->eof_of};
            f->eof_of = 0;
            return 1;
        }
        r = spdy_next(f->spdy, &ev);
        if (r > 0) {
            r = on_event(f, &ev, now_ns, ret);
            continue;
        }
        if (r < 0)
            return r;
        r = unwrap(f);
        if (r < 0)
            return r;
        if (r == 0)
            break;
        r = 0;
    }
    if (r == 0 && f->left) {
        *ret = (struct forward_event){.type = FORWARD_LEFT};
        return 1;
    }
    return r;
}

uint64_t forward_tick(struct forward *f, uint64_t now_ns)
{
    uint64_t next = UINT64_MAX;

    for (size_t i = 0; i < f->n;) {
        struct pair *p = &f->pairs[i];

        if (!p->given && now_ns - p->since_ns >= FORWARD_PAIR_NS) {
            reset(f, p, SPDY_CANCEL); /* the last one takes its place */
            continue;
        }
        if (!p->given)
            next = min_of(next, p->since_ns + FORWARD_PAIR_NS);
        i++;
    }
    return next;
}

/* ---- output */

int forward_write(struct forward *f, uint32_t pair, const void *bytes, size_t len)
{
    int r;

    if (f->channels)
        return port_channels_write(f->channels, pair, bytes, len);
    r = spdy_write(f->spdy, pair, bytes, len, false);
    return r == -ENOENT || r == -EPIPE ? 0 : r;
}

bool forward_end(struct forward *f, uint32_t pair)
{
    if (f->channels)
        port_channels_close(f->channels, pair);
    else
        (void)spdy_write(f->spdy, pair, NULL, 0, true);
    return !f->channels;
}

/* A reset would overtake data that the client has not read: both sides are half-closed. */
void forward_close(struct forward *f, uint32_t pair)
{
    struct pair *p = find(f, pair);

    if (f->channels)
        port_channels_close(f->channels, pair);
    if (!p)
        return;
    (void)spdy_write(f->spdy, pair, NULL, 0, true);
    (void)spdy_write(f->spdy, p->error_id, NULL, 0, true);
    drop(f, p);
}

void forward_fail(struct forward *f, uint32_t pair, const char *text)
{
    struct pair *p = find(f, pair);
    uint32_t error_id;

    if (f->channels)
        port_channels_fail(f->channels, pair, text);
    if (!p)
        return;
    error_id = p->error_id;
    if (!text) {
        reset(f, p, SPDY_INTERNAL_ERROR);
        return;
    }
    /* without room the client is told by the end alone */
    (void)spdy_write(f->spdy, error_id, text, strnlen(text, ERROR_TEXT_BYTES), false);
    (void)spdy_write(f->spdy, error_id, NULL, 0, true);
    spdy_reset(f->spdy, pair, SPDY_CANCEL);
    drop(f, p);
}

void forward_finish(struct forward *f)
{
    if (f->channels) {
        port_channels_finish(f->channels);
        return;
    }
    while (f->n)
        reset(f, &f->pairs[f->n - 1], SPDY_CANCEL);
    spdy_goaway(f->spdy, SPDY_GOAWAY_OK);
}

/* Puts what SPDY has into messages, as far as there is room. */
static void wrap(struct forward *f)
{
    const uint8_t *p;
    size_t n;

    while ((n = spdy_out(f->spdy, &p)) > 0) {
        n = min_of(n, (size_t)WEBSOCKET_SEND_BYTES);
        if (websocket_write(f->socket, false, p, n) < 0)
            return;
        spdy_out_done(f->spdy, n);
    }
}

size_t forward_out(struct forward *f, const uint8_t **ret)
{
    if (f->channels)
        return port_channels_out(f->channels, ret);
    if (!f->socket)
        return spdy_out(f->spdy, ret);
    wrap(f);
    return websocket_out(f->socket, ret);
}

void forward_out_done(struct forward *f, size_t n)
{
    if (f->channels)
        port_channels_out_done(f->channels, n);
    else if (f->socket)
        websocket_out_done(f->socket, n);
    else
        spdy_out_done(f->spdy, n);
}
