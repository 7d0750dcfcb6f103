/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/upgrade.h"

#include <string.h>
#include <strings.h>

#include "stream/websocket.h"

struct protocol {
    const char *name;
    unsigned version;
    bool base64;
};

static const struct protocol spdy_remote[] = {
    {"v4.channel.k8s.io", 4, false},
    {"v3.channel.k8s.io", 3, false},
    {"v2.channel.k8s.io", 2, false},
    {"channel.k8s.io", 1, false},
    {NULL, 0, false},
};
static const struct protocol spdy_forward[] = {
    {"portforward.k8s.io", 0, false},
    {NULL, 0, false},
};
static const struct protocol websocket_remote[] = {
    {"v5.channel.k8s.io", 5, false},       {"v4.channel.k8s.io", 4, false},
    {"v4.base64.channel.k8s.io", 4, true}, {"channel.k8s.io", 1, false},
    {"base64.channel.k8s.io", 1, true},    {NULL, 0, false},
};
#define PORTS 4 /* version of those that are UPGRADE_PORTS, inside this file */
static const struct protocol websocket_forward[] = {
    {"SPDY/3.1+portforward.k8s.io", 0, false},
    {"v4.channel.k8s.io", PORTS, false},
    {"v4.base64.channel.k8s.io", PORTS, true},
    {"portforward.k8s.io", PORTS, false},
    {NULL, 0, false},
};

static const struct {
    unsigned status;
    const char *text;
} statuses[] = {
    {400, "Bad Request"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed\r\nAllow: GET, POST"},
    {408, "Request Timeout"},
    {426, "Upgrade Required\r\nUpgrade: SPDY/3.1, websocket\r\nSec-WebSocket-Version: 13"},
    {429, "Too Many Requests\r\nRetry-After: 60"},
    {431, "Request Header Fields Too Large"},
    {503, "Service Unavailable"},
};

/* more: further fields, each with CRLF. */
static int refuse_with(struct buf *out, unsigned status, const char *more, const char *text)
{
    const char *line = "Internal Server Error";

    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++)
        if (statuses[i].status == status)
            line = statuses[i].text;
    return buf_printf(out,
                      "HTTP/1.1 %u %s\r\n%sContent-Type: text/plain; charset=utf-8\r\n"
                      "Content-Length: %zu\r\nConnection: close\r\n\r\n%s\n",
                      status, line, more, strlen(text) + 1, text);
}

int upgrade_refuse(struct buf *out, unsigned status, const char *text)
{
    return refuse_with(out, status, "", text);
}

/* ---- choice: the first of the client's list that is known here */

struct choice {
    const struct protocol *known, *chosen;
    bool any; /* the client named one */
};

static bool choose(const char *token, size_t len, void *ud)
{
    struct choice *c = ud;

    c->any = true;
    for (const struct protocol *p = c->known; p->name && !c->chosen; p++)
        if (strlen(p->name) == len && strncasecmp(p->name, token, len) == 0)
            c->chosen = p;
    return c->chosen != NULL;
}

static int refuse_protocols(const struct choice *c, struct buf *out)
{
    struct buf more;
    int r = 0;

    buf_init(&more, 1024);
    for (const struct protocol *p = c->known; r == 0 && p->name; p++)
        r = buf_printf(&more, "X-Accepted-Stream-Protocol-Versions: %s\r\n", p->name);
    if (r == 0)
        r = refuse_with(out, 403, (const char *)more.data,
                        "none of the stream protocols that were asked for is spoken here");
    buf_done(&more);
    return r < 0 ? r : -EINVAL;
}

static int refuse(struct buf *out, unsigned status, const char *text)
{
    int r = upgrade_refuse(out, status, text);

    return r < 0 ? r : -EINVAL;
}

static int negotiate_spdy(const struct http_head *h, enum upgrade_purpose purpose,
                          struct upgrade *ret, struct buf *out)
{
    struct choice c = {.known = purpose == UPGRADE_REMOTE ? spdy_remote : spdy_forward};

    (void)http_head_each(h, "x-stream-protocol-version", choose, &c);
    if (!c.any)
        return refuse(out, 400, "the header X-Stream-Protocol-Version is missing");
    if (!c.chosen)
        return refuse_protocols(&c, out);
    *ret = (struct upgrade){.wire = UPGRADE_SPDY, .version = c.chosen->version};
    return buf_printf(out,
                      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                      "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n",
                      c.chosen->name);
}

static int negotiate_websocket(const struct http_head *h, enum upgrade_purpose purpose,
                               struct upgrade *ret, struct buf *out)
{
    const struct http_field *key = http_head_next(h, "sec-websocket-key", NULL);
    static const struct protocol unnamed_remote = {NULL, 1, false};
    static const struct protocol unnamed_forward = {NULL, PORTS, false};
    struct choice c = {.known = purpose == UPGRADE_REMOTE ? websocket_remote : websocket_forward};
    char accept[WEBSOCKET_ACCEPT_SIZE];
    int r;

    if (strcmp(h->method, "GET") != 0)
        return refuse(out, 400, "a WebSocket begins with GET");
    if (!http_head_has(h, "sec-websocket-version", "13"))
        return refuse(out, 426, "only version 13 of WebSocket is spoken here");
    if (!key || http_head_next(h, "sec-websocket-key", key) ||
        websocket_accept_key(key->value, accept) < 0)
        return refuse(out, 400, "the header Sec-WebSocket-Key is missing or no key");
    (void)http_head_each(h, "sec-websocket-protocol", choose, &c);
    if (!c.any)
        c.chosen = purpose == UPGRADE_REMOTE ? &unnamed_remote : &unnamed_forward;
    if (!c.chosen)
        return refuse_protocols(&c, out);
    *ret = (struct upgrade){
        .wire = UPGRADE_WEBSOCKET, .version = c.chosen->version, .base64 = c.chosen->base64};
    if (purpose == UPGRADE_FORWARD && c.chosen->version == PORTS)
        *ret = (struct upgrade){.wire = UPGRADE_PORTS, .base64 = c.chosen->base64};
    r = buf_printf(out,
                   "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                   "Upgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n",
                   accept);
    if (r == 0 && c.chosen->name)
        r = buf_printf(out, "Sec-WebSocket-Protocol: %s\r\n", c.chosen->name);
    return r < 0 ? r : buf_append(out, "\r\n", 2);
}

int upgrade_negotiate(const struct http_head *h, enum upgrade_purpose purpose, struct upgrade *ret,
                      struct buf *out)
{
    if (strcmp(h->method, "GET") != 0 && strcmp(h->method, "POST") != 0)
        return refuse(out, 405, "only GET and POST are known here");
    if (!http_head_has(h, "connection", "upgrade"))
        return refuse(out, 400, "this is for clients that upgrade to SPDY/3.1 or WebSocket");
    if (http_head_has(h, "upgrade", "SPDY/3.1"))
        return negotiate_spdy(h, purpose, ret, out);
    if (http_head_has(h, "upgrade", "websocket"))
        return negotiate_websocket(h, purpose, ret, out);
    return refuse(out, 426, "upgrade to SPDY/3.1 or to WebSocket");
}
