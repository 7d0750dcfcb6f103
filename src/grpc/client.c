/* SPDX-License-Identifier: Apache-2.0 */
/* The blocking client: nghttp2 on a socket with poll(2). What arrives for a call that nobody waits for
 * right now is kept in that call's reader. */
#include "grpc/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <nghttp2/nghttp2.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/list.h"
#include "base/numparse.h"
#include "base/str.h"
#include "grpc/frame-internal.h"
#include "grpc/request-internal.h"

#define CONNECT_SECONDS 5
#define READ_BYTES (64U << 10)
#define BUFFERED_BYTES (LIMIT_GRPC_MESSAGE_BYTES + (8U << 20)) /* per call */
#define NO_STATUS (-1)

struct grpc_client {
    nghttp2_session *session; /* owned */
    int fd;                   /* owned */
    struct list calls;
    struct buf out; /* bytes for the socket */
    uint8_t *in;    /* owned, READ_BYTES */
    bool lost;      /* no more I/O */
    char why[96];   /* with lost */
};

struct grpc_client_call {
    struct list in_client;
    struct grpc_client *client; /* NULL once the client is freed */
    int32_t id;
    const ProtobufCMessageDescriptor *type;
    struct grpc_reader in;
    struct buf request; /* framed */
    size_t sent;        /* of request */
    uint64_t deadline_ns;
    int status;      /* enum grpc_status or NO_STATUS */
    char *text;      /* owned; grpc-message, decoded */
    int http_status; /* 0 until known */
    bool closed;     /* nothing more comes */
    bool expired;    /* our clock ended it */
    bool flooded;    /* more arrived than may be kept */
    uint32_t reset_code;
};

/* ---- nghttp2's callbacks */

static struct grpc_client_call *call_of(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

static ssize_t on_read_request(nghttp2_session *session, int32_t id, uint8_t *out, size_t len,
                               uint32_t *flags, nghttp2_data_source *source, void *ud)
{
    struct grpc_client_call *call = source->ptr;
    size_t n = call->request.used - call->sent;

    if (n > len)
        n = len;
    memcpy(out, call->request.data + call->sent, n);
    call->sent += n;
    if (call->sent == call->request.used) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        buf_done(&call->request);
        call->sent = 0;
    }
    return (ssize_t)n;
}

static bool name_is(const uint8_t *name, size_t len, const char *want)
{
    return len == strlen(want) && memcmp(name, want, len) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *ud)
{
    struct grpc_client_call *call = call_of(session, frame->hd.stream_id);
    _cleanup_(freep) char *text = NULL;
    uint32_t number;

    if (!call || value_len > GRPC_MESSAGE_SIZE)
        return 0;
    text = str_ndup((const char *)value, value_len);
    if (name_is(name, name_len, "grpc-status")) {
        call->status = parse_u32(text, INT16_MAX, &number) == 0 ? (int)number : GRPC_UNKNOWN;
    } else if (name_is(name, name_len, "grpc-message")) {
        grpc_message_decode(text);
        free(call->text);
        call->text = TAKE(text);
    } else if (name_is(name, name_len, ":status")) {
        call->http_status = parse_u32(text, 999, &number) == 0 ? (int)number : 0;
    }
    return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
                         size_t len, void *ud)
{
    struct grpc_client_call *call = call_of(session, id);

    if (call && !call->flooded && grpc_reader_feed(&call->in, data, len) < 0) {
        call->flooded = true;
        (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    }
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error_code, void *ud)
{
    struct grpc_client_call *call = call_of(session, id);

    if (call) {
        call->closed = true;
        call->reset_code = error_code;
    }
    return 0;
}

/* ---- connection */

static int make_session(struct grpc_client *c)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20},
    };
    nghttp2_session_callbacks *cb = NULL;
    int r;

    if (nghttp2_session_callbacks_new(&cb) != 0)
        return -ENOMEM;
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    r = nghttp2_session_client_new(&c->session, cb, c);
    nghttp2_session_callbacks_del(cb);
    if (r != 0 ||
        nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, ARRAY_SIZE(settings)) ||
        nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, 4 << 20))
        return -ENOMEM;
    return 0;
}

int grpc_client_new(int fd, struct grpc_client **ret, struct error **err)
{
    _cleanup_(grpc_client_freep) struct grpc_client *c = xcalloc(1, sizeof(*c));
    int flags;

    c->fd = fd;
    list_init(&c->calls);
    buf_init(&c->out, 1U << 20);
    c->in = malloc(READ_BYTES);
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return error_set(err, -errno, "cannot use the connection");
    if (!c->in || make_session(c) < 0)
        return error_set(err, -ENOMEM, "no memory for the connection");
    *ret = TAKE(c);
    return 0;
}

int grpc_client_connect_unix(const char *path, struct grpc_client **ret, struct error **err)
{
    const struct timeval patience = {.tv_sec = CONNECT_SECONDS};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    _cleanup_(closep) int fd = -EBADF;

    if (strlen(path) >= sizeof(addr.sun_path))
        return error_set(err, -ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        return error_set(err, -errno, "cannot connect to %s: %s", path, strerror(errno));
    return grpc_client_new(TAKE_FD(fd), ret, err);
}

void grpc_client_free(struct grpc_client *c)
{
    if (!c)
        return;
    while (!list_is_empty(&c->calls)) {
        struct grpc_client_call *call = list_first(&c->calls, struct grpc_client_call, in_client);
        list_remove(&call->in_client);
        call->client = NULL;
    }
    nghttp2_session_del(c->session);
    (void)close_fd(c->fd);
    buf_done(&c->out);
    free(c->in);
    free(c);
}

int grpc_client_fd(const struct grpc_client *c)
{
    return c->fd;
}

__attribute__((format(printf, 2, 3))) static void client_lost(struct grpc_client *c,
                                                              const char *fmt, ...)
{
    va_list ap;

    if (c->lost)
        return;
    c->lost = true;
    va_start(ap, fmt);
    (void)vsnprintf(c->why, sizeof(c->why), fmt, ap);
    va_end(ap);
}

/* Writes what there is to write and the socket takes. */
static void client_write(struct grpc_client *c)
{
    while (!c->lost) {
        ssize_t n;

        while (c->out.used < READ_BYTES) {
            const uint8_t *p;

            n = nghttp2_session_mem_send(c->session, &p);
            if (n < 0 || (n > 0 && buf_append(&c->out, p, (size_t)n) < 0)) {
                client_lost(c, "no memory for the connection");
                return;
            }
            if (n == 0)
                break;
        }
        if (c->out.used == 0)
            return;
        n = send(c->fd, c->out.data, c->out.used, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR)
                client_lost(c, "the connection broke: %s", strerror(errno));
            return;
        }
        buf_consume(&c->out, (size_t)n);
    }
}

static void client_read(struct grpc_client *c)
{
    ssize_t n = recv(c->fd, c->in, READ_BYTES, 0);

    if (n == 0) {
        client_lost(c, "the server closed the connection");
    } else if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            client_lost(c, "the connection broke: %s", strerror(errno));
    } else {
        n = nghttp2_session_mem_recv(c->session, c->in, (size_t)n);
        if (n < 0)
            client_lost(c, "the server does not speak HTTP/2 (%s)", nghttp2_strerror((int)n));
    }
}

/* One round of I/O, waiting until until_ns at most. False: that time came first. */
static bool client_turn(struct grpc_client *c, uint64_t until_ns)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    struct timespec wait = {0};
    uint64_t now;
    int n;

    client_write(c);
    if (c->lost)
        return true;
    if (c->out.used > 0)
        p.events |= POLLOUT;
    now = clock_mono_ns();
    if (until_ns > now) {
        wait.tv_sec = (time_t)((until_ns - now) / 1000000000);
        wait.tv_nsec = (long)((until_ns - now) % 1000000000);
    }
    n = ppoll(&p, 1, until_ns == UINT64_MAX ? NULL : &wait, NULL);
    if (n < 0 && errno != EINTR)
        client_lost(c, "cannot wait: %s", strerror(errno));
    if (n > 0 && (p.revents & (POLLIN | POLLHUP | POLLERR)))
        client_read(c);
    client_write(c);
    /* GOAWAY came, or ours went because of what came */
    if (c->out.used == 0 && !nghttp2_session_want_read(c->session) &&
        !nghttp2_session_want_write(c->session))
        client_lost(c, "the connection ended: the server left, or does not speak HTTP/2");
    return n != 0;
}

/* ---- calls */

#define NV(n, v)                                                                   \
    {                                                                              \
        .name = (uint8_t *)(uintptr_t)(n), .value = (uint8_t *)(uintptr_t)(v),     \
        .namelen = strlen(n), .valuelen = strlen(v), .flags = NGHTTP2_NV_FLAG_NONE \
    }

static int call_pack(struct grpc_client_call *call, const ProtobufCMessage *request,
                     struct error **err)
{
    size_t len = protobuf_c_message_get_packed_size(request);
    uint8_t *p;

    if (len > LIMIT_GRPC_MESSAGE_BYTES)
        return error_set(err, -EMSGSIZE, "the request is larger than %u bytes",
                         LIMIT_GRPC_MESSAGE_BYTES);
    buf_init(&call->request, len + GRPC_FRAME_HEADER_BYTES);
    p = buf_reserve(&call->request, len + GRPC_FRAME_HEADER_BYTES);
    if (!p)
        return error_set(err, -ENOMEM, "no memory for the request");
    grpc_frame_header(p, (uint32_t)len);
    (void)protobuf_c_message_pack(request, p + GRPC_FRAME_HEADER_BYTES);
    call->request.used = len + GRPC_FRAME_HEADER_BYTES;
    return 0;
}

int grpc_client_start(struct grpc_client *c, const char *method, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *response_type, int64_t timeout_ms,
                      struct grpc_client_call **ret, struct error **err)
{
    _cleanup_(grpc_client_call_freep) struct grpc_client_call *call = xcalloc(1, sizeof(*call));
    char timeout[16] = "";
    nghttp2_nv nv[] = {
        NV(":method", "POST"),
        NV(":scheme", "http"),
        NV(":path", method),
        NV(":authority", "localhost"),
        NV("te", "trailers"),
        NV("content-type", "application/grpc"),
        NV("user-agent", "nexus/" NEXUS_VERSION),
        NV("grpc-timeout", timeout),
    };
    nghttp2_data_provider data = {.source.ptr = call, .read_callback = on_read_request};
    size_t n = ARRAY_SIZE(nv) - 1;
    int r;

    call->type = response_type;
    call->status = NO_STATUS;
    call->deadline_ns = UINT64_MAX;
    grpc_reader_init(&call->in, LIMIT_GRPC_MESSAGE_BYTES, BUFFERED_BYTES);
    r = call_pack(call, request, err);
    if (r < 0)
        return r;
    if (timeout_ms >= 0) {
        grpc_timeout_format((uint64_t)timeout_ms, timeout);
        nv[n++].valuelen = strlen(timeout);
        call->deadline_ns = clock_mono_ns() + (uint64_t)timeout_ms * 1000000;
    }
    if (c->lost)
        return error_set_class(err, ERROR_UNAVAILABLE, -ECONNRESET, "%s", c->why);
    call->id = nghttp2_submit_request(c->session, NULL, nv, n, &data, call);
    if (call->id < 0)
        return error_set_class(err, ERROR_UNAVAILABLE, -ECONNRESET, "cannot start the call: %s",
                               nghttp2_strerror(call->id));
    call->client = c;
    list_append(&c->calls, &call->in_client);
    client_write(c);
    *ret = TAKE(call);
    return 0;
}

static int call_unpack(struct grpc_client_call *call, const uint8_t *bytes, size_t len,
                       ProtobufCMessage **ret, struct error **err)
{
    static const uint8_t nothing[1];
    ProtobufCMessage *m = protobuf_c_message_unpack(call->type, NULL, len, len ? bytes : nothing);

    if (!m)
        return error_set_class(err, ERROR_INTERNAL, -EBADMSG, "the server's answer is no valid %s",
                               call->type->short_name);
    *ret = m;
    return 1;
}

/* Why a stream without grpc-status ended. */
static enum grpc_status status_of_reset(uint32_t code)
{
    switch (code) {
    case NGHTTP2_CANCEL:
        return GRPC_CANCELLED;
    case NGHTTP2_REFUSED_STREAM:
        return GRPC_UNAVAILABLE;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return GRPC_RESOURCE_EXHAUSTED;
    default:
        return GRPC_INTERNAL;
    }
}

/* The end of a call: 0 with OK, else its error. */
static int call_result(const struct grpc_client_call *call, struct error **err)
{
    enum grpc_status st;

    if (call->expired)
        return error_set_class(err, ERROR_DEADLINE, -ETIMEDOUT, "no answer in time");
    if (call->flooded)
        return error_set_class(err, ERROR_EXHAUSTED, -EMSGSIZE,
                               "the server sent more than could be kept");
    if (call->status == NO_STATUS) {
        if (call->client && call->client->lost)
            return error_set_class(err, ERROR_UNAVAILABLE, -ECONNRESET, "%s", call->client->why);
        if (call->http_status && call->http_status != 200)
            return error_set_class(err, ERROR_INTERNAL, -EPROTO, "the server answered HTTP %d",
                                   call->http_status);
        st = status_of_reset(call->reset_code);
        return error_set_class(err, (int)grpc_status_to_class(st), -grpc_status_to_errno(st),
                               "the server ended the call without a status (HTTP/2 error %u)",
                               call->reset_code);
    }
    st = (enum grpc_status)call->status;
    if (st == GRPC_OK) {
        if (grpc_reader_pending(&call->in) > 0)
            return error_set_class(err, ERROR_INTERNAL, -EPROTO,
                                   "the answer ends inside a message");
        return 0;
    }
    return error_set_class(err, (int)grpc_status_to_class(st), -grpc_status_to_errno(st), "%s",
                           call->text && *call->text ? call->text : grpc_status_name(st));
}

static void call_expire(struct grpc_client_call *call)
{
    call->expired = call->closed = true;
    (void)nghttp2_submit_rst_stream(call->client->session, NGHTTP2_FLAG_NONE, call->id,
                                    NGHTTP2_CANCEL);
    client_write(call->client);
}

int grpc_client_next(struct grpc_client_call *call, int64_t wait_ms, ProtobufCMessage **ret,
                     struct error **err)
{
    uint64_t until = wait_ms < 0 ? UINT64_MAX : clock_mono_ns() + (uint64_t)wait_ms * 1000000;

    for (;;) {
        const uint8_t *bytes;
        size_t len;
        int r = call->expired || call->flooded ? 0 : grpc_reader_next(&call->in, &bytes, &len);

        if (r == 1)
            return call_unpack(call, bytes, len, ret, err);
        if (r < 0)
            return error_set_class(err, ERROR_INTERNAL, r, "the server's answer is not gRPC");
        if (call->closed || !call->client || call->client->lost)
            return call_result(call, err);
        if (!client_turn(call->client, until < call->deadline_ns ? until : call->deadline_ns)) {
            if (clock_mono_ns() >= call->deadline_ns)
                call_expire(call);
            else if (clock_mono_ns() >= until)
                return -EAGAIN;
        }
    }
}

void grpc_client_call_free(struct grpc_client_call *call)
{
    if (!call)
        return;
    if (call->client) {
        list_remove(&call->in_client);
        (void)nghttp2_session_set_stream_user_data(call->client->session, call->id, NULL);
        if (!call->closed && !call->client->lost) {
            (void)nghttp2_submit_rst_stream(call->client->session, NGHTTP2_FLAG_NONE, call->id,
                                            NGHTTP2_CANCEL);
            client_write(call->client);
        }
    }
    grpc_reader_done(&call->in);
    buf_done(&call->request);
    free(call->text);
    free(call);
}

int grpc_client_unary(struct grpc_client *c, const char *method, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *response_type, int64_t timeout_ms,
                      ProtobufCMessage **ret, struct error **err)
{
    _cleanup_(grpc_client_call_freep) struct grpc_client_call *call = NULL;
    ProtobufCMessage *m = NULL, *second = NULL;
    int r = grpc_client_start(c, method, request, response_type, timeout_ms, &call, err);

    if (r < 0)
        return r;
    r = grpc_client_next(call, -1, &m, err);
    if (r < 0)
        return r;
    if (r == 0)
        return error_set_class(err, ERROR_INTERNAL, -EPROTO, "the answer has no message");
    r = grpc_client_next(call, -1, &second, err);
    if (r == 0) {
        *ret = m;
        return 0;
    }
    protobuf_c_message_free_unpacked(m, NULL);
    if (r > 0) {
        protobuf_c_message_free_unpacked(second, NULL);
        r = error_set_class(err, ERROR_INTERNAL, -EPROTO, "the answer has two messages");
    }
    return r;
}
