/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/back.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/le.h"
#include "base/limit.h"
#include "base/str.h"
#include "wire/message.h"
#include "wire/reply.h"

#define READ_BYTES (64U << 10)
#define FRAME_BYTES (TLV_HEADER_BYTES + LIMIT_TLV_DATA_BYTES)
#define QUEUE_BYTES ((size_t)LIMIT_TLV_QUEUE_FRAMES * FRAME_BYTES)
/* the hello, or what back_input is given when the queue is not full, in frames */
#define OUT_SLACK (TLV_HEADER_BYTES + LIMIT_TLV_MESSAGE_BYTES + 2 * BACK_INPUT_BYTES)
#define CODE_LOST 255

struct back {
    int fd; /* owned */
    sd_event_source *io;
    const struct back_ops *ops;
    void *ud;
    struct tlv_reader reader;
    struct tlv_frame held; /* refused by on_output; type 0: none. Lives in the reader */
    bool started, over, hung_up;
    struct buf out;
    size_t out_done;
    bool full;     /* on_room is owed */
    unsigned busy; /* functions of ours on the stack: they end the object if it is dead */
    bool dead;
};

static void really_free(struct back *b)
{
    tlv_reader_done(&b->reader);
    buf_done(&b->out);
    free(b);
}

void back_free(struct back *b)
{
    if (!b)
        return;
    sd_event_source_disable_unref(TAKE(b->io));
    b->fd = close_fd(b->fd);
    b->over = b->dead = true;
    if (!b->busy)
        really_free(b);
}

static void leave(struct back *b)
{
    b->busy--;
    if (b->dead && !b->busy)
        really_free(b);
}

static size_t waiting(const struct back *b)
{
    return b->out.used - b->out_done;
}

static void watch(struct back *b)
{
    uint32_t events = (b->held.type ? 0U : EPOLLIN) | (waiting(b) ? EPOLLOUT : 0U);
    /* a hang-up is always reported: nobody wants to hear of it while a frame is held */
    bool off = b->over || (b->hung_up && b->held.type);

    if (!b->io)
        return;
    (void)sd_event_source_set_enabled(b->io, off ? SD_EVENT_OFF : SD_EVENT_ON);
    (void)sd_event_source_set_io_events(b->io, events);
}

/* ---- the end */

static void fail(struct back *b, int r, enum error_class cls, const char *text)
{
    _cleanup_(error_freep) struct error *err = NULL;

    b->over = true;
    (void)error_set_class(&err, (int)cls, r, "%s", text);
    b->ops->on_failed(b->ud, r, err, CODE_LOST);
}

static void break_off(struct back *b)
{
    fail(b, -EPROTO, ERROR_GUEST, "in guest: the stream broke the protocol");
}

static void on_exit_frame(struct back *b, const struct tlv_frame *f)
{
    Nexus__ExitInfo *info =
        (Nexus__ExitInfo *)message_unpack(&nexus__exit_info__descriptor, f->value, f->len);
    int code = info ? info->code : -1;

    if (info)
        message_free(&info->base);
    if (code < 0 || code > 255) {
        break_off(b);
        return;
    }
    b->over = true;
    b->ops->on_exited(b->ud, code);
}

static void on_error_frame(struct back *b, const struct tlv_frame *f)
{
    _cleanup_(error_freep) struct error *err = NULL;
    Nexus__StreamError *e =
        (Nexus__StreamError *)message_unpack(&nexus__stream_error__descriptor, f->value, f->len);
    int r = e ? reply_to_error(e->reply, &err) : 0;
    int code = e ? e->exit_code : -1;

    if (e)
        message_free(&e->base);
    if (r >= 0 || code < 1 || code > 255) {
        break_off(b);
        return;
    }
    b->over = true;
    b->ops->on_failed(b->ud, r, err, code);
}

/* ---- from nexus-vmm. False: stopped or over. */

static bool on_started(struct back *b, const struct tlv_frame *f)
{
    if (f->type != TLV_MESSAGE) {
        break_off(b);
        return false;
    }
    b->started = true;
    b->ops->on_started(b->ud);
    return !b->over;
}

static bool on_output(struct back *b, const struct tlv_frame *f)
{
    bool taken = b->ops->on_output(b->ud, f->type, f->value, f->len);

    if (!taken && !b->over)
        b->held = *f;
    return taken && !b->over;
}

static bool dispatch(struct back *b, const struct tlv_frame *f)
{
    if (!b->started && f->type != TLV_ERROR)
        return on_started(b, f);
    switch (f->type) {
    case TLV_STDOUT:
    case TLV_STDERR:
        return on_output(b, f);
    case TLV_EXIT:
        on_exit_frame(b, f);
        return false;
    case TLV_ERROR:
        on_error_frame(b, f);
        return false;
    default:
        break_off(b);
        return false;
    }
}

static void drain(struct back *b)
{
    struct tlv_frame f;
    int r;

    while ((r = tlv_reader_next(&b->reader, &f)) > 0)
        if (!dispatch(b, &f))
            return;
    if (r < 0)
        break_off(b);
    else
        tlv_reader_trim(&b->reader);
}

void back_resume(struct back *b)
{
    struct tlv_frame f = b->held;

    if (!f.type || b->over)
        return;
    b->held.type = 0;
    b->busy++;
    if (dispatch(b, &f))
        drain(b);
    watch(b);
    leave(b);
}

static void read_some(struct back *b)
{
    static uint8_t bytes[READ_BYTES]; /* one thread; copied before the next read */
    ssize_t n = recv(b->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        fail(b, -ECONNRESET, ERROR_UNAVAILABLE, "the VM of the pod has ended");
        return;
    }
    if (tlv_reader_feed(&b->reader, bytes, (size_t)n) < 0)
        fail(b, -ENOMEM, ERROR_EXHAUSTED, "no memory for a stream");
    else
        drain(b);
}

/* ---- to nexus-vmm */

/* What goes wrong here shows when it is read. */
static void write_out(struct back *b)
{
    while (waiting(b)) {
        ssize_t n = send(b->fd, b->out.data + b->out_done, waiting(b), MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        b->out_done += n < 0 ? waiting(b) : (size_t)n;
    }
    buf_clear(&b->out);
    b->out_done = 0;
}

bool back_has_room(const struct back *b)
{
    return waiting(b) < QUEUE_BYTES;
}

/* Frames of one turn go out together. */
static int put(struct back *b, uint8_t type, const void *p, size_t n)
{
    int r;

    if (b->over)
        return 0;
    if (b->out_done > QUEUE_BYTES / 2) {
        buf_consume(&b->out, b->out_done);
        b->out_done = 0;
    }
    r = tlv_write(&b->out, type, p, n);
    b->full = b->full || !back_has_room(b);
    watch(b);
    return r;
}

int back_input(struct back *b, const uint8_t *p, size_t n)
{
    int r = n == 0 ? put(b, TLV_STDIN, NULL, 0) : 0;

    while (r == 0 && n > 0) {
        size_t piece = min_of(n, (size_t)LIMIT_TLV_DATA_BYTES);

        r = put(b, TLV_STDIN, p, piece);
        p += piece;
        n -= piece;
    }
    return r;
}

int back_resize(struct back *b, uint16_t columns, uint16_t rows)
{
    uint8_t bytes[4];

    be16_store(bytes, columns);
    be16_store(bytes + 2, rows);
    return put(b, TLV_RESIZE, bytes, sizeof(bytes));
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct back *b = userdata;

    b->busy++;
    b->hung_up = b->hung_up || revents & (EPOLLHUP | EPOLLERR);
    if (revents & EPOLLOUT) {
        write_out(b);
        if (b->full && waiting(b) < QUEUE_BYTES / 2) {
            b->full = false;
            b->ops->on_room(b->ud);
        }
    }
    if (!b->over && !b->held.type && revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(b);
    watch(b);
    leave(b);
    return 0;
}

static int connect_to(int dirfd, const char *name, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int n = snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/%s", dirfd, name);

    if (n < 0 || (size_t)n >= sizeof(sa.sun_path) || strchr(name, '/'))
        return error_set(err, -EINVAL, "there is no socket of that name");
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
        return error_set_class(err, ERROR_UNAVAILABLE, -errno,
                               "the VM of the pod cannot be reached: %s", strerror(errno));
    return TAKE_FD(fd);
}

static int write_hello(struct back *b, const Nexus__ControlHello *hello)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;

    m.id = 1;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_HELLO;
    m.hello = (Nexus__ControlHello *)(uintptr_t)hello; /* only read */
    return message_write(&b->out, TLV_MESSAGE, &m.base);
}

int back_new(sd_event *event, int dirfd, const char *name, const Nexus__ControlHello *hello,
             const struct back_ops *ops, void *ud, struct back **ret, struct error **err)
{
    struct back *b = xcalloc(1, sizeof(*b));
    int r;

    b->ops = ops;
    b->ud = ud;
    tlv_reader_init(&b->reader);
    buf_init(&b->out, QUEUE_BYTES + OUT_SLACK);
    r = b->fd = connect_to(dirfd, name, err);
    if (r < 0) {
        back_free(b);
        return r;
    }
    r = write_hello(b, hello);
    if (r >= 0) {
        write_out(b);
        r = sd_event_add_io(event, &b->io, b->fd, EPOLLIN, on_io, b);
    }
    if (r < 0) {
        back_free(b);
        return error_set(err, r, "cannot open a stream: %s", strerror(-r));
    }
    watch(b);
    *ret = b;
    return 0;
}
