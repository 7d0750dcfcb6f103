/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/attach.h"

#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/limit.h"
#include "base/str.h"
#include "event/loop.h"
#include "vmm/container.h"
#include "vmm/frame-queue.h"
#include "vmm/stream.h"
#include "wire/message.h"
#include "wire/reply.h"

#define READ_BYTES 8192
#define LAST_MS 30000 /* for the client to read what is left */
#define EXIT_CODE_LOST 255

struct attach {
    struct list node;            /* of the container's list */
    struct container *container; /* NULL: over */
    struct loop *loop;
    const struct attach_ops *ops;
    void *ud;
    int fd;                    /* owned */
    struct loop_source *io;    /* owned, as are the others */
    struct loop_source *later; /* at the end of a turn: write; the last callback */
    struct loop_source *timer; /* patience, then the time for what is left */
    struct tlv_reader reader;
    struct tlv_frame held; /* refused by the container's stdin; type 0: none */
    struct frame_queue queue;
    bool stdin_open; /* STDIN frames are welcome */
    bool took;       /* the frame that the container holds */
    bool waits;      /* it was offered and there is no room */
    bool last, gone;
};

struct attach *attach_of_node(struct list *node)
{
    return list_entry(node, struct attach, node);
}

static void watch(struct attach *a)
{
    unsigned events = LOOP_HANGUP;

    if (a->gone)
        return;
    if (!frame_queue_is_empty(&a->queue))
        events |= LOOP_WRITE;
    if (!a->held.type)
        events |= LOOP_READ;
    (void)loop_io_set(a->io, events);
}

/* Off the container, which goes on. From the loop only: the container may be walking its list. */
static void detach(struct attach *a)
{
    struct container *c = TAKE(a->container);

    if (!c)
        return;
    list_remove(&a->node);
    a->held.type = 0;
    container_attach_left(c, a->stdin_open, a->waits);
}

static void set_gone(struct attach *a)
{
    if (a->gone)
        return;
    a->gone = true;
    loop_remove(TAKE(a->io));
    a->fd = close_fd(a->fd);
    loop_defer_arm(a->later);
}

static void write_client(struct attach *a)
{
    const uint8_t *p;
    size_t len;

    while (!a->gone && (len = frame_queue_peek(&a->queue, &p)) > 0) {
        ssize_t n = send(a->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            set_gone(a);
            return;
        }
        frame_queue_consume(&a->queue, (size_t)n);
    }
    if (!a->gone && a->last && frame_queue_is_empty(&a->queue))
        set_gone(a);
}

static void push_last(struct attach *a, uint8_t type, const ProtobufCMessage *m)
{
    uint8_t bytes[8192];
    size_t len = protobuf_c_message_get_packed_size(m);

    if (a->last || a->gone)
        return;
    if (len > sizeof(bytes) ||
        frame_queue_push_last(&a->queue, type, bytes, protobuf_c_message_pack(m, bytes)) < 0) {
        set_gone(a);
        return;
    }
    a->last = true;
    loop_timer_set_after_ms(a->timer, LAST_MS);
    loop_defer_arm(a->later);
}

static void fail(struct attach *a, int r, enum error_class cls, const char *text)
{
    _cleanup_(error_freep) struct error *err = NULL;
    Nexus__StreamError m = NEXUS__STREAM_ERROR__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;

    (void)error_set_class(&err, (int)cls, r, "%s", text);
    reply_from_error(&reply, r, err);
    m.reply = &reply;
    m.exit_code = EXIT_CODE_LOST;
    push_last(a, TLV_ERROR, &m.base);
}

/* ---- the container's side */

bool attach_output(struct attach *a, uint8_t type, const uint8_t *p, uint32_t n)
{
    int r = 0;

    if (a->took || a->last || a->gone)
        return true;
    if (frame_queue_is_full(&a->queue))
        write_client(a);
    if (!a->gone)
        r = frame_queue_push(&a->queue, type, p, n);
    if (r == -EAGAIN) {
        if (!a->waits)
            loop_timer_set_after_ms(a->timer, LIMIT_ATTACH_PATIENCE_S * 1000);
        a->waits = true;
        watch(a);
        return false;
    }
    if (a->waits)
        loop_timer_set(a->timer, UINT64_MAX);
    a->waits = false;
    a->took = true;
    if (r < 0)
        set_gone(a);
    else
        loop_defer_arm(a->later);
    return true;
}

void attach_next(struct attach *a)
{
    a->took = false;
}

void attach_end(struct attach *a, const Nexus__ExitInfo *exit)
{
    a->container = NULL;
    list_remove(&a->node);
    a->held.type = 0;
    a->waits = false;
    if (exit)
        push_last(a, TLV_EXIT, &exit->base);
    else
        fail(a, -ECONNRESET, ERROR_UNAVAILABLE, "the container is no more");
}

/* ---- from the client */

/* 0; -EAGAIN: the stdin is full; -EPROTO. */
static int to_container(struct attach *a, const struct tlv_frame *f)
{
    bool is_eof = f->type == TLV_STDIN && f->len == 0;
    int r;

    if (f->type == TLV_STDIN ? !a->stdin_open : f->type != TLV_RESIZE || f->len != 4)
        return -EPROTO;
    if (!a->container)
        return 0;
    r = is_eof ? container_input_over(a->container)
               : container_input(a->container, f->type, f->value, f->len);
    if (r == 0 && is_eof)
        a->stdin_open = false;
    return r;
}

static void drain_client(struct attach *a)
{
    struct tlv_frame f;
    int r;

    while (!a->held.type && !a->gone && !a->last && (r = tlv_reader_next(&a->reader, &f)) != 0) {
        if (r > 0)
            r = to_container(a, &f);
        if (r == -EAGAIN)
            a->held = f;
        else if (r < 0)
            fail(a, -EPROTO, ERROR_INVALID, "the client of an attach broke the protocol");
    }
    if (!a->held.type)
        tlv_reader_trim(&a->reader);
    watch(a);
}

void attach_room(struct attach *a)
{
    struct tlv_frame f = a->held;

    if (!f.type)
        return;
    a->held.type = 0;
    if (to_container(a, &f) == -EAGAIN)
        a->held = f;
    else
        drain_client(a);
}

static void read_client(struct attach *a)
{
    uint8_t bytes[READ_BYTES];
    ssize_t n = recv(a->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || (!a->last && tlv_reader_feed(&a->reader, bytes, (size_t)n) < 0)) {
        set_gone(a);
        return;
    }
    if (!a->last)
        drain_client(a);
}

static void serve_client(struct attach *a)
{
    write_client(a);
    if (a->waits && a->container && a->queue.frames <= LIMIT_TLV_QUEUE_FRAMES / 2)
        container_resume_output(a->container);
}

static void on_client_io(struct loop_source *source, int fd, unsigned events, void *ud)
{
    struct attach *a = ud;

    if (events & LOOP_HANGUP) {
        set_gone(a);
        return;
    }
    if (events & LOOP_WRITE)
        serve_client(a);
    if ((events & LOOP_READ) && !a->gone)
        read_client(a);
    watch(a);
}

static void on_later(struct loop_source *source, void *ud)
{
    struct attach *a = ud;

    if (a->gone || a->last)
        detach(a);
    if (a->gone) {
        a->ops->on_gone(a->ud, a);
        return;
    }
    serve_client(a);
    if (!a->gone && !a->last)
        drain_client(a);
    watch(a);
}

static void on_timer(struct loop_source *source, void *ud)
{
    struct attach *a = ud;

    if (a->last)
        set_gone(a);
    else if (a->waits)
        fail(a, -ETIMEDOUT, ERROR_DEADLINE,
             "the client reads too slowly: the container does not wait for it any longer");
}

/* ---- life */

static int set_up(struct attach *a, int fd, uint32_t pid)
{
    Nexus__StreamStarted m = NEXUS__STREAM_STARTED__INIT;
    uint8_t bytes[64];
    int r = loop_add_defer(a->loop, on_later, a, &a->later);

    if (r == 0)
        r = loop_add_timer(a->loop, on_timer, a, &a->timer);
    if (r == 0)
        r = loop_add_io(a->loop, fd, LOOP_READ, on_client_io, a, &a->io);
    if (r < 0)
        return r;
    m.pid = pid;
    return frame_queue_push(&a->queue, TLV_MESSAGE, bytes, protobuf_c_message_pack(&m.base, bytes));
}

int attach_new(struct loop *loop, int fd, struct tlv_reader *reader, struct container *c,
               bool open_stdin, const struct attach_ops *ops, void *ud, struct attach **ret)
{
    struct attach *a = xcalloc(1, sizeof(*a));
    int r;

    a->loop = loop;
    a->ops = ops;
    a->ud = ud;
    a->fd = -EBADF;
    a->stdin_open = open_stdin;
    a->reader = *reader;
    tlv_reader_init(reader);
    tlv_reader_set_max(&a->reader, LIMIT_TLV_DATA_BYTES);
    frame_queue_init(&a->queue);
    list_init(&a->node);
    r = set_up(a, fd, c->pid);
    if (r < 0) {
        _cleanup_(error_freep) struct error *err = NULL;

        attach_free(a);
        r = error_set(&err, r, "cannot attach to the container");
        stream_refuse(fd, r, err);
        return r;
    }
    a->fd = fd;
    a->container = c;
    a->took = container_add_attach(c, &a->node);
    loop_defer_arm(a->later);
    *ret = a;
    return 0;
}

void attach_free(struct attach *a)
{
    if (!a)
        return;
    list_remove(&a->node);
    loop_remove(a->io);
    loop_remove(a->later);
    loop_remove(a->timer);
    (void)close_fd(a->fd);
    tlv_reader_done(&a->reader);
    frame_queue_done(&a->queue);
    free(a);
}
