/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/vmm-exec.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/vmm-socket.h"
#include "wire/message.h"
#include "wire/reply.h"

#define READ_BYTES (64U << 10) /* per turn: other connections get theirs */

struct vmm_exec {
    int fd; /* owned */
    sd_event_source *io;
    sd_event_source *timer;
    struct tlv_reader reader;
    struct buf request;
    size_t sent;
    struct buf out, err;
    uint64_t dropped;
    uint64_t timeout_ms;
    bool started;
    vmm_exec_fn fn;
    void *userdata;
};

static void exec_free(struct vmm_exec *x)
{
    sd_event_source_disable_unref(x->timer);
    sd_event_source_disable_unref(x->io);
    (void)close_fd(x->fd);
    tlv_reader_done(&x->reader);
    buf_done(&x->request);
    buf_done(&x->out);
    buf_done(&x->err);
    free(x);
}

void vmm_exec_cancel(struct vmm_exec *x)
{
    if (x)
        exec_free(x);
}

static void finish(struct vmm_exec *x, int r, const struct vmm_exec_result *result,
                   const struct error *err)
{
    vmm_exec_fn fn = x->fn;
    void *userdata = x->userdata;

    fn(userdata, r, result, err);
    exec_free(x);
}

static void fail(struct vmm_exec *x, int r, enum error_class cls, const char *text)
{
    _cleanup_(error_freep) struct error *err = NULL;

    (void)error_set_class(&err, (int)cls, r, "%s", text);
    finish(x, r, NULL, err);
}

static void succeed(struct vmm_exec *x, int exit_code)
{
    struct vmm_exec_result result = {
        .out = x->out.data,
        .out_len = x->out.used,
        .err = x->err.data,
        .err_len = x->err.used,
        .dropped = x->dropped,
        .exit_code = exit_code,
    };

    finish(x, 0, &result, NULL);
}

static int collect(struct vmm_exec *x, struct buf *to, const struct tlv_frame *f)
{
    size_t room = LIMIT_EXEC_OUTPUT_BYTES - x->out.used - x->err.used;
    size_t n = min_of((size_t)f->len, room);

    x->dropped += f->len - n;
    return n ? buf_append(to, f->value, n) : 0;
}

/* The last frame of an exec that ran. Always ends it. */
static void on_exit_frame(struct vmm_exec *x, const struct tlv_frame *f)
{
    Nexus__ExitInfo *info =
        (Nexus__ExitInfo *)message_unpack(&nexus__exit_info__descriptor, f->value, f->len);
    int code;

    if (!info) {
        fail(x, -EBADMSG, ERROR_GUEST, "in guest: the exit report cannot be read");
        return;
    }
    code = info->code;
    message_free(&info->base);
    if (code < 0 || code > 255)
        fail(x, -EBADMSG, ERROR_GUEST, "in guest: the exit code is none");
    else
        succeed(x, code);
}

/* The last frame of an exec that did not. Always ends it. */
static void on_error_frame(struct vmm_exec *x, const struct tlv_frame *f)
{
    _cleanup_(error_freep) struct error *err = NULL;
    Nexus__StreamError *e =
        (Nexus__StreamError *)message_unpack(&nexus__stream_error__descriptor, f->value, f->len);
    int code, r;

    if (!e) {
        fail(x, -EBADMSG, ERROR_GUEST, "in guest: the error report cannot be read");
        return;
    }
    code = e->exit_code;
    r = reply_to_error(e->reply, &err);
    message_free(&e->base);
    if (r >= 0)
        r = error_set_class(&err, ERROR_GUEST, -EIO, "in guest: the exec failed without a reason");
    if (code == 126 || code == 127) { /* as a shell tells it: an answer, not a failure of ours */
        const char *text = error_text(err, r);
        (void)buf_append(&x->err, text, strlen(text));
        (void)buf_append(&x->err, "\n", 1);
        succeed(x, code);
        return;
    }
    finish(x, r, NULL, err);
}

/* 1: go on; 0: the exec is gone; errno: the stream is broken. */
static int on_frame(struct vmm_exec *x, const struct tlv_frame *f)
{
    int r;

    if (!x->started) {
        if (f->type == TLV_ERROR) {
            on_error_frame(x, f);
            return 0;
        }
        x->started = f->type == TLV_MESSAGE;
        return x->started ? 1 : -EPROTO;
    }
    switch ((int)f->type) {
    case TLV_STDOUT:
        r = collect(x, &x->out, f);
        return r < 0 ? r : 1;
    case TLV_STDERR:
        r = collect(x, &x->err, f);
        return r < 0 ? r : 1;
    case TLV_EXIT:
        on_exit_frame(x, f);
        return 0;
    case TLV_ERROR:
        on_error_frame(x, f);
        return 0;
    default:
        return -EPROTO;
    }
}

static void read_some(struct vmm_exec *x)
{
    static uint8_t bytes[READ_BYTES]; /* one thread; used up before the next read */
    struct tlv_frame f;
    ssize_t n = read(x->fd, bytes, sizeof(bytes));
    int r;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        fail(x, -ECONNRESET, ERROR_UNAVAILABLE, "the VM ended while the command ran");
        return;
    }
    r = tlv_reader_feed(&x->reader, bytes, (size_t)n);
    while (r >= 0) {
        r = tlv_reader_next(&x->reader, &f);
        if (r == 0)
            return;
        if (r > 0)
            r = on_frame(x, &f);
        if (r == 0)
            return;
    }
    if (r == -ENOMEM)
        fail(x, r, ERROR_EXHAUSTED, "no memory for the command's output");
    else
        fail(x, r, ERROR_GUEST, "in guest: the exec stream broke the protocol");
}

/* A connection that is lost shows when it is read. */
static void send_request(struct vmm_exec *x)
{
    ssize_t n = send(x->fd, x->request.data + x->sent, x->request.used - x->sent, MSG_NOSIGNAL);

    if (n > 0)
        x->sent += (size_t)n;
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct vmm_exec *x = userdata;

    if (revents & EPOLLOUT) {
        send_request(x);
        if (x->sent == x->request.used)
            (void)sd_event_source_set_io_events(x->io, EPOLLIN);
    }
    if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(x);
    return 0;
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct vmm_exec *x = userdata;
    _cleanup_(error_freep) struct error *err = NULL;

    (void)error_set(&err, -ETIMEDOUT, "the command did not end within %llu ms and was killed",
                    (unsigned long long)x->timeout_ms);
    finish(x, -ETIMEDOUT, NULL, err);
    return 0;
}

static int write_request(struct vmm_exec *x, const Nexus__ExecSpec *spec)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__ControlHello hello = NEXUS__CONTROL_HELLO__INIT;

    hello.version = 1;
    hello.role = NEXUS__CONTROL_HELLO__ROLE__EXEC;
    hello.exec = (Nexus__ExecSpec *)(uintptr_t)spec; /* only read */
    m.id = 1;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_HELLO;
    m.hello = &hello;
    return message_write(&x->request, TLV_MESSAGE, &m.base);
}

int vmm_exec_start(sd_event *event, int dirfd, const char *name, const Nexus__ExecSpec *spec,
                   uint64_t timeout_ms, vmm_exec_fn fn, void *userdata, struct vmm_exec **ret,
                   struct error **err)
{
    struct vmm_exec *x = xcalloc(1, sizeof(*x));
    int r;

    x->fd = -EBADF;
    tlv_reader_init(&x->reader);
    buf_init(&x->request, TLV_HEADER_BYTES + LIMIT_TLV_MESSAGE_BYTES);
    buf_init(&x->out, LIMIT_EXEC_OUTPUT_BYTES + LIMIT_ERROR_TEXT_BYTES);
    buf_init(&x->err, LIMIT_EXEC_OUTPUT_BYTES + LIMIT_ERROR_TEXT_BYTES);
    x->fn = fn;
    x->userdata = userdata;
    x->timeout_ms = timeout_ms;
    r = write_request(x, spec);
    if (r < 0) {
        r = error_set_class(err, ERROR_INVALID, r, "the command is too long: over %u bytes",
                            LIMIT_TLV_MESSAGE_BYTES);
        goto fail;
    }
    r = x->fd = vmm_socket_connect(dirfd, name, err);
    if (r < 0)
        goto fail;
    send_request(x); /* into a fresh socket: mostly all of it, and no turn of the loop for it */
    r = sd_event_add_io(event, &x->io, x->fd,
                        x->sent < x->request.used ? EPOLLIN | EPOLLOUT : EPOLLIN, on_io, x);
    if (r >= 0 && timeout_ms)
        r = sd_event_add_time_relative(event, &x->timer, CLOCK_MONOTONIC,
                                       min_of(timeout_ms, (uint64_t)INT64_MAX / 2000) * 1000, 0,
                                       on_timeout, x);
    if (r < 0) {
        r = error_set(err, r, "cannot start an exec: %s", strerror(-r));
        goto fail;
    }
    *ret = x;
    return 0;
fail:
    exec_free(x);
    return r;
}
