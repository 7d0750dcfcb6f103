/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/commander.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "stream/server.h"
#include "wire/message.h"
#include "wire/reply.h"

#define READ_BYTES (64U << 10)
#define OUT_MAX (1U << 20) /* nexusd that does not read its answers is gone */

struct commander {
    const struct commander_ops *ops;
    void *ud;
    const char *url;
    int fd; /* owned */
    sd_event_source *io, *later;
    struct tlv_reader reader;
    struct buf out;
    bool greeted, gone;
};

void commander_free(struct commander *c)
{
    if (!c)
        return;
    sd_event_source_disable_unref(c->io);
    sd_event_source_disable_unref(c->later);
    (void)close_fd(c->fd);
    tlv_reader_done(&c->reader);
    buf_done(&c->out);
    free(c);
}

static void set_gone(struct commander *c)
{
    c->gone = true;
    (void)sd_event_source_set_enabled(c->io, SD_EVENT_OFF);
    (void)sd_event_source_set_enabled(c->later, SD_EVENT_ONESHOT);
}

static void write_out(struct commander *c)
{
    while (c->out.used && !c->gone) {
        ssize_t n = send(c->fd, c->out.data, c->out.used, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            set_gone(c);
        else
            buf_consume(&c->out, (size_t)n);
    }
    if (!c->gone)
        (void)sd_event_source_set_io_events(c->io, EPOLLIN | (c->out.used ? EPOLLOUT : 0U));
}

static void send_message(struct commander *c, const Nexus__StreamControl *m)
{
    if (message_write(&c->out, TLV_MESSAGE, &m->base) < 0)
        set_gone(c);
    else
        write_out(c);
}

static void reply(struct commander *c, uint64_t id, int r, const struct error *err)
{
    Nexus__StreamControl m = NEXUS__STREAM_CONTROL__INIT;
    Nexus__Reply body = NEXUS__REPLY__INIT;

    reply_from_error(&body, r, err);
    m.id = id;
    m.body_case = NEXUS__STREAM_CONTROL__BODY_REPLY;
    m.reply = &body;
    send_message(c, &m);
}

static void on_hello(struct commander *c, uint64_t id, const Nexus__StreamHello *hello)
{
    Nexus__StreamControl m = NEXUS__STREAM_CONTROL__INIT;
    Nexus__StreamWelcome welcome = NEXUS__STREAM_WELCOME__INIT;
    _cleanup_(error_freep) struct error *err = NULL;

    int r = hello->version == SERVER_PROTOCOL_VERSION
                ? c->ops->on_hello(c->ud, hello, &err)
                : error_set(&err, -EOPNOTSUPP, "nexus-stream speaks version %d, not %u",
                            SERVER_PROTOCOL_VERSION, hello->version);

    if (r < 0) {
        reply(c, id, r, err);
        return;
    }
    c->greeted = true;
    welcome.version = SERVER_PROTOCOL_VERSION;
    welcome.base_url = (char *)(uintptr_t)c->url; /* only read */
    m.id = id;
    m.body_case = NEXUS__STREAM_CONTROL__BODY_WELCOME;
    m.welcome = &welcome;
    send_message(c, &m);
}

static bool is_whole(const Nexus__StreamOffer *o)
{
    for (size_t i = 0; i < o->n_ports; i++)
        if (o->ports[i] == 0 || o->ports[i] > UINT16_MAX)
            return false;
    switch (o->target_case) {
    case NEXUS__STREAM_OFFER__TARGET_EXEC:
        return o->exec && o->exec->process && (o->out || o->err || o->in);
    case NEXUS__STREAM_OFFER__TARGET_ATTACH:
        return o->attach && (o->out || o->err || o->in);
    case NEXUS__STREAM_OFFER__TARGET_FORWARD:
        return true;
    case NEXUS__STREAM_OFFER__TARGET__NOT_SET:
    case _NEXUS__STREAM_OFFER__TARGET__CASE_IS_INT_SIZE:
    default:
        return false;
    }
}

/* Takes m->offer away on success. */
static void on_offer(struct commander *c, Nexus__StreamControl *m)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = -EINVAL;

    if (is_whole(m->offer))
        r = c->ops->on_offer(c->ud, m->offer, &err);
    if (r == 0) {
        m->offer = NULL;
        m->body_case = NEXUS__STREAM_CONTROL__BODY__NOT_SET;
    } else if (!err) {
        (void)error_set(&err, r,
                        r == -EDQUOT ? "%d streaming sessions wait for their clients already"
                                     : "the offer cannot be taken",
                        LIMIT_STREAM_TOKENS);
    }
    reply(c, m->id, r, err);
}

static void on_tls(struct commander *c, uint64_t id, const Nexus__StreamTls *tls)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = c->ops->on_tls(c->ud, tls, &err);

    reply(c, id, r, err);
}

/* 0 or -EPROTO. */
static int on_frame(struct commander *c, const struct tlv_frame *f)
{
    Nexus__StreamControl *m = NULL;
    int r = 0;

    if (f->type == TLV_MESSAGE)
        m = (Nexus__StreamControl *)message_unpack(&nexus__stream_control__descriptor, f->value,
                                                   f->len);
    if (!m)
        return -EPROTO;
    if (m->body_case == NEXUS__STREAM_CONTROL__BODY_HELLO)
        on_hello(c, m->id, m->hello);
    else if (m->body_case == NEXUS__STREAM_CONTROL__BODY_OFFER && c->greeted)
        on_offer(c, m);
    else if (m->body_case == NEXUS__STREAM_CONTROL__BODY_TLS && c->greeted)
        on_tls(c, m->id, m->tls);
    else
        r = -EPROTO;
    message_free(&m->base);
    return r;
}

static void read_some(struct commander *c)
{
    static uint8_t bytes[READ_BYTES]; /* one thread; copied before the next read */
    ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    struct tlv_frame f;
    int r;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    r = n > 0 ? tlv_reader_feed(&c->reader, bytes, (size_t)n) : -ECONNRESET;
    while (r >= 0 && !c->gone) {
        r = tlv_reader_next(&c->reader, &f);
        if (r == 0)
            break;
        if (r > 0)
            r = on_frame(c, &f);
    }
    if (r == -EPROTO || r == -EMSGSIZE)
        log_warning("a control connection broke the protocol and is closed");
    if (r < 0)
        set_gone(c);
    else
        tlv_reader_trim(&c->reader);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct commander *c = userdata;

    if (revents & EPOLLOUT)
        write_out(c);
    if (!c->gone && revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(c);
    return 0;
}

static int on_later(sd_event_source *source, void *userdata)
{
    struct commander *c = userdata;

    c->ops->on_gone(c->ud, c);
    return 0;
}

static int check_peer(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    return cred.uid == 0 || cred.uid == geteuid() ? 0 : -EPERM;
}

int commander_new(sd_event *event, int fd, const char *url, const struct commander_ops *ops,
                  void *ud, struct commander **ret)
{
    struct commander *c;
    int r = check_peer(fd);

    if (r < 0)
        return r;
    c = xcalloc(1, sizeof(*c));
    c->ops = ops;
    c->ud = ud;
    c->url = url;
    c->fd = fd;
    tlv_reader_init(&c->reader);
    buf_init(&c->out, OUT_MAX);
    r = sd_event_add_io(event, &c->io, fd, EPOLLIN, on_io, c);
    if (r >= 0)
        r = sd_event_add_defer(event, &c->later, on_later, c);
    if (r >= 0)
        r = sd_event_source_set_enabled(c->later, SD_EVENT_OFF);
    if (r < 0) {
        c->fd = -EBADF;
        commander_free(c);
        return r;
    }
    *ret = c;
    return 0;
}
