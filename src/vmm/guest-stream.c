/* SPDX-License-Identifier: Apache-2.0 */
/* Start at on_data → drain → dispatch. The object may be freed by any callback of its owner: after one,
 * `s` is looked at again only through the guard `alive`. */
#include "vmm/guest-stream.h"

#include <string.h>

#include "base/checked.h"
#include "base/limit.h"
#include "event/loop.h"
#include "vmm/frame-queue.h"
#include "wire/message.h"
#include "wire/reply.h"

#define FRAME_MAX 8192U /* an ERROR frame */
#define STARTED_MAX (64U + 5 * LIMIT_GROUPS_TOLD)
#define FEED_BYTES 4096U

enum guest_stream_state {
    GUEST_STREAM_OPENING, /* StreamOpen is on its way; on_started → RUNNING, a last frame → OVER */
    GUEST_STREAM_RUNNING, /* output comes; a last frame → OVER */
    GUEST_STREAM_OVER,    /* told the owner how it ended */
};

struct guest_stream {
    const struct transport *transport;
    const struct guest_stream_ops *ops;
    void *ud;
    struct transport_conn *conn; /* NULL: closed */
    bool connected;
    bool late_start; /* a start need not be told in time: only to connect has a limit */
    bool keep;       /* after EXIT the guest waits for the next stream on conn */
    enum guest_stream_state state;
    struct tlv_reader reader;
    struct tlv_frame held; /* refused by on_output; type 0: none. Lives in the reader */
    bool eof;              /* no more bytes will come */
    int eof_reason;
    bool out_over, err_over; /* the empty frame of that stream came */
    struct buf open;         /* StreamOpen, not sent yet */
    size_t open_done;
    struct frame_queue queue;
    bool want_room; /* a write was refused */
    struct loop_source *timer;
    bool *alive; /* points to a local of the function that is calling the owner */
};

static void close_conn(struct guest_stream *s)
{
    if (s->conn)
        s->transport->conn_close(TAKE(s->conn));
}

/* What the guest sends from now on is the next stream's, what it got was this one's. */
static void return_conn(struct guest_stream *s)
{
    if (s->conn && s->keep && !s->eof && tlv_reader_is_empty(&s->reader))
        s->transport->conn_return(s->transport->impl, TAKE(s->conn));
}

/* Before the last callback: nothing more is read or told. */
static void over(struct guest_stream *s)
{
    s->state = GUEST_STREAM_OVER;
    s->held.type = 0;
    loop_timer_set(s->timer, UINT64_MAX);
    close_conn(s);
}

static void violate(struct guest_stream *s, const char *what)
{
    over(s);
    s->ops->on_violation(s->ud, what);
}

static void lose(struct guest_stream *s, int r)
{
    over(s);
    s->ops->on_lost(s->ud, r);
}

/* The functions below return false if the stream is over (and perhaps freed). */

static bool on_started(struct guest_stream *s, const struct tlv_frame *f)
{
    Nexus__StreamStarted *m = NULL;
    bool alive = true;

    if (s->state != GUEST_STREAM_OPENING || f->len > STARTED_MAX) {
        violate(s, "a start message out of place");
        return false;
    }
    m = (Nexus__StreamStarted *)message_unpack(&nexus__stream_started__descriptor, f->value,
                                               f->len);
    if (!m) {
        violate(s, "a malformed start message");
        return false;
    }
    s->state = GUEST_STREAM_RUNNING;
    loop_timer_set(s->timer, UINT64_MAX);
    s->alive = &alive;
    s->ops->on_started(s->ud, m);
    message_free(&m->base);
    if (alive)
        s->alive = NULL;
    return alive && s->state == GUEST_STREAM_RUNNING;
}

static bool on_output(struct guest_stream *s, const struct tlv_frame *f)
{
    bool *stream_over = f->type == TLV_STDOUT ? &s->out_over : &s->err_over;
    bool alive = true, taken;

    if (s->state != GUEST_STREAM_RUNNING || *stream_over) {
        violate(s, "output out of place");
        return false;
    }
    s->alive = &alive;
    taken = s->ops->on_output(s->ud, f->type, f->value, f->len);
    if (!alive)
        return false;
    s->alive = NULL;
    if (taken)
        *stream_over = f->len == 0;
    else
        s->held = *f;
    return taken && s->state == GUEST_STREAM_RUNNING;
}

static bool on_termination(struct guest_stream *s, const struct tlv_frame *f)
{
    bool alive = true;

    if (s->state != GUEST_STREAM_RUNNING || !s->ops->on_termination) {
        violate(s, "a termination log out of place");
        return false;
    }
    s->alive = &alive;
    s->ops->on_termination(s->ud, f->value, f->len);
    if (alive)
        s->alive = NULL;
    return alive && s->state == GUEST_STREAM_RUNNING;
}

static bool on_exit_frame(struct guest_stream *s, const struct tlv_frame *f)
{
    Nexus__ExitInfo *m;

    if (s->state != GUEST_STREAM_RUNNING) {
        violate(s, "an exit before the start");
        return false;
    }
    m = (Nexus__ExitInfo *)message_unpack(&nexus__exit_info__descriptor, f->value, f->len);
    if (!m || m->code < 0 || m->code > 255 || m->signal > 64) {
        if (m)
            message_free(&m->base);
        violate(s, "a malformed exit code");
        return false;
    }
    return_conn(s);
    over(s);
    s->ops->on_exit(s->ud, m);
    message_free(&m->base);
    return false;
}

static bool on_error_frame(struct guest_stream *s, const struct tlv_frame *f)
{
    Nexus__StreamError *m, clean = NEXUS__STREAM_ERROR__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    m = (Nexus__StreamError *)message_unpack(&nexus__stream_error__descriptor, f->value, f->len);
    r = m ? reply_to_error(m->reply, &err) : -EPROTO;
    if (!m || r >= 0 || !m->reply || m->exit_code < 0 || m->exit_code > 255) {
        if (m)
            message_free(&m->base);
        violate(s, "a malformed error frame");
        return false;
    }
    reply_from_error(&reply, r, err);
    clean.reply = &reply;
    clean.exit_code = m->exit_code;
    message_free(&m->base);
    over(s);
    s->ops->on_error(s->ud, &clean);
    return false;
}

static bool dispatch(struct guest_stream *s, const struct tlv_frame *f)
{
    switch (f->type) {
    case TLV_MESSAGE:
        return on_started(s, f);
    case TLV_STDOUT:
    case TLV_STDERR:
        return on_output(s, f);
    case TLV_TERMINATION:
        return on_termination(s, f);
    case TLV_EXIT:
        return on_exit_frame(s, f);
    case TLV_ERROR:
        return on_error_frame(s, f);
    default:
        violate(s, "a frame only the host may send");
        return false;
    }
}

/* Gives out the frames that are complete. False: stopped by a refusal, the end, or free. */
static bool drain(struct guest_stream *s)
{
    struct tlv_frame f;
    int r;

    while ((r = tlv_reader_next(&s->reader, &f)) > 0)
        if (!dispatch(s, &f))
            return false;
    if (r < 0) {
        violate(s, "a broken or too long frame");
        return false;
    }
    tlv_reader_trim(&s->reader);
    return true;
}

static size_t on_data(struct transport_conn *c, const uint8_t *p, size_t n, void *ud)
{
    struct guest_stream *s = ud;
    size_t at = 0;

    if (s->held.type)
        return 0;
    while (at < n) {
        size_t piece = min_of(n - at, (size_t)FEED_BYTES);
        int r = tlv_reader_feed(&s->reader, p + at, piece);

        at += piece;
        if (r < 0) {
            violate(s, "no memory for its frames");
            return n;
        }
        if (!drain(s))
            return at;
    }
    return n;
}

static void at_eof(struct guest_stream *s)
{
    if (s->eof && !s->held.type && s->state != GUEST_STREAM_OVER)
        lose(s, s->eof_reason);
}

void guest_stream_resume(struct guest_stream *s)
{
    struct tlv_frame f = s->held;

    if (!f.type || s->state == GUEST_STREAM_OVER)
        return;
    s->held.type = 0;
    if (!dispatch(s, &f) || !drain(s))
        return;
    if (s->eof)
        at_eof(s);
    else if (s->conn)
        s->transport->conn_resume(s->conn);
}

static void write_out(struct guest_stream *s)
{
    const uint8_t *p;
    size_t n;

    while (s->conn && s->open_done < s->open.used) {
        n = s->transport->conn_write(s->conn, s->open.data + s->open_done,
                                     s->open.used - s->open_done);
        if (n == 0)
            return;
        s->open_done += n;
    }
    buf_done(&s->open);
    s->open_done = 0;
    while (s->conn && (n = frame_queue_peek(&s->queue, &p)) > 0) {
        n = s->transport->conn_write(s->conn, p, n);
        if (n == 0)
            return;
        frame_queue_consume(&s->queue, n);
    }
}

static void on_writable(struct transport_conn *c, void *ud)
{
    struct guest_stream *s = ud;

    if (!s->connected && s->late_start)
        loop_timer_set(s->timer, UINT64_MAX);
    s->connected = true;
    write_out(s);
    if (s->want_room && s->queue.frames <= LIMIT_TLV_QUEUE_FRAMES / 2) {
        s->want_room = false;
        if (s->ops->on_room)
            s->ops->on_room(s->ud);
    }
}

static void on_peer_shutdown(struct transport_conn *c, void *ud)
{
    struct guest_stream *s = ud;

    s->eof = true;
    s->eof_reason = -ECONNRESET;
    at_eof(s);
}

static void on_closed(struct transport_conn *c, int reason, void *ud)
{
    struct guest_stream *s = ud;

    s->conn = NULL;
    if (!s->eof)
        s->eof_reason = reason < 0 ? reason : -ECONNRESET;
    s->eof = true;
    at_eof(s);
}

static const struct transport_conn_ops conn_ops = {
    .on_connected = on_writable,
    .on_data = on_data,
    .on_writable = on_writable,
    .on_peer_shutdown = on_peer_shutdown,
    .on_closed = on_closed,
};

static void on_start_timeout(struct loop_source *source, void *ud)
{
    struct guest_stream *s = ud;

    if (s->state == GUEST_STREAM_OPENING)
        lose(s, -ETIMEDOUT);
}

int guest_stream_new(struct loop *loop, const struct transport *transport,
                     const Nexus__StreamOpen *open, uint32_t start_ms,
                     const struct guest_stream_ops *ops, void *ud, struct guest_stream **ret)
{
    _cleanup_(guest_stream_freep) struct guest_stream *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->transport = transport;
    s->ops = ops;
    s->ud = ud;
    s->late_start =
        open->kind_case == NEXUS__STREAM_OPEN__KIND_EXEC && open->exec && open->exec->late_start;
    s->keep = open->keep && transport->conn_return;
    tlv_reader_init(&s->reader);
    tlv_reader_set_max(&s->reader, FRAME_MAX);
    frame_queue_init(&s->queue);
    buf_init(&s->open, LIMIT_TLV_MESSAGE_BYTES + TLV_HEADER_BYTES);
    r = message_write(&s->open, TLV_MESSAGE, &open->base);
    if (r < 0)
        return r;
    r = loop_add_timer(loop, on_start_timeout, s, &s->timer);
    if (r < 0)
        return r;
    r = transport->connect(transport->impl, TRANSPORT_PORT_STREAM, &conn_ops, s, &s->conn);
    if (r < 0)
        return r;
    loop_timer_set_after_ms(s->timer, start_ms);
    if (r > 0)
        on_writable(s->conn, s);
    *ret = TAKE(s);
    return 0;
}

void guest_stream_free(struct guest_stream *s)
{
    if (!s)
        return;
    if (s->alive)
        *s->alive = false;
    close_conn(s);
    loop_remove(s->timer);
    tlv_reader_done(&s->reader);
    buf_done(&s->open);
    frame_queue_done(&s->queue);
    free(s);
}

int guest_stream_write(struct guest_stream *s, uint8_t type, const void *value, size_t len)
{
    int r;

    if (s->state == GUEST_STREAM_OVER)
        return 0;    /* nobody is left to read it */
    s->keep = false; /* it may arrive after the end */
    r = frame_queue_push(&s->queue, type, value, len);
    if (r == -EAGAIN)
        s->want_room = true;
    else if (r == 0 && s->connected)
        write_out(s);
    return r;
}
