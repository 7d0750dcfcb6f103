/* SPDX-License-Identifier: Apache-2.0 */
/* Client side here, guest side in guest-stream. Start at on_client_io. */
#include "vmm/stream.h"

#include <string.h>
#include <sys/socket.h>

#include "base/le.h"
#include "base/limit.h"
#include "base/str.h"
#include "event/loop.h"
#include "vmm/frame-queue.h"
#include "vmm/guest-stream.h"
#include "wire/message.h"
#include "wire/reply.h"

#define READ_BYTES 8192
#define EXIT_CODE_LOST 255

struct stream {
    struct loop *loop;
    const struct stream_ops *ops;
    void *ud;
    int fd;
    struct loop_source *io;
    struct loop_source *later;  /* at the end of this turn: write, read on; the last callback */
    struct guest_stream *guest; /* NULL: its end is over */
    char *container_id;         /* "": of no container */
    bool is_exec;               /* takes signals and sizes */
    struct tlv_reader reader;   /* from the client */
    struct tlv_frame held;      /* refused by the guest's queue; type 0: none. Lives in reader */
    bool stdin_open;            /* STDIN frames are welcome */
    struct frame_queue queue;   /* to the client */
    bool refused;               /* on_output said no: resume when there is room */
    bool last;                  /* the last frame is queued */
    bool gone;
};

static void watch(struct stream *s)
{
    unsigned events = LOOP_HANGUP;

    if (s->gone)
        return;
    if (!frame_queue_is_empty(&s->queue))
        events |= LOOP_WRITE;
    if (!s->held.type)
        events |= LOOP_READ;
    (void)loop_io_set(s->io, events);
}

/* The client is out of reach or served: closes everything; on_gone comes from the loop. */
static void set_gone(struct stream *s)
{
    if (s->gone)
        return;
    s->gone = true;
    s->held.type = 0;
    loop_remove(TAKE(s->io));
    s->fd = close_fd(s->fd);
    guest_stream_free(TAKE(s->guest));
    loop_defer_arm(s->later);
}

static void write_client(struct stream *s)
{
    const uint8_t *p;
    size_t len;

    while (!s->gone && (len = frame_queue_peek(&s->queue, &p)) > 0) {
        ssize_t n = send(s->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            set_gone(s);
            return;
        }
        frame_queue_consume(&s->queue, (size_t)n);
    }
    if (!s->gone && s->last && frame_queue_is_empty(&s->queue))
        set_gone(s);
}

static void push_last(struct stream *s, uint8_t type, const ProtobufCMessage *m)
{
    uint8_t bytes[8192];
    size_t len = protobuf_c_message_get_packed_size(m);

    if (s->last || s->gone)
        return;
    if (len > sizeof(bytes)) {
        set_gone(s);
        return;
    }
    (void)protobuf_c_message_pack(m, bytes);
    if (frame_queue_push_last(&s->queue, type, bytes, len) < 0) {
        set_gone(s);
        return;
    }
    s->last = true;
    s->held.type = 0; /* nobody waits for its input any more; it is read and thrown away */
    write_client(s);
    watch(s);
}

static void push_error(struct stream *s, int r, const struct error *err)
{
    Nexus__StreamError m = NEXUS__STREAM_ERROR__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;

    reply_from_error(&reply, r, err);
    m.reply = &reply;
    m.exit_code = EXIT_CODE_LOST;
    push_last(s, TLV_ERROR, &m.base);
}

void stream_fail(struct stream *s, int r, const struct error *err)
{
    guest_stream_free(TAKE(s->guest));
    push_error(s, r, err);
}

/* ---- from the guest */

static void on_started(void *ud, const Nexus__StreamStarted *started)
{
    struct stream *s = ud;
    Nexus__StreamStarted m = NEXUS__STREAM_STARTED__INIT;
    uint8_t bytes[64];

    m.pid = started->pid;
    (void)frame_queue_push(&s->queue, TLV_MESSAGE, bytes,
                           protobuf_c_message_pack(&m.base, bytes)); /* the first: there is room */
    loop_defer_arm(s->later);
}

/* Frames of one turn are written together, at its end or when the queue is full. */
static bool on_output(void *ud, uint8_t type, const uint8_t *p, uint32_t n)
{
    struct stream *s = ud;
    int r;

    if (frame_queue_is_full(&s->queue))
        write_client(s);
    if (s->gone)
        return true;
    r = frame_queue_push(&s->queue, type, p, n);
    if (r == -EAGAIN) {
        s->refused = true;
        watch(s);
        return false;
    }
    if (r < 0)
        set_gone(s);
    else
        loop_defer_arm(s->later);
    return true;
}

static void on_exit_info(void *ud, const Nexus__ExitInfo *info)
{
    struct stream *s = ud;

    guest_stream_free(TAKE(s->guest));
    push_last(s, TLV_EXIT, &info->base);
}

static void on_error(void *ud, const Nexus__StreamError *error)
{
    struct stream *s = ud;

    guest_stream_free(TAKE(s->guest));
    push_last(s, TLV_ERROR, &error->base);
}

static void on_lost(void *ud, int r)
{
    struct stream *s = ud;

    guest_stream_free(TAKE(s->guest));
    s->ops->on_lost(s->ud, s, r);
}

static void on_violation(void *ud, const char *what)
{
    struct stream *s = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = error_set_class(&err, ERROR_GUEST, -EPROTO,
                            "in guest: the agent broke the protocol: %s", what);

    stream_fail(s, r, err);
    s->ops->on_violation(s->ud, s, what);
}

/* ---- from the client */

/* 0; -EAGAIN: the guest's queue is full; -EPROTO. */
static int to_guest(struct stream *s, const struct tlv_frame *f)
{
    int r;

    switch (f->type) {
    case TLV_STDIN:
        if (!s->stdin_open)
            return -EPROTO;
        break;
    case TLV_SIGNAL:
        if (!s->is_exec || f->len != 4 || be32_load(f->value) < 1 || be32_load(f->value) > 64)
            return -EPROTO;
        break;
    case TLV_RESIZE:
        if (!s->is_exec || f->len != 4)
            return -EPROTO;
        break;
    default:
        return -EPROTO;
    }
    if (!s->guest) /* over already: the client could not know */
        return 0;
    r = guest_stream_write(s->guest, f->type, f->value, f->len);
    if (r == 0 && f->type == TLV_STDIN && f->len == 0)
        s->stdin_open = false;
    return r;
}

/* Frames read so far → guest, until one is refused. A client that breaks a rule loses its exec. */
static void drain_client(struct stream *s)
{
    struct tlv_frame f;
    int r;

    while (!s->held.type && !s->gone && (r = tlv_reader_next(&s->reader, &f)) != 0) {
        if (r > 0)
            r = to_guest(s, &f);
        if (r == -EAGAIN) {
            s->held = f;
        } else if (r < 0) {
            _cleanup_(error_freep) struct error *err = NULL;

            r = error_set_class(&err, ERROR_INVALID, -EPROTO,
                                "the client of an exec broke the protocol");
            stream_fail(s, r, err);
            tlv_reader_done(&s->reader);
            return;
        }
    }
    if (!s->held.type)
        tlv_reader_trim(&s->reader);
    watch(s);
}

static void on_room(void *ud)
{
    struct stream *s = ud;
    struct tlv_frame f = s->held;

    if (!f.type)
        return;
    s->held.type = 0;
    if (to_guest(s, &f) == -EAGAIN)
        s->held = f;
    else
        drain_client(s);
}

static void read_client(struct stream *s)
{
    uint8_t bytes[READ_BYTES];
    ssize_t n = recv(s->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        set_gone(s); /* closes the guest's end: the exec dies with its client */
        return;
    }
    if (s->last)
        return; /* input for a process that is over */
    if (tlv_reader_feed(&s->reader, bytes, (size_t)n) < 0) {
        set_gone(s);
        return;
    }
    drain_client(s);
}

/* Writes; then the guest is read again if it was stopped and half of the queue is free. */
static void serve_client(struct stream *s)
{
    write_client(s);
    if (s->refused && !s->gone && s->guest && s->queue.frames <= LIMIT_TLV_QUEUE_FRAMES / 2) {
        s->refused = false;
        guest_stream_resume(s->guest);
    }
}

static void on_client_io(struct loop_source *source, int fd, unsigned events, void *ud)
{
    struct stream *s = ud;

    if (events & LOOP_HANGUP) {
        set_gone(s);
        return;
    }
    if (events & LOOP_WRITE)
        serve_client(s);
    if ((events & LOOP_READ) && !s->gone)
        read_client(s);
    watch(s);
}

/* At the end of a turn in which something came; also once at the beginning, for frames that came with
 * the hello. */
static void on_later(struct loop_source *source, void *ud)
{
    struct stream *s = ud;

    if (s->gone) {
        s->ops->on_gone(s->ud, s);
        return;
    }
    serve_client(s);
    if (!s->gone)
        drain_client(s);
}

static const struct guest_stream_ops guest_ops = {
    .on_started = on_started,
    .on_output = on_output,
    .on_exit = on_exit_info,
    .on_error = on_error,
    .on_lost = on_lost,
    .on_violation = on_violation,
    .on_room = on_room,
};

/* All but the fd, which the caller keeps on failure. */
static int set_up(struct stream *s, const struct transport *transport, int fd,
                  const Nexus__StreamOpen *open, uint32_t start_ms)
{
    int r = loop_add_defer(s->loop, on_later, s, &s->later);

    if (r == 0)
        r = loop_add_io(s->loop, fd, LOOP_READ, on_client_io, s, &s->io);
    if (r < 0)
        return r;
    return guest_stream_new(s->loop, transport, open, start_ms, &guest_ops, s, &s->guest);
}

int stream_new(struct loop *loop, const struct transport *transport, int fd,
               struct tlv_reader *reader, const Nexus__StreamOpen *open, uint32_t start_ms,
               const struct stream_ops *ops, void *ud, struct stream **ret)
{
    struct stream *s = xcalloc(1, sizeof(*s));
    int r;

    s->loop = loop;
    s->ops = ops;
    s->ud = ud;
    s->fd = -EBADF;
    s->is_exec = open->kind_case == NEXUS__STREAM_OPEN__KIND_EXEC;
    s->container_id = str_dup(s->is_exec ? open->exec->container_id : "");
    s->stdin_open = s->is_exec ? open->exec->open_stdin : true;
    s->reader = *reader;
    tlv_reader_init(reader);
    tlv_reader_set_max(&s->reader, LIMIT_TLV_DATA_BYTES);
    frame_queue_init(&s->queue);
    r = set_up(s, transport, fd, open, start_ms);
    if (r < 0) {
        _cleanup_(error_freep) struct error *err = NULL;

        stream_free(s);
        r = error_set(&err, r, "cannot open a stream to the guest");
        stream_refuse(fd, r, err);
        return r;
    }
    s->fd = fd;
    loop_defer_arm(s->later);
    *ret = s;
    return 0;
}

void stream_free(struct stream *s)
{
    if (!s)
        return;
    loop_remove(s->io);
    loop_remove(s->later);
    (void)close_fd(s->fd);
    guest_stream_free(s->guest);
    tlv_reader_done(&s->reader);
    frame_queue_done(&s->queue);
    free(s->container_id);
    free(s);
}

const char *stream_container_id(const struct stream *s)
{
    return s->container_id;
}

void stream_refuse(int fd, int r, const struct error *err)
{
    Nexus__StreamError m = NEXUS__STREAM_ERROR__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;
    struct buf out;

    reply_from_error(&reply, r, err);
    m.reply = &reply;
    m.exit_code = EXIT_CODE_LOST;
    buf_init(&out, 16384);
    if (message_write(&out, TLV_ERROR, &m.base) == 0)
        (void)!send(fd, out.data, out.used,
                    MSG_NOSIGNAL | MSG_DONTWAIT); /* a fresh socket has room */
    buf_done(&out);
    (void)close_fd(fd);
}
