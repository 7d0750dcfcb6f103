/* SPDX-License-Identifier: Apache-2.0 */
/* grpc/client against grpc/server over a socket pair, the server in a process of its own; and against
 * servers that are silent, wrong or gone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/limit.h"
#include "base/str.h"
#include "gen/cri/cri.pb-c.h"
#include "grpc/client.h"
#include "grpc/server.h"
#include "lib/test.h"

#define EXEC "/runtime.v1.RuntimeService/ExecSync"
#define EVENTS "/runtime.v1.RuntimeService/GetContainerEvents"

/* ---- the server */

static void on_exec(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    const Runtime__V1__ExecSyncRequest *rq = (const Runtime__V1__ExecSyncRequest *)request;
    Runtime__V1__ExecSyncResponse r = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;

    if (strcmp(rq->container_id, "hang") == 0)
        return;
    if (strcmp(rq->container_id, "missing") == 0) {
        grpc_call_fail(call, GRPC_NOT_FOUND, "100% missing: f\xc3\xbcr");
        return;
    }
    if (strcmp(rq->container_id, "die") == 0)
        _exit(0);
    r.exit_code = (int32_t)rq->timeout;
    r.stdout.len = rq->timeout > 100 ? (size_t)rq->timeout : 0;
    r.stdout.data = xcalloc(1, r.stdout.len + 1);
    grpc_call_reply(call, &r.base);
    free(r.stdout.data);
}

static void on_events(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    Runtime__V1__ContainerEventResponse r = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;

    for (int i = 1; i <= 3; i++) {
        r.created_at = i;
        (void)grpc_call_send(call, &r.base);
    }
    grpc_call_finish(call);
}

static void serve(int fd)
{
    static const struct grpc_method methods[] = {
        {"ExecSync", on_exec}, {"GetContainerEvents", on_events}, {NULL, NULL}};
    struct grpc_server *s;
    sd_event *event;

    if (sd_event_new(&event) < 0 || grpc_server_new(event, &s) < 0 ||
        grpc_server_add_service(s, &runtime__v1__runtime_service__descriptor, methods, NULL) < 0 ||
        grpc_server_adopt_connection(s, fd) < 0)
        _exit(1);
    for (;;) { /* until the client is gone */
        struct grpc_server_stats stats;

        grpc_server_get_stats(s, &stats);
        if (stats.connections == 0)
            break;
        (void)sd_event_run(event, UINT64_MAX);
    }
    grpc_server_free(s);
    sd_event_unref(event);
    _exit(0);
}

struct world {
    struct grpc_client *client;
    pid_t server;
    int peer; /* of a client without server: what a test says itself */
};

static int set_up(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    w->peer = -EBADF;
    w->server = fork();
    if (w->server == 0) {
        (void)close(fds[0]);
        serve(fds[1]);
    }
    (void)close(fds[1]);
    assert_int_equal(grpc_client_new(fds[0], &w->client, NULL), 0);
    *state = w;
    return 0;
}

static int set_up_alone(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    w->peer = fds[1];
    assert_int_equal(grpc_client_new(fds[0], &w->client, NULL), 0);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    int status = 0;

    grpc_client_free(w->client);
    (void)close_fd(w->peer);
    if (w->server > 0) {
        assert_int_equal(waitpid(w->server, &status, 0), w->server);
        assert_int_equal(status, 0);
    }
    free(w);
    return 0;
}

static int exec_call(struct world *w, const char *id, int64_t number, int64_t timeout_ms,
                     Runtime__V1__ExecSyncResponse **ret, struct error **err)
{
    Runtime__V1__ExecSyncRequest rq = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;

    rq.container_id = (char *)(uintptr_t)id;
    rq.timeout = number;
    return grpc_client_unary(w->client, EXEC, &rq.base,
                             &runtime__v1__exec_sync_response__descriptor, timeout_ms,
                             (ProtobufCMessage **)(void *)ret, err);
}

static void assert_fails(struct world *w, const char *id, int64_t timeout_ms,
                         enum error_class class, const char *text)
{
    Runtime__V1__ExecSyncResponse *m = NULL;
    struct error *err = NULL;
    int r = exec_call(w, id, 0, timeout_ms, &m, &err);

    assert_true(r < 0);
    assert_null(m);
    assert_int_equal(error_class_of(err, r), class);
    if (!strstr(error_text(err, r), text))
        fail_msg("'%s' does not say '%s'", error_text(err, r), text);
    error_free(err);
}

/* ---- tests */

static void answers_come_back(void **state)
{
    struct world *w = *state;

    for (int i = 0; i < 100; i++) {
        Runtime__V1__ExecSyncResponse *m = NULL;

        assert_int_equal(exec_call(w, "x", i, 10000, &m, NULL), 0);
        assert_int_equal(m->exit_code, i);
        protobuf_c_message_free_unpacked(&m->base, NULL);
    }
}

static void largest_answer_comes_back(void **state)
{
    struct world *w = *state;
    Runtime__V1__ExecSyncResponse *m = NULL;
    int64_t len = LIMIT_GRPC_MESSAGE_BYTES - 64;

    assert_int_equal(exec_call(w, "x", len, -1, &m, NULL), 0);
    assert_int_equal(m->stdout.len, len);
    protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void too_large_a_request_is_not_sent(void **state)
{
    struct world *w = *state;
    _cleanup_(freep) char *id = xcalloc(1, LIMIT_GRPC_MESSAGE_BYTES + 1);

    memset(id, 'x', LIMIT_GRPC_MESSAGE_BYTES);
    assert_fails(w, id, -1, ERROR_EXHAUSTED, "larger than");
}

static void status_becomes_class_and_text(void **state)
{
    assert_fails(*state, "missing", -1, ERROR_NOT_FOUND, "100% missing: f\xc3\xbcr");
}

static void unknown_method_is_unsupported(void **state)
{
    struct world *w = *state;
    Runtime__V1__VersionRequest rq = RUNTIME__V1__VERSION_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    struct error *err = NULL;
    int r = grpc_client_unary(w->client, "/x.Y/Z", &rq.base,
                              &runtime__v1__version_response__descriptor, -1, &m, &err);

    assert_int_equal(error_class_of(err, r), ERROR_UNSUPPORTED);
    error_free(err);
}

static void deadline_is_kept_and_the_connection_stays_good(void **state)
{
    struct world *w = *state;
    Runtime__V1__ExecSyncResponse *m = NULL;

    assert_fails(w, "hang", 20, ERROR_DEADLINE, "");
    assert_int_equal(exec_call(w, "x", 1, -1, &m, NULL), 0);
    protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void server_that_dies_is_unavailable(void **state)
{
    struct world *w = *state;

    assert_fails(w, "die", -1, ERROR_UNAVAILABLE, "");
    assert_fails(w, "x", -1, ERROR_UNAVAILABLE, ""); /* and so is every later call */
}

static void streams_end_well(void **state)
{
    struct world *w = *state;
    Runtime__V1__GetEventsRequest rq = RUNTIME__V1__GET_EVENTS_REQUEST__INIT;
    struct grpc_client_call *call = NULL;
    Runtime__V1__ContainerEventResponse *m = NULL;

    assert_int_equal(grpc_client_start(w->client, EVENTS, &rq.base,
                                       &runtime__v1__container_event_response__descriptor, -1,
                                       &call, NULL),
                     0);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(grpc_client_next(call, -1, (ProtobufCMessage **)(void *)&m, NULL), 1);
        assert_int_equal(m->created_at, i);
        protobuf_c_message_free_unpacked(&m->base, NULL);
    }
    assert_int_equal(grpc_client_next(call, -1, (ProtobufCMessage **)(void *)&m, NULL), 0);
    assert_int_equal(grpc_client_next(call, -1, (ProtobufCMessage **)(void *)&m, NULL), 0);
    grpc_client_call_free(call);
}

static void calls_may_wait_side_by_side(void **state)
{
    struct world *w = *state;
    Runtime__V1__ExecSyncRequest rq = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
    struct grpc_client_call *hang = NULL;
    Runtime__V1__ExecSyncResponse *m = NULL;

    rq.container_id = (char[]){"hang"};
    assert_int_equal(grpc_client_start(w->client, EXEC, &rq.base,
                                       &runtime__v1__exec_sync_response__descriptor, -1, &hang,
                                       NULL),
                     0);
    assert_int_equal(exec_call(w, "x", 7, -1, &m, NULL), 0);
    assert_int_equal(m->exit_code, 7);
    protobuf_c_message_free_unpacked(&m->base, NULL);
    assert_int_equal(grpc_client_next(hang, 0, (ProtobufCMessage **)(void *)&m, NULL), -EAGAIN);
    grpc_client_call_free(hang); /* cancels */
    assert_int_equal(exec_call(w, "x", 8, -1, &m, NULL), 0);
    protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void handles_outlive_their_client(void **state)
{
    struct world *w = *state;
    Runtime__V1__ExecSyncRequest rq = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
    struct grpc_client_call *hang = NULL;
    ProtobufCMessage *m = NULL;

    rq.container_id = (char[]){"hang"};
    assert_int_equal(grpc_client_start(w->client, EXEC, &rq.base,
                                       &runtime__v1__exec_sync_response__descriptor, -1, &hang,
                                       NULL),
                     0);
    grpc_client_free(TAKE(w->client));
    assert_true(grpc_client_next(hang, -1, &m, NULL) < 0);
    grpc_client_call_free(hang);
}

static void silent_server_is_a_deadline(void **state)
{
    assert_fails(*state, "x", 20, ERROR_DEADLINE, "no answer in time");
}

static void server_that_speaks_something_else(void **state)
{
    struct world *w = *state;
    static const char http1[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";

    assert_int_equal(write(w->peer, http1, sizeof(http1) - 1), sizeof(http1) - 1);
    assert_fails(w, "x", 10000, ERROR_UNAVAILABLE, "");
}

/* Frames of a server by hand, as the answer to stream 1. */
static void say(struct world *w, const void *bytes, size_t len)
{
    assert_int_equal(write(w->peer, bytes, len), len);
}

#define SETTINGS "\0\0\0\4\0\0\0\0\0"
#define HEADERS_200 "\0\0\1\1\4\0\0\0\1\x88"     /* :status 200 */
#define HEADERS_404_END "\0\0\1\1\5\0\0\0\1\x8d" /* :status 404, END_STREAM */
#define TRAILERS_OK                           \
    "\0\0\x0f\1\5\0\0\0\1\0\x0bgrpc-status\1" \
    "0"
#define TRAILERS_ODD                          \
    "\0\0\x10\1\5\0\0\0\1\0\x0bgrpc-status\2" \
    "xy"

static const struct {
    const char *name;
    const char *bytes;
    size_t len;
    enum error_class class;
    const char *text;
} answers[] = {
#define ROW(name, bytes, class, text)               \
    {                                               \
        name, bytes, sizeof(bytes) - 1, class, text \
    }
    ROW("http_404", SETTINGS HEADERS_404_END, ERROR_INTERNAL, "HTTP 404"),
    ROW("no_message", SETTINGS HEADERS_200 TRAILERS_OK, ERROR_INTERNAL, "no message"),
    ROW("status_that_is_no_number", SETTINGS HEADERS_200 TRAILERS_ODD, ERROR_INTERNAL, "UNKNOWN"),
    ROW("half_a_message", SETTINGS HEADERS_200 "\0\0\6\0\0\0\0\0\1\0\0\0\0\5x" TRAILERS_OK,
        ERROR_INTERNAL, "inside a message"),
    ROW("two_messages", SETTINGS HEADERS_200 "\0\0\x0a\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0" TRAILERS_OK,
        ERROR_INTERNAL, "two messages"),
    ROW("no_protobuf", SETTINGS HEADERS_200 "\0\0\6\0\0\0\0\0\1\0\0\0\0\1\xff" TRAILERS_OK,
        ERROR_INTERNAL, "no valid ExecSyncResponse"),
    ROW("compressed", SETTINGS HEADERS_200 "\0\0\5\0\0\0\0\0\1\1\0\0\0\0" TRAILERS_OK,
        ERROR_INTERNAL, "not gRPC"),
    ROW("endless_length", SETTINGS HEADERS_200 "\0\0\5\0\0\0\0\0\1\0\xff\xff\xff\xff" TRAILERS_OK,
        ERROR_INTERNAL, "not gRPC"),
    ROW("refused_stream", SETTINGS "\0\0\4\3\0\0\0\0\1\0\0\0\7", ERROR_UNAVAILABLE,
        "HTTP/2 error 7"),
    ROW("cancelled_stream", SETTINGS "\0\0\4\3\0\0\0\0\1\0\0\0\x08", ERROR_CANCELLED,
        "HTTP/2 error 8"),
    ROW("goaway", SETTINGS "\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\0", ERROR_UNAVAILABLE, ""),
};

static void wrong_answers_are_errors(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        void *own = NULL;
        struct world *w;

        print_message("# %s\n", answers[i].name);
        set_up_alone(&own);
        w = own;
        say(w, answers[i].bytes, answers[i].len);
        assert_fails(w, "x", 10000, answers[i].class, answers[i].text);
        tear_down(&own);
    }
}

static void nobody_listens(void **state)
{
    struct grpc_client *c = NULL;
    struct error *err = NULL;
    char long_path[200];

    assert_int_equal(grpc_client_connect_unix("/nonexistent/s.sock", &c, &err), -ENOENT);
    assert_non_null(strstr(error_text(err, 0), "/nonexistent/s.sock"));
    error_free(err);
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    assert_int_equal(grpc_client_connect_unix(long_path, &c, NULL), -ENAMETOOLONG);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
#define CASE_ALONE(fn) cmocka_unit_test_setup_teardown(fn, set_up_alone, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(answers_come_back),
        CASE(largest_answer_comes_back),
        CASE(too_large_a_request_is_not_sent),
        CASE(status_becomes_class_and_text),
        CASE(unknown_method_is_unsupported),
        CASE(deadline_is_kept_and_the_connection_stays_good),
        CASE(server_that_dies_is_unavailable),
        CASE(streams_end_well),
        CASE(calls_may_wait_side_by_side),
        CASE(handles_outlive_their_client),
        CASE_ALONE(silent_server_is_a_deadline),
        CASE_ALONE(server_that_speaks_something_else),
        cmocka_unit_test(wrong_answers_are_errors),
        cmocka_unit_test(nobody_listens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
