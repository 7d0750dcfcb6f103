/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/2 of one connection: nghttp2's callbacks turned into streams. Answers are in call.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "grpc/conn-internal.h"

#define MAX_CONTINUATIONS 8
#define MAX_SETTINGS 32
#define MAX_OUTBOUND_ACK 100
#define RESET_BURST 1000
#define RESET_PER_SECOND 33

static const uint8_t drain_ping[8] = {'n', 'e', 'x', 'u', 's', 'b', 'y', 'e'};

/* ---- streams */

static void stream_drop_request(struct grpc_stream *st)
{
    st->conn->inbound_bytes -= st->in.in.used;
    grpc_reader_done(&st->in);
}

static int stream_new(struct grpc_conn *c, int32_t id)
{
    struct grpc_stream *st = calloc(1, sizeof(*st));

    if (!st)
        return -ENOMEM;
    st->conn = c;
    st->id = id;
    st->arena = arena_new(LIMIT_GRPC_ARENA_BYTES);
    st->start_ns = c->now_ns;
    st->deadline_ns = UINT64_MAX;
    list_init(&st->chunks);
    grpc_request_init(&st->request, st->arena);
    /* one byte more than one message: a second message shows */
    grpc_reader_init(&st->in, LIMIT_GRPC_MESSAGE_BYTES,
                     LIMIT_GRPC_MESSAGE_BYTES + GRPC_FRAME_HEADER_BYTES + 65536);
    list_append(&c->streams, &st->in_conn);
    c->stream_count++;
    c->calls_started++;
    (void)nghttp2_session_set_stream_user_data(c->session, id, st);
    return 0;
}

/* Round robin between the streams' answers, or a long one would hold up all short ones. */
static void stream_share_fairly(struct grpc_conn *c, int32_t id)
{
    const nghttp2_extpri pri = {.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1};

    (void)nghttp2_session_change_extpri_stream_priority(c->session, id, &pri,
                                                        /* ignore_client_signal= */ 1);
}

static void stream_headers_done(struct grpc_stream *st)
{
    enum grpc_verdict verdict = grpc_request_check(&st->request);

    st->state = STREAM_BODY;
    stream_share_fairly(st->conn, st->id);
    if (verdict == GRPC_REQUEST_RESET) {
        (void)nghttp2_submit_rst_stream(st->conn->session, NGHTTP2_FLAG_NONE, st->id,
                                        NGHTTP2_PROTOCOL_ERROR);
        grpc_stream_observe(st, GRPC_INTERNAL, "malformed request headers");
        st->state = STREAM_ANSWERED;
        return;
    }
    if (verdict == GRPC_REQUEST_TYPE) {
        st->type_refused = true;
        grpc_stream_fail(st, GRPC_INTERNAL, "content-type is not application/grpc");
        return;
    }
    if (verdict == GRPC_REQUEST_STATUS) {
        grpc_stream_fail(st, st->request.status, st->request.text);
        return;
    }
    if (st->request.timeout_ns != UINT64_MAX &&
        !checked_add(st->start_ns, st->request.timeout_ns, &st->deadline_ns))
        st->deadline_ns = UINT64_MAX;
    if (st->deadline_ns < st->conn->next_ns)
        st->conn->next_ns = st->deadline_ns;
    st->method = grpc_services_find(st->conn->services, st->request.path);
    if (!st->method || !st->method->fn) {
        _cleanup_(freep) char *text =
            str_printf("%s is not offered here", st->request.path[0] ? st->request.path : "\"\"");
        grpc_stream_fail(st, GRPC_UNIMPLEMENTED, text);
    }
}

/* What the message reader says about a request that is not good. */
static void stream_refuse_body(struct grpc_stream *st, int r)
{
    char text[96];

    if (r == -EMSGSIZE) {
        (void)snprintf(text, sizeof(text), "the request is larger than %u bytes",
                       LIMIT_GRPC_MESSAGE_BYTES);
        grpc_stream_fail(st, GRPC_RESOURCE_EXHAUSTED, text);
    } else if (r == -EOPNOTSUPP) {
        st->compressed_refused = true;
        grpc_stream_fail(st, GRPC_UNIMPLEMENTED, "compressed requests are not supported");
    } else if (r == -EPROTO) {
        grpc_stream_fail(st, GRPC_INTERNAL, "the request's message flag is neither 0 nor 1");
    } else {
        grpc_stream_fail(st, GRPC_RESOURCE_EXHAUSTED, "no memory for the request");
    }
}

/* The reader's front without taking it: 1 a whole message, 0 more is needed, or its error. */
static int stream_peek(struct grpc_stream *st)
{
    const uint8_t *bytes;
    size_t len;
    int r = grpc_reader_next(&st->in, &bytes, &len);

    if (r == 1)
        st->in.taken = 0;
    return r;
}

static void stream_body(struct grpc_stream *st, const uint8_t *bytes, size_t len)
{
    size_t before = st->in.in.used;
    int r;

    if (st->state != STREAM_BODY) /* refused already; what still comes is dropped */
        return;
    if (st->conn->inbound_bytes + len > GRPC_INBOUND_BYTES) {
        grpc_stream_fail(st, GRPC_RESOURCE_EXHAUSTED,
                         "too many bytes of unfinished requests on this connection");
        return;
    }
    r = grpc_reader_feed(&st->in, bytes, len);
    st->conn->inbound_bytes += st->in.in.used - before;
    if (r == 0)
        r = stream_peek(st);
    if (r < 0) {
        stream_refuse_body(st, r);
        return;
    }
    if (r == 1 && st->in.in.used > GRPC_FRAME_HEADER_BYTES + grpc_reader_announced(&st->in))
        grpc_stream_fail(st, GRPC_UNIMPLEMENTED, "the method takes one request message, not two");
}

static void stream_end(struct grpc_stream *st)
{
    if (st->state != STREAM_BODY)
        return;
    if (st->in.in.used == 0) {
        grpc_stream_fail(st, GRPC_UNIMPLEMENTED, "the request has no message");
    } else if (stream_peek(st) != 1) {
        grpc_stream_fail(st, GRPC_INTERNAL, "the request ends inside its message");
    } else {
        st->state = STREAM_READY;
        list_append(&st->conn->ready, &st->in_queue);
    }
}

void grpc_stream_free(struct grpc_stream *st)
{
    struct grpc_conn *c = st->conn;

    grpc_stream_observe(st, GRPC_CANCELLED, NULL);
    stream_drop_request(st);
    list_remove(&st->in_conn);
    list_remove(&st->in_queue);
    list_remove(&st->in_blocked);
    while (!list_is_empty(&st->chunks)) {
        struct list *chunk = st->chunks.next;
        list_remove(chunk);
        free(chunk);
    }
    c->outbound_bytes -= st->queued_bytes;
    c->stream_count--;
    arena_free(st->arena);
    free(st->text);
    free(st);
}

/* ---- nghttp2's callbacks */

static struct grpc_stream *stream_of(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *ud)
{
    struct grpc_conn *c = ud;

    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    return stream_new(c, frame->hd.stream_id) < 0 ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *ud)
{
    struct grpc_stream *st = stream_of(session, frame->hd.stream_id);

    if (st && st->state == STREAM_HEADERS)
        grpc_request_header(&st->request, name, name_len, value, value_len);
    return 0; /* trailers of a client are nobody's business */
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *ud)
{
    struct grpc_conn *c = ud;
    struct grpc_stream *st = frame->hd.stream_id ? stream_of(session, frame->hd.stream_id) : NULL;

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (st && st->state == STREAM_HEADERS)
            stream_headers_done(st);
        __attribute__((fallthrough));
    case NGHTTP2_DATA:
        if (st && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
            stream_end(st);
        break;
    case NGHTTP2_SETTINGS:
        c->handshake_ns = UINT64_MAX;
        break;
    case NGHTTP2_GOAWAY:
        c->client_left = true;
        break;
    case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) && c->draining && !c->goaway_sent &&
            memcmp(frame->ping.opaque_data, drain_ping, sizeof(drain_ping)) == 0) {
            c->goaway_sent = true;
            (void)nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE,
                                        nghttp2_session_get_last_proc_stream_id(session),
                                        NGHTTP2_NO_ERROR, NULL, 0);
        }
        break;
    default:
        break;
    }
    return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
                         size_t len, void *ud)
{
    struct grpc_stream *st = stream_of(session, id);

    if (st)
        stream_body(st, data, len);
    return 0;
}

/* An answer that ends before the request did: tell the client to stop sending (RFC 9113 8.1). */
static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *ud)
{
    int32_t id = frame->hd.stream_id;

    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) && stream_of(session, id) &&
        nghttp2_session_get_stream_remote_close(session, id) == 0)
        (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error_code, void *ud)
{
    struct grpc_stream *st = stream_of(session, id);

    if (!st)
        return 0;
    grpc_stream_detach_call(st);
    grpc_stream_free(st);
    return 0;
}

/* ---- life */

static int make_options(nghttp2_option **ret)
{
    nghttp2_option *o = NULL;

    if (nghttp2_option_new(&o) != 0)
        return -ENOMEM;
    nghttp2_option_set_no_http_messaging(o, 1); /* request.c checks; why is said there */
    nghttp2_option_set_no_closed_streams(o, 1);
    nghttp2_option_set_max_settings(o, MAX_SETTINGS);
    nghttp2_option_set_max_outbound_ack(o, MAX_OUTBOUND_ACK);
    nghttp2_option_set_max_continuations(o, MAX_CONTINUATIONS);
    nghttp2_option_set_stream_reset_rate_limit(o, RESET_BURST, RESET_PER_SECOND);
    *ret = o;
    return 0;
}

static int make_session(struct grpc_conn *c)
{
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *o = NULL;
    int r = make_options(&o);

    if (r < 0)
        return r;
    if (nghttp2_session_callbacks_new(&cb) != 0) {
        nghttp2_option_del(o);
        return -ENOMEM;
    }
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    r = nghttp2_session_server_new2(&c->session, cb, c, o);
    nghttp2_session_callbacks_del(cb);
    nghttp2_option_del(o);
    return r != 0 ? -ENOMEM : 0;
}

static int submit_settings(struct grpc_conn *c)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, LIMIT_GRPC_STREAMS},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, GRPC_WINDOW_STREAM_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LIMIT_GRPC_HEADER_LIST_BYTES},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };

    if (nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, ARRAY_SIZE(settings)) !=
            0 ||
        nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0,
                                              GRPC_WINDOW_CONNECTION_BYTES) != 0)
        return -ENOMEM;
    return 0;
}

int grpc_conn_new(const struct grpc_services *services, const struct grpc_conn_host *host,
                  const char *peer, uint64_t now_ns, struct grpc_conn **ret)
{
    _cleanup_(grpc_conn_freep) struct grpc_conn *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    c->services = services;
    c->host = *host;
    c->now_ns = now_ns;
    if (!checked_add(now_ns, (uint64_t)GRPC_HANDSHAKE_NS, &c->handshake_ns))
        c->handshake_ns = UINT64_MAX;
    c->next_ns = c->handshake_ns;
    (void)snprintf(c->peer, sizeof(c->peer), "%s", peer);
    list_init(&c->streams);
    list_init(&c->ready);
    list_init(&c->blocked);
    list_init(&c->gone);
    r = make_session(c);
    if (r == 0)
        r = submit_settings(c);
    if (r < 0)
        return r;
    *ret = TAKE(c);
    return 0;
}

void grpc_conn_free(struct grpc_conn *c)
{
    if (!c)
        return;
    c->busy = true; /* nothing is to be sent any more */
    if (c->streams.next) {
        while (!list_is_empty(&c->streams)) {
            struct grpc_stream *st = list_first(&c->streams, struct grpc_stream, in_conn);
            grpc_stream_detach_call(st);
            grpc_stream_free(st);
        }
        grpc_conn_run_cancels(c);
    }
    nghttp2_session_del(c->session);
    free(c);
}

/* Everything that waits for nghttp2 to be out of the way. */
static void run_queues(struct grpc_conn *c)
{
    grpc_conn_run_cancels(c);
    while (!list_is_empty(&c->ready)) {
        struct grpc_stream *st = list_first(&c->ready, struct grpc_stream, in_queue);
        list_remove(&st->in_queue);
        if (st->deadline_ns <= c->now_ns)
            grpc_stream_fail(st, GRPC_DEADLINE_EXCEEDED, "the deadline passed");
        else
            grpc_stream_dispatch(st);
    }
    grpc_conn_run_writables(c);
}

int grpc_conn_feed(struct grpc_conn *c, const uint8_t *bytes, size_t len, uint64_t now_ns)
{
    ssize_t n;

    c->now_ns = now_ns;
    c->busy = true;
    n = nghttp2_session_mem_recv(c->session, bytes, len);
    run_queues(c);
    c->busy = false;
    if (n < 0) {
        log_debug("grpc: %s: input refused: %s", c->peer, nghttp2_strerror((int)n));
        return n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
    }
    return 0;
}

ssize_t grpc_conn_output(struct grpc_conn *c, const uint8_t **p)
{
    ssize_t n = nghttp2_session_mem_send(c->session, p);

    if (n < 0) {
        log_debug("grpc: %s: no output: %s", c->peer, nghttp2_strerror((int)n));
        return n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
    }
    /* streams may have closed while sending, and queues may have got room */
    if (n == 0 && !c->busy) {
        c->busy = true;
        grpc_conn_run_cancels(c);
        grpc_conn_run_writables(c);
        c->busy = false;
        n = nghttp2_session_mem_send(c->session, p);
        if (n < 0)
            return -EPROTO;
    }
    return n;
}

bool grpc_conn_is_over(const struct grpc_conn *c)
{
    return !nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session);
}

uint64_t grpc_conn_next_deadline(const struct grpc_conn *c)
{
    return c->next_ns;
}

static void stream_expire(struct grpc_conn *c, struct grpc_stream *st)
{
    st->deadline_ns = UINT64_MAX;
    if (st->state == STREAM_ANSWERED) { /* nobody waits for the rest */
        (void)nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, st->id, NGHTTP2_CANCEL);
        return;
    }
    grpc_stream_fail(st, GRPC_DEADLINE_EXCEEDED, "the deadline passed");
    grpc_stream_detach_call(st);
}

int grpc_conn_tick(struct grpc_conn *c, uint64_t now_ns)
{
    struct grpc_stream *st;

    c->now_ns = now_ns;
    if (c->handshake_ns <= now_ns)
        return -ETIMEDOUT;
    c->busy = true;
    c->next_ns = c->handshake_ns;
    list_foreach (st, &c->streams, in_conn) {
        if (st->deadline_ns <= now_ns)
            stream_expire(c, st);
        if (st->deadline_ns < c->next_ns)
            c->next_ns = st->deadline_ns;
    }
    run_queues(c);
    c->busy = false;
    return 0;
}

void grpc_conn_shutdown(struct grpc_conn *c)
{
    if (c->draining)
        return;
    c->draining = true;
    (void)nghttp2_submit_shutdown_notice(c->session);
    (void)nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, drain_ping);
    if (!c->busy)
        c->host.wake(c, c->host.ud);
}
