/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/remote.h"

#include <string.h>

#include "base/checked.h"
#include "base/str.h"
#include "stream/back.h"
#include "stream/channels.h"
#include "stream/resize.h"
#include "stream/status.h"
#include "wire/message.h"
#include "wire/tlv.h"

#define STATUS_BYTES CHANNELS_WRITE_BYTES

struct remote {
    struct service service;
    const struct client_host *host;
    struct client *client;
    Nexus__StreamOffer *offer; /* owned */
    unsigned version;
    struct channels *channels;
    struct back *back; /* NULL before READY and after the end */
    struct resize_reader resize;
    bool set_up, refused; /* refused: the back waits for room */
    struct buf status;    /* the last message; waits for room */
    bool ending;          /* status is to be sent, then: */
    bool over;
};

/* ---- the end */

/* Sends the last messages when there is room for the status. */
static void try_finish(struct remote *x)
{
    if (!x->ending || x->over)
        return;
    if (x->status.used &&
        channels_write(x->channels, CHANNEL_ERROR, x->status.data, x->status.used) == -EAGAIN)
        return;
    channels_end(x->channels, CHANNEL_ERROR);
    channels_finish(x->channels);
    x->over = true;
}

/* status is filled. The client waits for the end of its streams, then for the status. */
static void begin_end(struct remote *x)
{
    back_free(TAKE(x->back));
    x->ending = true;
    if (x->offer->out)
        channels_end(x->channels, CHANNEL_STDOUT);
    if (x->offer->err)
        channels_end(x->channels, CHANNEL_STDERR);
    try_finish(x);
    client_kick(x->client);
}

static void end_with_failure(struct remote *x, const char *text)
{
    if (x->ending)
        return;
    (void)status_failure(&x->status, x->version, text);
    begin_end(x);
}

static void end_with_code(struct remote *x, int code)
{
    (void)status_exit(&x->status, x->version, code);
    begin_end(x);
}

/* ---- from nexus-vmm */

static void on_started(void *ud)
{
}

static bool on_output(void *ud, uint8_t type, const uint8_t *p, size_t n)
{
    struct remote *x = ud;
    enum channel channel = type == TLV_STDOUT ? CHANNEL_STDOUT : CHANNEL_STDERR;
    int r;

    if (!(channel == CHANNEL_STDOUT ? x->offer->out : x->offer->err))
        return true; /* nobody asked for it */
    r = n ? channels_write(x->channels, channel, p, n) : 0;
    if (n == 0)
        channels_end(x->channels, channel);
    x->refused = r == -EAGAIN;
    client_kick(x->client);
    return r != -EAGAIN;
}

static void on_exited(void *ud, int code)
{
    struct remote *x = ud;

    /* the end of what one is attached to is no failure of the attach */
    end_with_code(x, x->offer->target_case == NEXUS__STREAM_OFFER__TARGET_ATTACH ? 0 : code);
}

static void on_failed(void *ud, int r, const struct error *err, int exit_code)
{
    struct remote *x = ud;
    const char *text = error_text(err, r);

    if (exit_code != 126 && exit_code != 127) {
        end_with_failure(x, text);
        return;
    }
    /* as a shell tells it: text on stderr, and the code */
    if (x->offer->err || x->offer->out) {
        enum channel channel = x->offer->err ? CHANNEL_STDERR : CHANNEL_STDOUT;

        (void)channels_write(x->channels, channel, text, strnlen(text, CHANNELS_WRITE_BYTES));
        (void)channels_write(x->channels, channel, x->offer->tty ? "\r\n" : "\n",
                             x->offer->tty ? 2 : 1);
    }
    end_with_code(x, exit_code);
}

static void on_room(void *ud)
{
    struct remote *x = ud;

    client_kick(x->client);
}

static const struct back_ops back_ops = {
    .on_started = on_started,
    .on_output = on_output,
    .on_exited = on_exited,
    .on_failed = on_failed,
    .on_room = on_room,
};

/* ---- from the client */

static void start(struct remote *x)
{
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    hello.version = 1;
    if (x->offer->target_case == NEXUS__STREAM_OFFER__TARGET_EXEC) {
        hello.role = NEXUS__CONTROL_HELLO__ROLE__EXEC;
        hello.exec = x->offer->exec;
    } else {
        hello.role = NEXUS__CONTROL_HELLO__ROLE__ATTACH;
        hello.attach = x->offer->attach;
    }
    x->set_up = true;
    r = back_new(x->host->event, x->host->vmm_dirfd, x->offer->vmm_socket, &hello, &back_ops, x,
                 &x->back, &err);
    if (r < 0)
        end_with_failure(x, error_text(err, r));
}

static void on_resize(struct remote *x, const uint8_t *p, size_t len)
{
    while (len > 0 && x->back) {
        uint16_t columns, rows;
        bool is_size;
        size_t n = resize_feed(&x->resize, p, len, &is_size, &columns, &rows);

        if (is_size)
            (void)back_resize(x->back, columns, rows);
        p += n;
        len -= n;
    }
}

/* What the container was not created with is read and thrown away. */
static bool has_stdin(const struct remote *x)
{
    return x->back && (x->offer->target_case != NEXUS__STREAM_OFFER__TARGET_ATTACH ||
                       x->offer->attach->open_stdin);
}

static void on_event(struct remote *x, const struct channels_event *ev)
{
    switch (ev->type) {
    case CHANNELS_READY:
        start(x);
        break;
    case CHANNELS_DATA:
        if (ev->channel == CHANNEL_RESIZE)
            on_resize(x, ev->data, ev->len);
        else if (has_stdin(x) && back_input(x->back, ev->data, ev->len) < 0)
            end_with_failure(x, "no memory for stdin");
        break;
    case CHANNELS_EOF:
        if (has_stdin(x))
            (void)back_input(x->back, NULL, 0);
        break;
    case CHANNELS_LEFT:
    default:
        x->over = true;
        break;
    }
}

static bool takes_input(const struct remote *x)
{
    return !x->over && (!x->back || back_has_room(x->back));
}

static void remote_feed(struct service *s, const uint8_t *p, size_t n)
{
    struct remote *x = container_of(s, struct remote, service);
    struct channels_event ev;
    int r = n ? channels_feed(x->channels, p, n) : 0;

    while (r >= 0 && takes_input(x)) {
        r = channels_next(x->channels, &ev);
        if (r == 0)
            break;
        if (r > 0)
            on_event(x, &ev);
    }
    if (r < 0)
        x->over = true; /* the connection's last words are in out */
}

/* ---- the client's questions */

static bool remote_wants_input(struct service *s)
{
    const struct remote *x = container_of(s, struct remote, service);

    return takes_input(x) && channels_want_input(x->channels);
}

static size_t remote_out(struct service *s, const uint8_t **ret)
{
    return channels_out(container_of(s, struct remote, service)->channels, ret);
}

static void remote_out_done(struct service *s, size_t n)
{
    struct remote *x = container_of(s, struct remote, service);

    channels_out_done(x->channels, n);
    if (x->refused && x->back) {
        x->refused = false;
        back_resume(x->back);
    }
    try_finish(x);
    if (channels_are_paused(x->channels))
        client_kick(x->client);
}

static bool remote_is_set_up(struct service *s)
{
    return container_of(s, struct remote, service)->set_up;
}

static bool remote_is_over(struct service *s)
{
    return container_of(s, struct remote, service)->over;
}

static uint64_t remote_tick(struct service *s, uint64_t now_ns)
{
    return UINT64_MAX;
}

static void remote_free(struct service *s)
{
    struct remote *x = container_of(s, struct remote, service);

    back_free(x->back);
    channels_free(x->channels);
    if (x->offer)
        message_free(&x->offer->base);
    buf_done(&x->status);
    free(x);
}

static const struct service_ops remote_ops = {
    .wants_input = remote_wants_input,
    .feed = remote_feed,
    .out = remote_out,
    .out_done = remote_out_done,
    .is_set_up = remote_is_set_up,
    .is_over = remote_is_over,
    .tick = remote_tick,
    .free = remote_free,
};

int remote_service_new(const struct client_host *host, struct client *client,
                       const struct upgrade *upgrade, Nexus__StreamOffer *offer,
                       struct service **ret)
{
    struct remote *x = xcalloc(1, sizeof(*x));
    struct channels_config config = {.upgrade = *upgrade,
                                     .in = offer->in,
                                     .out = offer->out,
                                     .err = offer->err,
                                     .tty = offer->tty};
    int r = channels_new(&config, &x->channels);

    if (r < 0) {
        free(x);
        return r;
    }
    x->service.ops = &remote_ops;
    x->host = host;
    x->client = client;
    x->offer = offer;
    x->version = upgrade->version;
    buf_init(&x->status, STATUS_BYTES);
    *ret = &x->service;
    return 0;
}
