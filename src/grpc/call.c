/* SPDX-License-Identifier: Apache-2.0 */
/* Calls: decoding the request, running the handler, queueing answers. HTTP/2 is in conn.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "grpc/conn-internal.h"
#include "grpc/pb-internal.h"

/* A run of answer bytes. The list node is first: conn.c frees chunks through it. */
struct chunk {
    struct list in_stream;
    size_t len, sent;
    uint8_t data[];
};

#define NV(n, v)                                                               \
    {                                                                          \
        .name = (uint8_t *)(uintptr_t)(n), .value = (uint8_t *)(uintptr_t)(v), \
        .namelen = sizeof(n) - 1, .valuelen = strlen(v),                       \
        .flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE, \
    }
/* The same with a value nghttp2 has to copy. */
#define NV_COPY(n, v)                                                                           \
    {                                                                                           \
        .name = (uint8_t *)(uintptr_t)(n), .value = (uint8_t *)(uintptr_t)(v),                  \
        .namelen = sizeof(n) - 1, .valuelen = strlen(v), .flags = NGHTTP2_NV_FLAG_NO_COPY_NAME, \
    }

/* ---- streams */

void grpc_stream_observe(struct grpc_stream *st, enum grpc_status status, const char *text)
{
    struct grpc_conn *c = st->conn;
    struct grpc_call_info info = {
        .path = st->request.path,
        .status = status,
        .text = text ? text : "",
        .duration_ns = 0,
        .peer = c->peer,
        .traceparent = st->request.traceparent,
    };
    uint64_t now = c->busy ? c->now_ns : clock_mono_ns();

    if (st->observed)
        return;
    st->observed = true;
    if (st->call) { /* the strings went with the call's arena */
        info.path = st->call->path;
        info.traceparent = st->call->traceparent;
    }
    info.duration_ns = now > st->start_ns ? now - st->start_ns : 0;
    log_debug("grpc: %s %s from %s in %llu us%s%s", info.path, grpc_status_name(status), c->peer,
              (unsigned long long)(info.duration_ns / 1000), info.traceparent[0] ? " trace " : "",
              info.traceparent);
    if (c->host.observe)
        c->host.observe(&info, c->host.ud);
}

static void stream_wake(struct grpc_stream *st)
{
    if (!st->conn->busy)
        st->conn->host.wake(st->conn, st->conn->host.ud);
}

/* Frees what only an unanswered request needs; the answer's bytes stay. */
static void stream_release_request(struct grpc_stream *st)
{
    st->conn->inbound_bytes -= st->in.in.used;
    grpc_reader_done(&st->in);
    list_remove(&st->in_queue);
    list_remove(&st->in_blocked);
    arena_free(st->arena);
    st->arena = NULL;
    st->request.path = st->request.traceparent = "";
}

static const char *status_text(enum grpc_status status)
{
    static const char *const numbers[GRPC_STATUS_COUNT] = {
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"};

    return (unsigned)status < GRPC_STATUS_COUNT ? numbers[status] : "2";
}

static void submit_headers(struct grpc_stream *st)
{
    nghttp2_nv nv[] = {NV(":status", "200"), NV("content-type", "application/grpc")};
    nghttp2_data_provider data = {.source.ptr = st, .read_callback = grpc_stream_read};

    st->headers_sent = true;
    (void)nghttp2_submit_response(st->conn->session, st->id, nv, ARRAY_SIZE(nv), &data);
}

/* One HEADERS frame that is the whole answer. */
static void submit_trailers_only(struct grpc_stream *st)
{
    nghttp2_nv nv[5] = {
        NV(":status", st->type_refused ? "415" : "200"),
        NV("content-type", "application/grpc"),
        NV("grpc-status", status_text(st->status)),
    };
    size_t n = 3;

    if (st->text)
        nv[n++] = (nghttp2_nv)NV_COPY("grpc-message", st->text);
    if (st->compressed_refused)
        nv[n++] = (nghttp2_nv)NV("grpc-accept-encoding", "identity");
    st->headers_sent = true;
    (void)nghttp2_submit_response(st->conn->session, st->id, nv, n, NULL);
}

static void submit_trailers(struct grpc_stream *st)
{
    nghttp2_nv nv[2] = {NV("grpc-status", status_text(st->status))};
    size_t n = 1;

    if (st->text)
        nv[n++] = (nghttp2_nv)NV_COPY("grpc-message", st->text);
    (void)nghttp2_submit_trailer(st->conn->session, st->id, nv, n);
}

ssize_t grpc_stream_read(nghttp2_session *session, int32_t id, uint8_t *out, size_t len,
                         uint32_t *flags, nghttp2_data_source *source, void *user_data)
{
    struct grpc_stream *st = source->ptr;
    size_t done = 0;

    while (done < len && !list_is_empty(&st->chunks)) {
        struct chunk *ch = list_first(&st->chunks, struct chunk, in_stream);
        size_t n = ch->len - ch->sent;

        if (n > len - done)
            n = len - done;
        memcpy(out + done, ch->data + ch->sent, n);
        done += n;
        ch->sent += n;
        if (ch->sent < ch->len)
            break;
        st->queued_bytes -= ch->len;
        st->conn->outbound_bytes -= ch->len;
        list_remove(&ch->in_stream);
        free(ch);
    }
    if (list_is_empty(&st->chunks) && st->state == STREAM_ANSWERED) {
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        submit_trailers(st);
        return (ssize_t)done;
    }
    return done ? (ssize_t)done : NGHTTP2_ERR_DEFERRED;
}

/* The answer's end: status and text, after what is queued. */
static void stream_finish(struct grpc_stream *st, enum grpc_status status, const char *text)
{
    char encoded[GRPC_MESSAGE_SIZE];

    grpc_stream_observe(st, status, text);
    st->state = STREAM_ANSWERED;
    st->status = status;
    if (text && grpc_message_encode(text, encoded) > 0)
        st->text = str_dup(encoded);
    stream_release_request(st);
    if (!st->headers_sent && list_is_empty(&st->chunks))
        submit_trailers_only(st);
    else if (!st->headers_sent)
        submit_headers(st);
    else
        (void)nghttp2_session_resume_data(st->conn->session, st->id);
    stream_wake(st);
}

void grpc_stream_fail(struct grpc_stream *st, enum grpc_status status, const char *text)
{
    stream_finish(st, status == GRPC_OK ? GRPC_INTERNAL : status, text);
}

/* ---- requests and handlers */

/* The call takes the stream's arena over. NULL without memory: nothing changed. */
static struct grpc_call *call_new(struct grpc_stream *st)
{
    struct grpc_call *call = arena_alloc(st->arena, sizeof(*call));
    const char *peer = arena_strdup(st->arena, st->conn->peer);

    if (!call || !peer)
        return NULL;
    call->peer = peer;
    call->path = st->request.path;
    call->traceparent = st->request.traceparent;
    call->deadline_ns = st->deadline_ns;
    call->arena = TAKE(st->arena);
    call->stream = st;
    st->call = call;
    return call;
}

static void call_free(struct grpc_call *call)
{
    arena_free(call->arena);
}

void grpc_stream_dispatch(struct grpc_stream *st)
{
    const ProtobufCMessage *request = NULL;
    char why[GRPC_PB_WHY_SIZE];
    struct grpc_call *call;
    const uint8_t *bytes = NULL;
    size_t len = 0;
    int r;

    if (grpc_reader_next(&st->in, &bytes, &len) != 1) { /* it was whole when it became READY */
        grpc_stream_fail(st, GRPC_INTERNAL, "the request is lost");
        return;
    }
    r = grpc_pb_unpack(st->method->method->input, st->arena, bytes, len, &request, why);
    if (r < 0) {
        grpc_stream_fail(st,
                         r == -ENOBUFS  ? GRPC_RESOURCE_EXHAUSTED
                         : r == -EILSEQ ? GRPC_INVALID_ARGUMENT
                                        : GRPC_INTERNAL,
                         why);
        return;
    }
    st->conn->inbound_bytes -= st->in.in.used;
    grpc_reader_done(&st->in);
    call = call_new(st);
    if (!call) {
        grpc_stream_fail(st, GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
        return;
    }
    st->state = STREAM_RUNNING;
    st->method->fn(call, request, st->method->ud);
}

void grpc_stream_detach_call(struct grpc_stream *st)
{
    struct grpc_call *call = st->call;

    if (!call)
        return;
    grpc_stream_observe(st, GRPC_CANCELLED, NULL); /* if nothing was told before */
    st->call = NULL;
    call->stream = NULL;
    if (call->on_cancel)
        list_append(&st->conn->gone, &call->in_gone);
}

void grpc_conn_run_cancels(struct grpc_conn *c)
{
    while (!list_is_empty(&c->gone)) {
        struct grpc_call *call = list_first(&c->gone, struct grpc_call, in_gone);

        list_remove(&call->in_gone);
        call->on_cancel(call, call->cancel_ud);
        call_free(call);
    }
}

void grpc_conn_run_writables(struct grpc_conn *c)
{
    struct list now;
    struct grpc_stream *st, *next;

    list_init(&now);
    list_foreach_safe (st, next, &c->blocked, in_blocked) {
        if (st->queued_bytes > GRPC_STREAM_QUEUE_BYTES / 2 ||
            c->outbound_bytes > LIMIT_GRPC_OUTBOUND_BYTES / 2)
            continue;
        list_remove(&st->in_blocked);
        list_append(&now, &st->in_blocked);
    }
    while (!list_is_empty(&now)) {
        struct grpc_call *call;

        st = list_first(&now, struct grpc_stream, in_blocked);
        list_remove(&st->in_blocked);
        call = st->call;
        if (call && call->on_writable) {
            void (*fn)(struct grpc_call *, void *) = call->on_writable;
            call->on_writable = NULL;
            fn(call, call->writable_ud);
        }
    }
}

/* ---- answers */

/* Queues one message. 0, -EMSGSIZE, -EAGAIN (the connection's queue is full), -ENOMEM. */
static int stream_queue(struct grpc_stream *st, const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m), total = len + GRPC_FRAME_HEADER_BYTES;
    struct chunk *ch;

    if (len > LIMIT_GRPC_MESSAGE_BYTES)
        return -EMSGSIZE;
    if (st->conn->outbound_bytes + total > LIMIT_GRPC_OUTBOUND_BYTES)
        return -EAGAIN;
    ch = malloc(sizeof(*ch) + total);
    if (!ch)
        return -ENOMEM;
    *ch = (struct chunk){.len = total};
    grpc_frame_header(ch->data, (uint32_t)len);
    (void)protobuf_c_message_pack(m, ch->data + GRPC_FRAME_HEADER_BYTES);
    list_append(&st->chunks, &ch->in_stream);
    st->queued_bytes += total;
    st->conn->outbound_bytes += total;
    return 0;
}

static void call_end(struct grpc_call *call, enum grpc_status status, const char *text)
{
    struct grpc_stream *st = call->stream;

    if (st) {
        stream_finish(st, status, text);
        st->call = NULL;
    }
    call_free(call);
}

void grpc_call_reply(struct grpc_call *call, const ProtobufCMessage *response)
{
    struct grpc_stream *st = call->stream;
    int r = st ? stream_queue(st, response) : 0;
    char text[128];

    if (r == 0) {
        call_end(call, GRPC_OK, NULL);
        return;
    }
    if (r == -EMSGSIZE)
        (void)snprintf(text, sizeof(text), "the answer is larger than %u bytes",
                       LIMIT_GRPC_MESSAGE_BYTES);
    else
        (void)snprintf(text, sizeof(text), "the client reads too slowly: its queue is full");
    call_end(call, GRPC_RESOURCE_EXHAUSTED, text);
}

void grpc_call_fail(struct grpc_call *call, enum grpc_status st, const char *text)
{
    call_end(call, st == GRPC_OK ? GRPC_INTERNAL : st, text);
}

void grpc_call_fail_error(struct grpc_call *call, int r, const struct error *err)
{
    grpc_call_fail(call, grpc_status_from_class(error_class_of(err, r)), error_text(err, r));
}

int grpc_call_send(struct grpc_call *call, const ProtobufCMessage *response)
{
    struct grpc_stream *st = call->stream;
    int r;

    if (!st)
        return -ECANCELED;
    r = st->queued_bytes >= GRPC_STREAM_QUEUE_BYTES ? -EAGAIN : stream_queue(st, response);
    if (r == -EAGAIN && !list_is_linked(&st->in_blocked))
        list_append(&st->conn->blocked, &st->in_blocked);
    if (r < 0)
        return r;
    if (st->headers_sent)
        (void)nghttp2_session_resume_data(st->conn->session, st->id);
    else
        submit_headers(st);
    stream_wake(st);
    return 0;
}

void grpc_call_on_writable(struct grpc_call *call, void (*fn)(struct grpc_call *, void *), void *ud)
{
    call->on_writable = fn;
    call->writable_ud = ud;
}

void grpc_call_finish(struct grpc_call *call)
{
    call_end(call, GRPC_OK, NULL);
}

void grpc_call_on_cancel(struct grpc_call *call, void (*fn)(struct grpc_call *, void *), void *ud)
{
    call->on_cancel = fn;
    call->cancel_ud = ud;
}

bool grpc_call_is_gone(const struct grpc_call *call)
{
    return !call->stream;
}

struct arena *grpc_call_arena(struct grpc_call *call)
{
    return call->arena;
}

uint64_t grpc_call_deadline_ns(const struct grpc_call *call)
{
    return call->deadline_ns;
}

const char *grpc_call_peer(const struct grpc_call *call)
{
    return call->peer;
}

const char *grpc_call_traceparent(const struct grpc_call *call)
{
    return call->traceparent;
}

const char *grpc_call_path(const struct grpc_call *call)
{
    return call->path;
}
