/* SPDX-License-Identifier: Apache-2.0 */
/* Frames out are queued whole, each with its descriptors, and sent one sendmsg at a time so that the
 * descriptors travel with their frame. Frames in: one read per turn into a shared buffer, then all
 * whole frames of it. A client freed in a callback lives until the dispatch that called it ends. */
#include "pod/vmm-client.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/buf.h"
#include "base/fdpass.h"
#include "base/limit.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/vmm-socket.h"
#include "wire/message.h"
#include "wire/reply.h"

#define READ_BYTES (64U << 10)
#define QUEUE_BYTES_MAX (8U << 20)

struct vmm_call {
    struct list node;
    struct vmm_client *client; /* borrowed */
    uint64_t id;
    vmm_reply_fn fn; /* NULL: cancelled */
    void *userdata;
    sd_event_source *timer; /* owned */
    unsigned deadline_ms;
};

struct frame {
    struct list node;
    struct buf bytes;
    size_t sent;
    int fds[FDPASS_MAX]; /* owned */
    size_t n_fds;
};

struct vmm_client {
    sd_event *event; /* borrowed: the loop outlives all */
    const struct vmm_client_ops *ops;
    void *userdata;
    int fd; /* owned */
    sd_event_source *io;
    struct tlv_reader reader;
    struct list calls; /* outstanding, oldest first */
    unsigned call_count;
    struct list out; /* frames */
    size_t out_bytes;
    uint64_t last_id;
    bool dispatching; /* a callback of ours is on the stack */
    bool closed;      /* no I/O any more */
    bool freed;       /* by the owner, while dispatching */
};

static void call_free(struct vmm_call *call)
{
    if (list_is_linked(&call->node))
        call->client->call_count--;
    list_remove(&call->node);
    sd_event_source_disable_unref(call->timer);
    free(call);
}

static void frame_free(struct frame *f)
{
    list_remove(&f->node);
    for (size_t i = 0; i < f->n_fds; i++)
        (void)close_fd(f->fds[i]);
    buf_done(&f->bytes);
    free(f);
}

static void close_io(struct vmm_client *c)
{
    c->closed = true;
    c->io = sd_event_source_disable_unref(c->io); /* leaves epoll before the fd is closed */
    c->fd = close_fd(c->fd);
    while (!list_is_empty(&c->out))
        frame_free(list_first(&c->out, struct frame, node));
    c->out_bytes = 0;
}

static void client_destroy(struct vmm_client *c)
{
    close_io(c);
    while (!list_is_empty(&c->calls))
        call_free(list_first(&c->calls, struct vmm_call, node));
    tlv_reader_done(&c->reader);
    free(c);
}

void vmm_client_free(struct vmm_client *c)
{
    if (!c)
        return;
    if (!c->dispatching) {
        client_destroy(c);
        return;
    }
    c->freed = true;
    close_io(c);
}

/* Ends a call with its answer. */
static void call_answer(struct vmm_call *call, int r, const Nexus__VmmState *state,
                        const struct error *err)
{
    vmm_reply_fn fn = call->fn;
    void *userdata = call->userdata;

    call_free(call);
    if (fn)
        fn(userdata, r, state, err);
}

void vmm_client_abort(struct vmm_client *c, const char *why)
{
    _cleanup_(error_freep) struct error *err = NULL;

    if (c->closed)
        return;
    close_io(c);
    (void)error_set(&err, -ECONNRESET, "connection to nexus-vmm: %s", why);
    while (!c->freed && !list_is_empty(&c->calls))
        call_answer(list_first(&c->calls, struct vmm_call, node), -ECONNRESET, NULL, err);
}

/* The connection is over: every call fails, then the owner hears of it. */
static void client_fail(struct vmm_client *c, int r, const char *why)
{
    if (c->closed)
        return;
    vmm_client_abort(c, why);
    if (!c->freed)
        c->ops->on_closed(c->userdata, r, why);
}

static struct vmm_call *find_call(struct vmm_client *c, uint64_t id)
{
    struct vmm_call *call;

    list_foreach (call, &c->calls, node)
        if (call->id == id)
            return call;
    return NULL;
}

static int on_reply(struct vmm_client *c, const Nexus__ControlMessage *m)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct vmm_call *call = find_call(c, m->id);
    int r;

    if (!call) /* after a time-out or a cancel; anything else is of no effect either */
        return 0;
    if (m->body_case == NEXUS__CONTROL_MESSAGE__BODY_STATE) {
        call_answer(call, 0, m->state, NULL);
        return 0;
    }
    r = reply_to_error(m->reply, &err);
    call_answer(call, r, NULL, err);
    return 0;
}

static int on_message(struct vmm_client *c, const struct tlv_frame *f)
{
    Nexus__ControlMessage *m;
    int r = 0;

    if (f->type != TLV_MESSAGE)
        return -EPROTO;
    m = (Nexus__ControlMessage *)message_unpack(&nexus__control_message__descriptor, f->value,
                                                f->len);
    if (!m)
        return -EBADMSG;
    if (m->body_case == NEXUS__CONTROL_MESSAGE__BODY_REPLY ||
        m->body_case == NEXUS__CONTROL_MESSAGE__BODY_STATE)
        r = on_reply(c, m);
    else if (m->body_case == NEXUS__CONTROL_MESSAGE__BODY_EVENT)
        c->ops->on_event(c->userdata, m->event);
    /* anything else comes from a newer nexus-vmm: ignored */
    message_free(&m->base);
    return r;
}

static void read_some(struct vmm_client *c)
{
    static uint8_t bytes[READ_BYTES]; /* one thread; used up before the next read */
    struct tlv_frame f;
    ssize_t n = read(c->fd, bytes, sizeof(bytes));
    int r;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        client_fail(c, n < 0 ? -errno : -ECONNRESET, n < 0 ? strerror(errno) : "closed by it");
        return;
    }
    r = tlv_reader_feed(&c->reader, bytes, (size_t)n);
    while (r >= 0 && !c->closed) {
        r = tlv_reader_next(&c->reader, &f);
        if (r <= 0)
            break;
        r = on_message(c, &f);
    }
    if (r < 0)
        client_fail(c, r, "it broke the protocol");
    else if (!c->closed)
        tlv_reader_trim(&c->reader);
}

/* 1: something is left to send. */
static int send_some(struct vmm_client *c)
{
    while (!list_is_empty(&c->out)) {
        struct frame *f = list_first(&c->out, struct frame, node);
        ssize_t n =
            fdpass_send(c->fd, f->bytes.data + f->sent, f->bytes.used - f->sent, f->fds, f->n_fds);

        if (n == -EAGAIN)
            return 1;
        if (n < 0)
            return (int)n;
        for (size_t i = 0; i < f->n_fds; i++)
            (void)close_fd(f->fds[i]);
        f->n_fds = 0;
        f->sent += (size_t)n;
        c->out_bytes -= (size_t)n;
        if (f->sent == f->bytes.used)
            frame_free(f);
    }
    return 0;
}

static void update_io(struct vmm_client *c)
{
    if (!c->closed)
        (void)sd_event_source_set_io_events(c->io,
                                            list_is_empty(&c->out) ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct vmm_client *c = userdata;
    int r = 0;

    c->dispatching = true;
    if (revents & EPOLLOUT)
        r = send_some(c);
    if (r < 0 && r != -EPIPE && r != -ECONNRESET)
        client_fail(c, r, strerror(-r));
    else if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(c); /* what it said before it closed still counts */
    update_io(c);
    c->dispatching = false;
    if (c->freed)
        client_destroy(c);
    return 0;
}

static int on_call_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct vmm_call *call = userdata;
    struct vmm_client *c = call->client;

    (void)error_set(&err, -ETIMEDOUT, "no answer from nexus-vmm within %u ms", call->deadline_ms);
    c->dispatching = true;
    call_answer(call, -ETIMEDOUT, NULL, err);
    c->dispatching = false;
    if (c->freed)
        client_destroy(c);
    return 0;
}

static int frame_add_fds(struct frame *f, const int *fds, size_t n_fds)
{
    for (size_t i = 0; i < n_fds; i++) {
        int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
            return -errno;
        f->fds[f->n_fds++] = fd;
    }
    return 0;
}

static int queue_message(struct vmm_client *c, Nexus__ControlMessage *m, const int *fds,
                         size_t n_fds)
{
    struct frame *f;
    int r;

    if (n_fds > FDPASS_MAX)
        return -E2BIG;
    f = xcalloc(1, sizeof(*f));
    list_init(&f->node);
    buf_init(&f->bytes, TLV_HEADER_BYTES + LIMIT_TLV_MESSAGE_BYTES);
    m->n_fds = (uint32_t)n_fds;
    r = message_write(&f->bytes, TLV_MESSAGE, &m->base);
    if (r >= 0 && c->out_bytes + f->bytes.used > QUEUE_BYTES_MAX)
        r = -ENOBUFS;
    if (r >= 0)
        r = frame_add_fds(f, fds, n_fds);
    if (r < 0) {
        frame_free(f);
        return r;
    }
    list_append(&c->out, &f->node);
    c->out_bytes += f->bytes.used;
    update_io(c);
    return 0;
}

int vmm_client_call(struct vmm_client *c, Nexus__ControlMessage *m, const int *fds, size_t n_fds,
                    unsigned deadline_ms, vmm_reply_fn fn, void *userdata, struct vmm_call **ret,
                    struct error **err)
{
    struct vmm_call *call;
    int r;

    if (c->closed)
        return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN, "not connected to nexus-vmm");
    if (c->call_count >= LIMIT_AGENT_REQUESTS)
        return error_set(err, -E2BIG, "%u requests to nexus-vmm are unanswered", c->call_count);
    m->id = ++c->last_id;
    r = queue_message(c, m, fds, n_fds);
    if (r < 0)
        return error_set(err, r, "cannot send a request to nexus-vmm: %s", strerror(-r));
    call = xcalloc(1, sizeof(*call));
    call->client = c;
    call->id = m->id;
    call->fn = fn;
    call->userdata = userdata;
    call->deadline_ms = deadline_ms;
    list_append(&c->calls, &call->node);
    c->call_count++;
    r = deadline_ms ? sd_event_add_time_relative(c->event, &call->timer, CLOCK_MONOTONIC,
                                                 deadline_ms * 1000ULL, 0, on_call_deadline, call)
                    : 0;
    if (r < 0) {
        call_free(call);
        return error_set(err, r, "cannot set a deadline: %s", strerror(-r));
    }
    if (ret)
        *ret = call;
    return 0;
}

void vmm_call_cancel(struct vmm_call *call)
{
    if (call)
        call_free(call);
}

int vmm_client_connect(sd_event *event, int dirfd, const char *name, unsigned hello_deadline_ms,
                       const struct vmm_client_ops *ops, vmm_reply_fn on_hello, void *userdata,
                       struct vmm_client **ret, struct error **err)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;
    _cleanup_(vmm_client_freep) struct vmm_client *c = xcalloc(1, sizeof(*c));
    int r;

    list_init(&c->calls);
    list_init(&c->out);
    tlv_reader_init(&c->reader);
    c->event = event;
    c->ops = ops;
    c->userdata = userdata;
    c->fd = vmm_socket_connect(dirfd, name, err);
    if (c->fd < 0)
        return c->fd;
    r = sd_event_add_io(event, &c->io, c->fd, EPOLLIN, on_io, c);
    if (r < 0)
        return error_set(err, r, "cannot watch the connection to nexus-vmm: %s", strerror(-r));
    hello.version = 1;
    hello.role = NEXUS__CONTROL_HELLO__ROLE__CONTROL;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_HELLO;
    m.hello = &hello;
    r = vmm_client_call(c, &m, NULL, 0, hello_deadline_ms, on_hello, userdata, NULL, err);
    if (r < 0)
        return r;
    *ret = TAKE(c);
    return 0;
}
