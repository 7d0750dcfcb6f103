/* SPDX-License-Identifier: Apache-2.0 */
/* grpc/conn and call, without a socket or a clock: nghttp2 as client, bytes carried by hand, time as
 * a number. Life of a call: answered now, later, too late, cancelled, expired; order of callbacks. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limit.h"
#include "base/str.h"
#include "gen/cri/cri.pb-c.h"
#include "grpc/conn-internal.h"
#include "lib/test.h"

#define SECOND 1000000000ULL

struct world {
    struct grpc_services services;
    struct grpc_conn *conn;
    nghttp2_session *client;
    uint64_t now;
    struct grpc_call *call; /* the last one a handler kept */
    int handlers, cancels, writables, wakes, observed;
    enum grpc_status last_observed;
    char last_path[64];
    bool keep_cancel; /* handlers set a cancel handler */
    bool inside;      /* a handler is running: nothing else may */
    int sent;         /* messages of a server stream */
    /* what the client saw, by stream */
    int status[64];
    char text[64][128];
    size_t bytes[64];
    bool closed[64];
    uint32_t reset[64];
    int goaways;
};

/* ---- the client */

static int on_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *ud)
{
    struct world *w = ud;
    char text[128];

    (void)snprintf(text, sizeof(text), "%.*s", (int)value_len, (const char *)value);
    if (strcmp((const char *)name, "grpc-status") == 0)
        w->status[f->hd.stream_id] = (int)strtol(text, NULL, 10);
    if (strcmp((const char *)name, "grpc-message") == 0)
        memcpy(w->text[f->hd.stream_id], text, sizeof(text));
    return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                   void *ud)
{
    struct world *w = ud;

    w->bytes[id] += len;
    return 0;
}

static int on_close(nghttp2_session *s, int32_t id, uint32_t code, void *ud)
{
    struct world *w = ud;

    w->closed[id] = true;
    w->reset[id] = code;
    return 0;
}

static int on_frame(nghttp2_session *s, const nghttp2_frame *f, void *ud)
{
    struct world *w = ud;

    w->goaways += f->hd.type == NGHTTP2_GOAWAY;
    return 0;
}

/* Carries bytes both ways until neither side has any. */
static void pump(struct world *w)
{
    const uint8_t *p;
    ssize_t n;
    bool moved;

    do {
        moved = false;
        while ((n = nghttp2_session_mem_send(w->client, &p)) > 0) {
            moved = true;
            assert_int_equal(grpc_conn_feed(w->conn, p, (size_t)n, w->now), 0);
        }
        while ((n = grpc_conn_output(w->conn, &p)) > 0) {
            moved = true;
            assert_int_equal(nghttp2_session_mem_recv(w->client, p, (size_t)n), n);
        }
    } while (moved);
}

struct body {
    uint8_t bytes[256];
    size_t len;
    bool unfinished; /* the client sends more later */
};

static ssize_t read_body(nghttp2_session *s, int32_t id, uint8_t *out, size_t len, uint32_t *flags,
                         nghttp2_data_source *source, void *ud)
{
    struct body *b = source->ptr;
    size_t n = b->len;

    if (n == 0 && b->unfinished)
        return NGHTTP2_ERR_DEFERRED;
    memcpy(out, b->bytes, n);
    b->len = 0;
    if (!b->unfinished)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

#define NV(n, v)                                                                   \
    {                                                                              \
        .name = (uint8_t *)(uintptr_t)(n), .value = (uint8_t *)(uintptr_t)(v),     \
        .namelen = strlen(n), .valuelen = strlen(v), .flags = NGHTTP2_NV_FLAG_NONE \
    }

/* Starts a call of method; the request is an ExecSyncRequest with container_id = id. */
static int32_t start(struct world *w, struct body *b, const char *method, const char *id,
                     const char *timeout)
{
    char path[96];
    size_t len = strlen(id);
    nghttp2_nv nv[6] = {NV(":method", "POST"), NV(":scheme", "http"), NV(":path", ""),
                        NV("content-type", "application/grpc"), NV("te", "trailers")};
    nghttp2_data_provider data = {.source.ptr = b, .read_callback = read_body};
    size_t n = 5;

    (void)snprintf(path, sizeof(path), "/runtime.v1.RuntimeService/%s", method);
    nv[2] = (nghttp2_nv)NV(":path", path);
    if (timeout)
        nv[n++] = (nghttp2_nv)NV("grpc-timeout", timeout);
    grpc_frame_header(b->bytes, (uint32_t)len + 2);
    b->bytes[5] = 0x0a;
    b->bytes[6] = (uint8_t)len;
    memcpy(b->bytes + 7, id, len);
    b->len = 7 + len;
    return nghttp2_submit_request(w->client, NULL, nv, n, &data, NULL);
}

/* ---- the server */

static void reply(struct grpc_call *call, size_t bytes)
{
    Runtime__V1__ExecSyncResponse r = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;
    _cleanup_(freep) uint8_t *data = calloc(1, bytes + 1);

    r.stdout = (ProtobufCBinaryData){.data = data, .len = bytes};
    grpc_call_reply(call, &r.base);
}

static void on_cancel(struct grpc_call *call, void *ud)
{
    struct world *w = ud;

    assert_false(w->inside);
    w->cancels++;
    w->call = NULL;
}

static void on_exec(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    const Runtime__V1__ExecSyncRequest *rq = (const Runtime__V1__ExecSyncRequest *)request;
    struct world *w = ud;

    assert_false(w->inside);
    w->inside = true;
    w->handlers++;
    if (strcmp(rq->container_id, "keep") == 0) {
        w->call = call;
        if (w->keep_cancel)
            grpc_call_on_cancel(call, on_cancel, w);
    } else if (strcmp(rq->container_id, "big") == 0) {
        reply(call, 10 << 20);
    } else {
        reply(call, 10);
    }
    w->inside = false;
}

static void send_more(struct grpc_call *call, void *ud)
{
    Runtime__V1__ContainerEventResponse r = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;
    struct world *w = ud;
    int res;

    w->writables++;
    r.container_id = calloc(1, 200001);
    memset(r.container_id, 'x', 200000);
    while ((res = grpc_call_send(call, &r.base)) == 0)
        w->sent++;
    free(r.container_id);
    assert_int_equal(res, -EAGAIN);
    grpc_call_on_writable(call, send_more, w);
}

static void on_events(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    struct world *w = ud;

    w->call = call;
    grpc_call_on_cancel(call, on_cancel, w);
    send_more(call, w);
}

static void on_wake(struct grpc_conn *c, void *ud)
{
    struct world *w = ud;

    w->wakes++;
}

static void on_observe(const struct grpc_call_info *info, void *ud)
{
    struct world *w = ud;

    w->observed++;
    w->last_observed = info->status;
    (void)snprintf(w->last_path, sizeof(w->last_path), "%s", info->path);
}

static int set_up(void **state)
{
    static const struct grpc_method methods[] = {
        {"ExecSync", on_exec}, {"GetContainerEvents", on_events}, {NULL, NULL}};
    struct world *w = xcalloc(1, sizeof(*w));
    struct grpc_conn_host host = {.wake = on_wake, .observe = on_observe, .ud = w};
    nghttp2_session_callbacks *cb;
    nghttp2_option *o;

    w->now = SECOND;
    memset(w->status, 0xff, sizeof(w->status));
    grpc_services_init(&w->services);
    assert_int_equal(
        grpc_services_add(&w->services, &runtime__v1__runtime_service__descriptor, methods, w), 0);
    assert_int_equal(grpc_conn_new(&w->services, &host, "pid 1 uid 0", w->now, &w->conn), 0);
    nghttp2_session_callbacks_new(&cb);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_option_new(&o);
    nghttp2_option_set_no_auto_window_update(o, 1); /* it reads what a test lets it read */
    nghttp2_session_client_new2(&w->client, cb, w, o);
    nghttp2_option_del(o);
    nghttp2_session_callbacks_del(cb);
    nghttp2_submit_settings(w->client, NGHTTP2_FLAG_NONE, NULL, 0);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;

    grpc_conn_free(w->conn);
    nghttp2_session_del(w->client);
    grpc_services_done(&w->services);
    free(w);
    return 0;
}

/* ---- tests */

static void answers_at_once(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    int32_t id = start(w, &b, "ExecSync", "x", NULL);

    pump(w);
    assert_int_equal(w->status[id], GRPC_OK);
    assert_true(w->closed[id]);
    assert_int_equal(w->bytes[id], 5 + 12);
    assert_int_equal(w->handlers, 1);
    assert_int_equal(w->wakes, 0); /* what happens inside feed needs no waking */
    assert_int_equal(w->conn->stream_count, 0);
    assert_int_equal(w->conn->outbound_bytes, 0);
    assert_int_equal(w->observed, 1);
    assert_string_equal(w->last_path, "/runtime.v1.RuntimeService/ExecSync");
}

static void answers_later(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    int32_t id = start(w, &b, "ExecSync", "keep", NULL);

    pump(w);
    assert_int_equal(w->status[id], -1);
    assert_non_null(w->call);
    assert_string_equal(grpc_call_peer(w->call), "pid 1 uid 0");
    assert_true(grpc_call_deadline_ns(w->call) == UINT64_MAX);
    reply(w->call, 1);
    assert_int_equal(w->wakes, 1);
    pump(w);
    assert_int_equal(w->status[id], GRPC_OK);
    assert_int_equal(w->conn->stream_count, 0);
}

static void errors_carry_class_and_text(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    struct error *err = NULL;
    int32_t id = start(w, &b, "ExecSync", "keep", NULL);
    int r = error_set(&err, -ENOENT, "container abc is unknown");

    pump(w);
    grpc_call_fail_error(w->call, r, err);
    error_free(err);
    pump(w);
    assert_int_equal(w->status[id], GRPC_NOT_FOUND);
    assert_string_equal(w->text[id], "container abc is unknown");
    id = start(w, &b, "ExecSync", "keep", NULL);
    pump(w);
    grpc_call_fail_error(w->call, -ENOSPC, NULL);
    pump(w);
    assert_int_equal(w->status[id], GRPC_RESOURCE_EXHAUSTED);
    assert_string_equal(w->text[id], strerror(ENOSPC));
}

static void deadline_answers_and_cancels_once(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    int32_t id;

    w->keep_cancel = true;
    id = start(w, &b, "ExecSync", "keep", "2S");
    pump(w);
    assert_true(grpc_call_deadline_ns(w->call) == 3 * SECOND);
    assert_true(grpc_conn_next_deadline(w->conn) <= 3 * SECOND);
    w->now = 3 * SECOND - 1;
    assert_int_equal(grpc_conn_tick(w->conn, w->now), 0);
    assert_int_equal(w->cancels, 0);
    assert_true(grpc_conn_next_deadline(w->conn) == 3 * SECOND);
    w->now = 3 * SECOND;
    assert_int_equal(grpc_conn_tick(w->conn, w->now), 0);
    assert_int_equal(w->cancels, 1);
    pump(w);
    assert_int_equal(w->status[id], GRPC_DEADLINE_EXCEEDED);
    assert_int_equal(w->last_observed, GRPC_DEADLINE_EXCEEDED);
    assert_int_equal(w->observed, 1);
    assert_int_equal(w->conn->stream_count, 0);
    assert_int_equal(w->cancels, 1);
    assert_true(grpc_conn_next_deadline(w->conn) == UINT64_MAX);
}

static void late_answer_after_a_deadline_is_dropped(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    int32_t id = start(w, &b, "ExecSync", "keep", "1m");

    pump(w);
    w->now += SECOND;
    assert_int_equal(grpc_conn_tick(w->conn, w->now), 0);
    pump(w);
    assert_int_equal(w->status[id], GRPC_DEADLINE_EXCEEDED);
    assert_true(grpc_call_is_gone(w->call));
    assert_int_equal(grpc_call_send(w->call, NULL), -ECANCELED);
    reply(w->call, 1); /* frees the call; nothing is sent */
    pump(w);
    assert_int_equal(w->bytes[id], 0);
}

static void deadline_ends_an_unfinished_upload(void **state)
{
    struct world *w = *state;
    struct body b = {.unfinished = true};
    int32_t id = start(w, &b, "ExecSync", "x", "1S");

    pump(w);
    w->now += SECOND;
    assert_int_equal(grpc_conn_tick(w->conn, w->now), 0);
    pump(w);
    assert_int_equal(w->status[id], GRPC_DEADLINE_EXCEEDED);
    assert_int_equal(w->handlers, 0);
    assert_int_equal(w->conn->inbound_bytes, 0);
    assert_int_equal(w->conn->stream_count, 0);
}

static void expired_on_arrival_runs_no_handler(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    int32_t id = start(w, &b, "ExecSync", "x", "0n");

    pump(w);
    assert_int_equal(w->status[id], GRPC_DEADLINE_EXCEEDED);
    assert_int_equal(w->handlers, 0);
}

static void reset_cancels(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    int32_t id;

    w->keep_cancel = true;
    id = start(w, &b, "ExecSync", "keep", NULL);
    pump(w);
    nghttp2_submit_rst_stream(w->client, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    pump(w);
    assert_int_equal(w->cancels, 1);
    assert_int_equal(w->last_observed, GRPC_CANCELLED);
    assert_int_equal(w->conn->stream_count, 0);
}

static void reset_before_the_request_is_whole_runs_nothing(void **state)
{
    struct world *w = *state;
    struct body b = {.unfinished = true};
    int32_t id = start(w, &b, "ExecSync", "x", NULL);

    pump(w);
    nghttp2_submit_rst_stream(w->client, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    pump(w);
    assert_int_equal(w->handlers, 0);
    assert_int_equal(w->conn->inbound_bytes, 0);
    assert_int_equal(w->observed, 1);
    assert_int_equal(w->last_observed, GRPC_CANCELLED);
}

static void losing_the_connection_cancels_or_leaves_the_call(void **state)
{
    struct world *w = *state;
    struct body one = {0}, two = {0};
    struct grpc_call *without;

    (void)start(w, &one, "ExecSync", "keep", NULL);
    pump(w);
    without = w->call;
    w->keep_cancel = true;
    (void)start(w, &two, "ExecSync", "keep", NULL);
    pump(w);
    grpc_conn_free(TAKE(w->conn));
    assert_int_equal(w->cancels, 1);
    assert_true(grpc_call_is_gone(without));
    assert_string_equal(grpc_call_path(without), "/runtime.v1.RuntimeService/ExecSync");
    reply(without, 1);
}

static void client_that_never_shakes_hands_is_dropped(void **state)
{
    struct world *w = *state;

    assert_int_equal(grpc_conn_tick(w->conn, w->now + GRPC_HANDSHAKE_NS - 1), 0);
    assert_true(grpc_conn_next_deadline(w->conn) == w->now + GRPC_HANDSHAKE_NS);
    assert_int_equal(grpc_conn_tick(w->conn, w->now + GRPC_HANDSHAKE_NS), -ETIMEDOUT);
}

static void client_that_did_may_be_idle_for_ever(void **state)
{
    struct world *w = *state;

    pump(w);
    assert_int_equal(grpc_conn_tick(w->conn, w->now + 1000 * GRPC_HANDSHAKE_NS), 0);
    assert_true(grpc_conn_next_deadline(w->conn) == UINT64_MAX);
}

/* A client that reads nothing. */
static int set_up_without_window(void **state)
{
    struct world *w;
    const nghttp2_settings_entry zero = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};

    set_up(state);
    w = *state;
    nghttp2_submit_settings(w->client, NGHTTP2_FLAG_NONE, &zero, 1);
    return 0;
}

static void unread_stream_stops_at_its_queue(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    int32_t id;

    pump(w);
    id = start(w, &b, "GetContainerEvents", "", NULL);
    pump(w);
    assert_int_equal(w->bytes[id], 0);
    assert_int_equal(w->writables, 1);
    assert_int_equal(w->sent, 6); /* the sixth passes 1 MiB, a seventh is refused */
    nghttp2_submit_window_update(w->client, NGHTTP2_FLAG_NONE, id, 65535);
    pump(w);
    assert_int_equal(w->bytes[id], 65535);
    nghttp2_submit_rst_stream(w->client, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    pump(w);
    assert_int_equal(w->cancels, 1);
    assert_int_equal(w->conn->outbound_bytes, 0);
}

static void answers_beyond_the_outbound_limit_are_refused(void **state)
{
    struct world *w = *state;
    struct body b[4] = {{.len = 0}};
    int32_t id[4];

    pump(w);
    for (int i = 0; i < 4; i++) {
        id[i] = start(w, &b[i], "ExecSync", "big", NULL);
        pump(w);
    }
    assert_int_equal(w->status[id[0]], -1);
    assert_int_equal(w->status[id[1]], -1);
    assert_int_equal(w->status[id[2]], GRPC_RESOURCE_EXHAUSTED);
    assert_int_equal(w->status[id[3]], GRPC_RESOURCE_EXHAUSTED);
    assert_true(w->conn->outbound_bytes <= LIMIT_GRPC_OUTBOUND_BYTES);
}

static void deadline_drops_an_answer_nobody_reads(void **state)
{
    struct world *w = *state;
    struct body b = {0};
    int32_t id;

    pump(w);
    id = start(w, &b, "ExecSync", "big", "1S");
    pump(w);
    assert_true(w->conn->outbound_bytes > 0);
    w->now += SECOND;
    assert_int_equal(grpc_conn_tick(w->conn, w->now), 0);
    pump(w);
    assert_int_equal(w->conn->outbound_bytes, 0);
    assert_true(w->closed[id]);
    assert_int_equal(w->reset[id], NGHTTP2_CANCEL);
}

static void shutdown_lets_open_calls_finish(void **state)
{
    struct world *w = *state;
    struct body b = {0}, late = {0};
    int32_t id = start(w, &b, "ExecSync", "keep", NULL);

    pump(w);
    grpc_conn_shutdown(w->conn);
    assert_int_equal(w->wakes, 1);
    pump(w);
    assert_int_equal(w->goaways, 2); /* the notice, then the real one */
    assert_false(grpc_conn_is_over(w->conn));
    (void)start(w, &late, "ExecSync", "x", NULL);
    pump(w);
    assert_int_equal(w->handlers, 1); /* nothing new is begun */
    reply(w->call, 1);
    pump(w);
    assert_int_equal(w->status[id], GRPC_OK);
    assert_true(grpc_conn_is_over(w->conn));
}

static void concurrent_streams_are_limited(void **state)
{
    struct world *w = *state;

    pump(w);
    assert_int_equal(
        nghttp2_session_get_remote_settings(w->client, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS),
        LIMIT_GRPC_STREAMS);
    assert_int_equal(
        nghttp2_session_get_remote_settings(w->client, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE),
        LIMIT_GRPC_HEADER_LIST_BYTES);
}

static void services_refuse_twice_and_unknown_names(void **state)
{
    static const struct grpc_method bad[] = {{"Verison", on_exec}, {NULL, NULL}};
    struct grpc_services s;

    grpc_services_init(&s);
    assert_int_equal(grpc_services_add(&s, &runtime__v1__runtime_service__descriptor, bad, NULL),
                     -EINVAL);
    assert_int_equal(grpc_services_add(&s, &runtime__v1__runtime_service__descriptor, NULL, NULL),
                     0);
    assert_int_equal(grpc_services_add(&s, &runtime__v1__runtime_service__descriptor, NULL, NULL),
                     -EEXIST);
    assert_null(grpc_services_find(&s, "/runtime.v1.RuntimeService/Version")->fn);
    assert_null(grpc_services_find(&s, "/runtime.v1.RuntimeService/"));
    grpc_services_done(&s);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
#define CASE_NO_WINDOW(fn) cmocka_unit_test_setup_teardown(fn, set_up_without_window, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(answers_at_once),
        CASE(answers_later),
        CASE(errors_carry_class_and_text),
        CASE(deadline_answers_and_cancels_once),
        CASE(late_answer_after_a_deadline_is_dropped),
        CASE(deadline_ends_an_unfinished_upload),
        CASE(expired_on_arrival_runs_no_handler),
        CASE(reset_cancels),
        CASE(reset_before_the_request_is_whole_runs_nothing),
        CASE(losing_the_connection_cancels_or_leaves_the_call),
        CASE(client_that_never_shakes_hands_is_dropped),
        CASE(client_that_did_may_be_idle_for_ever),
        CASE_NO_WINDOW(unread_stream_stops_at_its_queue),
        CASE_NO_WINDOW(answers_beyond_the_outbound_limit_are_refused),
        CASE_NO_WINDOW(deadline_drops_an_answer_nobody_reads),
        CASE(shutdown_lets_open_calls_finish),
        CASE(concurrent_streams_are_limited),
        cmocka_unit_test(services_refuse_twice_and_unknown_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
