/* SPDX-License-Identifier: Apache-2.0 */
/* Each carrier is a half of this file; the table carrier is what they share. */
#include "stream/channels.h"

#include <string.h>

#include "base/buf.h"
#include "stream/base64.h"
#include "stream/spdy.h"
#include "stream/websocket.h"

#define SPDY_STREAMS 16   /* wanted are five; more are refused one by one, then at the door */
#define CLOSE_CHANNEL 255 /* v5: the next byte is a channel that is half-closed */

struct carrier {
    bool (*want_input)(const struct channels *c);
    int (*feed)(struct channels *c, const void *bytes, size_t len);
    int (*next)(struct channels *c, struct channels_event *ret);
    bool (*are_paused)(const struct channels *c);
    int (*write)(struct channels *c, enum channel channel, const void *bytes, size_t len);
    void (*end)(struct channels *c, enum channel channel);
    void (*finish)(struct channels *c);
    size_t (*out)(const struct channels *c, const uint8_t **ret);
    void (*out_done)(struct channels *c, size_t n);
};

struct channels {
    struct channels_config config;
    const struct carrier *carrier;
    bool wanted[CHANNEL_COUNT];
    bool ready; /* CHANNELS_READY was given out */
    bool in_over;
    struct spdy *spdy;
    uint32_t ids[CHANNEL_COUNT]; /* of SPDY streams; 0: not opened */
    struct websocket *socket;
    struct buf text; /* a base64 message, decoded */
};

static const char *const names[CHANNEL_COUNT] = {
    [CHANNEL_STDIN] = "stdin", [CHANNEL_STDOUT] = "stdout", [CHANNEL_STDERR] = "stderr",
    [CHANNEL_ERROR] = "error", [CHANNEL_RESIZE] = "resize",
};

/* ---- SPDY: a stream per channel, named by its header streamType */

static bool spdy_channels_want_input(const struct channels *c)
{
    return spdy_wants_input(c->spdy);
}

static int spdy_channels_feed(struct channels *c, const void *bytes, size_t len)
{
    return spdy_feed(c->spdy, bytes, len);
}

static bool spdy_channels_are_paused(const struct channels *c)
{
    return spdy_is_paused(c->spdy);
}

/* The channel an OPEN is for, or -EINVAL. */
static int channel_of_open(const struct channels *c, const struct spdy_event *ev)
{
    size_t len = 0;
    /* Go sends names in lower case */
    const char *value = spdy_header_get(ev->headers, "streamtype", &len);

    for (int i = 0; value && i < CHANNEL_COUNT; i++)
        if (strlen(names[i]) == len && memcmp(names[i], value, len) == 0)
            return c->wanted[i] && !c->ids[i] ? i : -EINVAL;
    return -EINVAL;
}

static bool all_open(const struct channels *c)
{
    for (size_t i = 0; i < CHANNEL_COUNT; i++)
        if (c->wanted[i] && !c->ids[i])
            return false;
    return true;
}

static int channel_of_id(const struct channels *c, uint32_t id)
{
    for (int i = 0; i < CHANNEL_COUNT; i++)
        if (c->ids[i] == id)
            return i;
    return -ENOENT;
}

/* 1: *ret; 0: nothing for the owner. */
static int on_open(struct channels *c, const struct spdy_event *ev, struct channels_event *ret)
{
    int channel = channel_of_open(c, ev);

    if (channel < 0) {
        spdy_reset(c->spdy, ev->stream, SPDY_REFUSED_STREAM);
        return 0;
    }
    c->ids[channel] = ev->stream;
    spdy_accept(c->spdy, ev->stream);
    if (channel == CHANNEL_STDIN && ev->fin)
        c->in_over = true; /* told after READY */
    if (!all_open(c))
        return 0;
    c->ready = true;
    *ret = (struct channels_event){.type = CHANNELS_READY};
    return 1;
}

static int on_data(struct channels *c, const struct spdy_event *ev, struct channels_event *ret)
{
    int channel = channel_of_id(c, ev->stream);

    if (channel != CHANNEL_STDIN && channel != CHANNEL_RESIZE)
        return 0;
    if (!c->ready)
        return -EPROTO; /* the client waits for each SYN_REPLY, and then for nothing: not in this order */
    if (channel == CHANNEL_STDIN && ev->fin)
        c->in_over = true;
    *ret = (struct channels_event){
        .type = CHANNELS_DATA, .channel = (enum channel)channel, .data = ev->data, .len = ev->len};
    if (ev->len > 0)
        return 1;
    return 0;
}

static int on_spdy_event(struct channels *c, const struct spdy_event *ev,
                         struct channels_event *ret)
{
    switch (ev->type) {
    case SPDY_EVENT_OPEN:
        return on_open(c, ev, ret);
    case SPDY_EVENT_DATA:
        return on_data(c, ev, ret);
    case SPDY_EVENT_RESET:
        if (channel_of_id(c, ev->stream) == CHANNEL_STDIN)
            c->in_over = true;
        return 0;
    case SPDY_EVENT_GOAWAY: /* no new streams: none are wanted; the end is the connection's */
    default:
        return 0;
    }
}

/* The end of stdin is an event of its own, behind the last data. */
static bool take_eof(struct channels *c, struct channels_event *ret)
{
    if (!c->in_over || !c->ready || !c->wanted[CHANNEL_STDIN])
        return false;
    c->wanted[CHANNEL_STDIN] = false;
    *ret = (struct channels_event){.type = CHANNELS_EOF, .channel = CHANNEL_STDIN};
    return true;
}

static int spdy_channels_next(struct channels *c, struct channels_event *ret)
{
    struct spdy_event ev;
    int r = 0;

    while (r == 0) {
        if (take_eof(c, ret))
            return 1;
        r = spdy_next(c->spdy, &ev);
        if (r <= 0)
            return r;
        r = on_spdy_event(c, &ev, ret);
    }
    return r;
}

static int spdy_channels_write(struct channels *c, enum channel channel, const void *bytes,
                               size_t len)
{
    int r = spdy_write(c->spdy, c->ids[channel], bytes, len, false);

    return r == -ENOENT || r == -EPIPE ? 0 : r;
}

static void spdy_channels_end(struct channels *c, enum channel channel)
{
    (void)spdy_write(c->spdy, c->ids[channel], NULL, 0, true);
}

static void spdy_channels_finish(struct channels *c)
{
    for (size_t i = 0; i < CHANNEL_COUNT; i++)
        if (c->ids[i])
            spdy_reset(c->spdy, c->ids[i], SPDY_CANCEL);
    spdy_goaway(c->spdy, SPDY_GOAWAY_OK);
}

static size_t spdy_channels_out(const struct channels *c, const uint8_t **ret)
{
    return spdy_out(c->spdy, ret);
}

static void spdy_channels_out_done(struct channels *c, size_t n)
{
    spdy_out_done(c->spdy, n);
}

static const struct carrier spdy_carrier = {
    .want_input = spdy_channels_want_input,
    .feed = spdy_channels_feed,
    .next = spdy_channels_next,
    .are_paused = spdy_channels_are_paused,
    .write = spdy_channels_write,
    .end = spdy_channels_end,
    .finish = spdy_channels_finish,
    .out = spdy_channels_out,
    .out_done = spdy_channels_out_done,
};

/* ---- WebSocket: the channel is the first byte of a message */

static bool ws_want_input(const struct channels *c)
{
    return websocket_wants_input(c->socket);
}

static int ws_feed(struct channels *c, const void *bytes, size_t len)
{
    return websocket_feed(c->socket, bytes, len);
}

static bool ws_are_paused(const struct channels *c)
{
    return websocket_is_paused(c->socket);
}

static int ws_write(struct channels *c, enum channel channel, const void *bytes, size_t len)
{
    uint8_t message[1 + BASE64_SIZE(CHANNELS_WRITE_BYTES)];
    size_t n = len;
    int r;

    message[0] = (uint8_t)channel;
    if (c->config.upgrade.base64) {
        message[0] = (uint8_t)('0' + channel);
        n = base64_encode(bytes, len, message + 1);
    } else if (len) {
        memcpy(message + 1, bytes, len);
    }
    r = websocket_write(c->socket, c->config.upgrade.base64, message, 1 + n);
    return r == -EPIPE ? 0 : r;
}

/* 1: *ret; 0: nothing for the owner; -EPROTO. */
static int on_message(struct channels *c, const struct websocket_message *m,
                      struct channels_event *ret)
{
    const uint8_t *p = m->data;
    size_t len = m->len;
    unsigned channel;
    int r;

    if (len == 0)
        return 0;
    channel = c->config.upgrade.base64 ? (unsigned)p[0] - '0' : p[0];
    p++;
    len--;
    if (c->config.upgrade.version >= 5 && channel == CLOSE_CHANNEL) {
        if (len != 1)
            return -EPROTO;
        if (p[0] == CHANNEL_STDIN)
            c->in_over = true;
        return 0;
    }
    if ((channel != CHANNEL_STDIN && channel != CHANNEL_RESIZE) || !c->wanted[channel])
        return 0;
    if (c->config.upgrade.base64) {
        r = base64_decode(p, len, &c->text);
        if (r < 0)
            return r;
        p = c->text.data;
        len = c->text.used;
    }
    *ret = (struct channels_event){
        .type = CHANNELS_DATA, .channel = (enum channel)channel, .data = p, .len = len};
    return len > 0;
}

static int ws_next(struct channels *c, struct channels_event *ret)
{
    struct websocket_message m;
    int r = 0;

    if (!c->ready) {
        enum channel lowest = c->wanted[CHANNEL_STDOUT]   ? CHANNEL_STDOUT
                              : c->wanted[CHANNEL_STDERR] ? CHANNEL_STDERR
                                                          : CHANNEL_ERROR;

        c->ready = true;
        *ret = (struct channels_event){.type = CHANNELS_READY};
        (void)ws_write(c, lowest, "", 0); /* old clients wait for it */
        return 1;
    }
    while (r == 0) {
        if (take_eof(c, ret))
            return 1;
        r = websocket_next(c->socket, &m);
        if (r <= 0)
            return r;
        if (m.close) {
            *ret = (struct channels_event){.type = CHANNELS_LEFT};
            return 1;
        }
        r = on_message(c, &m, ret);
    }
    if (r < 0)
        websocket_close(c->socket, WEBSOCKET_PROTOCOL_ERROR);
    return r;
}

static void ws_end(struct channels *c, enum channel channel)
{
    /* there is no such message from the server to the client */
}

static void ws_finish(struct channels *c)
{
    websocket_close(c->socket, WEBSOCKET_NORMAL);
}

static size_t ws_out(const struct channels *c, const uint8_t **ret)
{
    return websocket_out(c->socket, ret);
}

static void ws_out_done(struct channels *c, size_t n)
{
    websocket_out_done(c->socket, n);
}

static const struct carrier websocket_carrier = {
    .want_input = ws_want_input,
    .feed = ws_feed,
    .next = ws_next,
    .are_paused = ws_are_paused,
    .write = ws_write,
    .end = ws_end,
    .finish = ws_finish,
    .out = ws_out,
    .out_done = ws_out_done,
};

/* ---- both */

int channels_new(const struct channels_config *config, struct channels **ret)
{
    _cleanup_(channels_freep) struct channels *c = calloc(1, sizeof(*c));
    bool is_spdy = config->upgrade.wire == UPGRADE_SPDY;
    int r;

    if (!c)
        return -ENOMEM;
    c->config = *config;
    c->wanted[CHANNEL_STDIN] = config->in;
    c->wanted[CHANNEL_STDOUT] = config->out;
    c->wanted[CHANNEL_STDERR] = config->err;
    c->wanted[CHANNEL_ERROR] = true;
    c->wanted[CHANNEL_RESIZE] = config->tty && (!is_spdy || config->upgrade.version >= 3);
    buf_init(&c->text, WEBSOCKET_MESSAGE_BYTES);
    c->carrier = is_spdy ? &spdy_carrier : &websocket_carrier;
    r = is_spdy ? spdy_new(SPDY_STREAMS, &c->spdy) : websocket_new(&c->socket);
    if (r < 0)
        return r;
    *ret = TAKE(c);
    return 0;
}

void channels_free(struct channels *c)
{
    if (!c)
        return;
    spdy_free(c->spdy);
    websocket_free(c->socket);
    buf_done(&c->text);
    free(c);
}

bool channels_want_input(const struct channels *c)
{
    return c->carrier->want_input(c);
}

int channels_feed(struct channels *c, const void *bytes, size_t len)
{
    return c->carrier->feed(c, bytes, len);
}

int channels_next(struct channels *c, struct channels_event *ret)
{
    return c->carrier->next(c, ret);
}

bool channels_are_paused(const struct channels *c)
{
    return c->carrier->are_paused(c);
}

int channels_write(struct channels *c, enum channel channel, const void *bytes, size_t len)
{
    if (len > CHANNELS_WRITE_BYTES)
        return -EMSGSIZE;
    return c->carrier->write(c, channel, bytes, len);
}

void channels_end(struct channels *c, enum channel channel)
{
    c->carrier->end(c, channel);
}

void channels_finish(struct channels *c)
{
    c->carrier->finish(c);
}

size_t channels_out(const struct channels *c, const uint8_t **ret)
{
    return c->carrier->out(c, ret);
}

void channels_out_done(struct channels *c, size_t n)
{
    c->carrier->out_done(c, n);
}
