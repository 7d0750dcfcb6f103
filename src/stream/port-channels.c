/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/port-channels.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/le.h"
#include "base/numparse.h"
#include "base/str.h"
#include "stream/base64.h"
#include "stream/websocket.h"

#define ERROR_TEXT_BYTES 1024

enum port_state {
    PORT_NEW, /* CONNECT is to be given out → OPEN */
    PORT_OPEN,
    PORT_OVER,
};

struct port {
    uint16_t number;
    enum port_state state;
};

struct port_channels {
    struct websocket *socket;
    bool base64;
    bool finished;   /* the close was sent, or came */
    struct buf text; /* a base64 message, decoded */
    struct port ports[PORT_CHANNELS_MAX];
    size_t n;
};

/* ---- the query */

/* The next number of the list at *at; a comma may be there as it is or as %2C. 0 or -EINVAL. */
static int next_port(const char **at, uint16_t *ret)
{
    char digits[6];
    uint32_t number = 0;
    size_t n = strspn(*at, "0123456789");

    if (n == 0 || n >= sizeof(digits))
        return -EINVAL;
    memcpy(digits, *at, n);
    digits[n] = '\0';
    if (parse_u32(digits, UINT16_MAX, &number) < 0 || number == 0)
        return -EINVAL;
    *ret = (uint16_t)number;
    *at += n;
    if (**at == ',')
        (*at)++;
    else if (str_starts(*at, "%2C") || str_starts(*at, "%2c"))
        *at += 3;
    else
        return **at == '\0' || **at == '&' ? 0 : -EINVAL;
    return **at == '\0' || **at == '&' ? -EINVAL : 0; /* a comma and nothing behind it */
}

static bool has(const uint16_t *ports, size_t n, uint16_t port)
{
    for (size_t i = 0; i < n; i++)
        if (ports[i] == port)
            return true;
    return false;
}

int port_channels_parse(const char *query, uint16_t ret[PORT_CHANNELS_MAX])
{
    const char *at = query;
    int n = 0;

    while (*at) {
        const bool is_port = str_starts(at, "port=");

        at += is_port ? strlen("port=") : strcspn(at, "&");
        do {
            uint16_t port;

            if (!is_port)
                break;
            if (next_port(&at, &port) < 0 || has(ret, (size_t)n, port))
                return -EINVAL;
            if (n == PORT_CHANNELS_MAX)
                return -E2BIG;
            ret[n++] = port;
        } while (*at && *at != '&');
        at += *at == '&';
    }
    return n;
}

/* ---- life */

static int put(struct port_channels *c, size_t channel, const void *bytes, size_t len)
{
    uint8_t message[1 + BASE64_SIZE(FORWARD_WRITE_BYTES)];

    if (len > FORWARD_WRITE_BYTES)
        return -EMSGSIZE;
    message[0] = (uint8_t)((c->base64 ? '0' : 0) + channel);
    if (c->base64)
        len = base64_encode(bytes, len, message + 1);
    else if (len)
        memcpy(message + 1, bytes, len);
    return websocket_write(c->socket, c->base64, message, 1 + len);
}

int port_channels_new(const uint16_t *ports, size_t n, bool base64, struct port_channels **ret)
{
    _cleanup_(port_channels_freep) struct port_channels *c = calloc(1, sizeof(*c));
    int r = c ? websocket_new(&c->socket) : -ENOMEM;

    if (r < 0)
        return r;
    buf_init(&c->text, WEBSOCKET_MESSAGE_BYTES);
    c->base64 = base64;
    c->n = n;
    for (size_t i = 0; r == 0 && i < n; i++) {
        uint8_t number[2];

        c->ports[i].number = ports[i];
        le16_store(number, ports[i]);
        r = put(c, 2 * i, number, sizeof(number));
        if (r == 0)
            r = put(c, 2 * i + 1, number, sizeof(number));
    }
    if (r < 0)
        return r;
    *ret = TAKE(c);
    return 0;
}

void port_channels_free(struct port_channels *c)
{
    if (!c)
        return;
    websocket_free(c->socket);
    buf_done(&c->text);
    free(c);
}

/* ---- input */

bool port_channels_want_input(const struct port_channels *c)
{
    return !c->finished && websocket_wants_input(c->socket);
}

int port_channels_feed(struct port_channels *c, const void *bytes, size_t len)
{
    return websocket_feed(c->socket, bytes, len);
}

bool port_channels_are_paused(const struct port_channels *c)
{
    return websocket_is_paused(c->socket);
}

static bool are_all_over(const struct port_channels *c)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->ports[i].state != PORT_OVER)
            return false;
    return true;
}

/* True: *ret is the next port to connect to. */
static bool next_connect(struct port_channels *c, struct forward_event *ret)
{
    for (size_t i = 0; i < c->n; i++) {
        if (c->ports[i].state != PORT_NEW)
            continue;
        c->ports[i].state = PORT_OPEN;
        *ret = (struct forward_event){
            .type = FORWARD_CONNECT, .pair = (uint32_t)i + 1, .port = c->ports[i].number};
        return true;
    }
    return false;
}

/* 1: *ret; 0: nothing for the owner; -EPROTO, -ENOMEM. What is for no open port or an error channel is thrown
 * away: the client cannot know when a port ends. */
static int on_message(struct port_channels *c, const struct websocket_message *m,
                      struct forward_event *ret)
{
    const uint8_t *p = m->data;
    size_t len = m->len, channel;
    int r;

    if (len == 0)
        return 0;
    channel = c->base64 ? (size_t)p[0] - '0' : p[0]; /* below '0': a channel that is none */
    if (channel % 2 || channel / 2 >= c->n || c->ports[channel / 2].state != PORT_OPEN)
        return 0;
    p++;
    len--;
    if (c->base64) {
        r = base64_decode(p, len, &c->text);
        if (r < 0)
            return r;
        p = c->text.data;
        len = c->text.used;
    }
    *ret = (struct forward_event){
        .type = FORWARD_DATA, .pair = (uint32_t)(channel / 2) + 1, .data = p, .len = len};
    return len > 0;
}

int port_channels_next(struct port_channels *c, struct forward_event *ret)
{
    struct websocket_message m;
    int r;

    while (!c->finished) {
        if (next_connect(c, ret))
            return 1;
        if (are_all_over(c))
            break;
        r = websocket_next(c->socket, &m);
        if (r <= 0)
            return r;
        if (m.close)
            break;
        r = on_message(c, &m, ret);
        if (r < 0)
            websocket_close(c->socket, WEBSOCKET_PROTOCOL_ERROR);
        if (r != 0)
            return r;
    }
    port_channels_finish(c);
    *ret = (struct forward_event){.type = FORWARD_LEFT};
    return 1;
}

/* ---- output */

static struct port *find_open(struct port_channels *c, uint32_t pair)
{
    return pair > 0 && pair <= c->n && c->ports[pair - 1].state == PORT_OPEN ? &c->ports[pair - 1]
                                                                             : NULL;
}

int port_channels_write(struct port_channels *c, uint32_t pair, const void *bytes, size_t len)
{
    int r = find_open(c, pair) ? put(c, 2 * ((size_t)pair - 1), bytes, len) : 0;

    return r == -EPIPE ? 0 : r;
}

void port_channels_close(struct port_channels *c, uint32_t pair)
{
    struct port *p = find_open(c, pair);

    if (p)
        p->state = PORT_OVER;
}

void port_channels_fail(struct port_channels *c, uint32_t pair, const char *text)
{
    struct port *p = find_open(c, pair);

    if (!p)
        return;
    /* without room the client is told by the end alone */
    if (text)
        (void)put(c, 2 * ((size_t)pair - 1) + 1, text, strnlen(text, ERROR_TEXT_BYTES));
    p->state = PORT_OVER;
}

void port_channels_finish(struct port_channels *c)
{
    websocket_close(c->socket, WEBSOCKET_NORMAL);
    c->finished = true;
}

size_t port_channels_out(const struct port_channels *c, const uint8_t **ret)
{
    return websocket_out(c->socket, ret);
}

void port_channels_out_done(struct port_channels *c, size_t n)
{
    websocket_out_done(c->socket, n);
}
