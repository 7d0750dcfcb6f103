/* SPDX-License-Identifier: Apache-2.0 */
/* A gRPC server without a runtime behind it, for tests of src/grpc with foreign clients and for the
 * benchmark: CRI's services with made-up answers.
 *
 *   grpc-echo SOCKET      serves until SIGTERM (graceful stop, exit 0); prints "ready" when it listens
 *
 * Version answers at once. ExecSync does what cmd says: echo TEXT · big BYTES · sleep MS (answers later;
 * a cancelled one is counted) · hang (never answers, notices cancellation) · deaf (answers after
 * timeout seconds whatever happened to the client) · fail STATUS TEXT · guest TEXT (error of a guest)
 * · exit CODE. StreamPodSandboxes sends filter.id messages of state bytes each ("COUNT" or "COUNT
 * BYTES"), as fast as the client reads. GetContainerEvents sends one event and stays open. Status
 * (verbose) tells counters as info. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <systemd/sd-event.h>

#include "base/arena.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/numparse.h"
#include "base/str.h"
#include "gen/cri/cri.pb-c.h"
#include "grpc/server.h"

struct echo {
    sd_event *event;
    struct grpc_server *server;
    unsigned cancelled, observed, observed_errors, late;
};

struct wait {
    struct echo *echo;
    struct grpc_call *call;
    sd_event_source *timer;
    char *text;
    bool count_late;
};

static void on_version(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    Runtime__V1__VersionResponse r = RUNTIME__V1__VERSION_RESPONSE__INIT;

    r.version = (char[]){"0.1.0"};
    r.runtime_name = (char[]){"grpc-echo"};
    r.runtime_version = (char[]){NEXUS_VERSION};
    r.runtime_api_version = (char[]){"v1"};
    grpc_call_reply(call, &r.base);
}

static void reply_exec(struct grpc_call *call, const void *out, size_t len, int code)
{
    Runtime__V1__ExecSyncResponse r = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;

    r.stdout = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)out, .len = len};
    r.exit_code = code;
    grpc_call_reply(call, &r.base);
}

static void wait_free(struct wait *w)
{
    sd_event_source_disable_unref(w->timer);
    free(w->text);
    free(w);
}

static int on_wait_over(sd_event_source *s, uint64_t usec, void *ud)
{
    struct wait *w = ud;

    if (w->count_late && grpc_call_is_gone(w->call))
        w->echo->late++;
    reply_exec(w->call, w->text, strlen(w->text), 0);
    wait_free(w);
    return 0;
}

static void on_wait_cancelled(struct grpc_call *call, void *ud)
{
    struct wait *w = ud;

    w->echo->cancelled++;
    wait_free(w);
}

static void start_wait(struct echo *e, struct grpc_call *call, uint64_t ms, const char *text,
                       bool notice_cancel)
{
    struct wait *w = xcalloc(1, sizeof(*w));

    w->echo = e;
    w->call = call;
    w->text = str_dup(text);
    w->count_late = !notice_cancel;
    if (ms != UINT64_MAX)
        (void)sd_event_add_time_relative(e->event, &w->timer, CLOCK_MONOTONIC, ms * 1000, 1,
                                         on_wait_over, w);
    if (notice_cancel)
        grpc_call_on_cancel(call, on_wait_cancelled, w);
}

static void reply_big(struct grpc_call *call, uint64_t len)
{
    _cleanup_(freep) uint8_t *bytes = malloc(len + 1);

    if (!bytes) {
        grpc_call_fail(call, GRPC_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    memset(bytes, 'x', len);
    reply_exec(call, bytes, len, 0);
}

static void on_exec(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    const Runtime__V1__ExecSyncRequest *rq = (const Runtime__V1__ExecSyncRequest *)request;
    struct echo *e = ud;
    const char *what = rq->n_cmd > 0 ? rq->cmd[0] : "", *arg = rq->n_cmd > 1 ? rq->cmd[1] : "";
    struct error *err = NULL;
    uint64_t number = 0;

    (void)parse_u64(arg, UINT32_MAX, &number);
    if (strcmp(what, "echo") == 0) {
        reply_exec(call, arg, strlen(arg), 0);
    } else if (strcmp(what, "big") == 0) {
        reply_big(call, number);
    } else if (strcmp(what, "exit") == 0) {
        reply_exec(call, "", 0, (int)number);
    } else if (strcmp(what, "sleep") == 0) {
        start_wait(e, call, number, "slept", /* notice_cancel= */ true);
    } else if (strcmp(what, "hang") == 0) {
        start_wait(e, call, UINT64_MAX, "", /* notice_cancel= */ true);
    } else if (strcmp(what, "deaf") == 0) {
        start_wait(e, call, number, "late", /* notice_cancel= */ false);
    } else if (strcmp(what, "fail") == 0) {
        grpc_call_fail(call, (enum grpc_status)number, rq->n_cmd > 2 ? rq->cmd[2] : NULL);
    } else if (strcmp(what, "guest") == 0) {
        int r = error_set_class(&err, ERROR_GUEST, -EIO, "in guest: %s", arg);
        grpc_call_fail_error(call, r, err);
        error_free(err);
    } else {
        grpc_call_fail(call, GRPC_INVALID_ARGUMENT, "unknown command");
    }
}

struct stream {
    uint64_t left, sent, bytes;
    char *id;
};

static void stream_more(struct grpc_call *call, void *ud)
{
    struct stream *s = ud;

    while (s->left > 0) {
        Runtime__V1__StreamPodSandboxesResponse r =
            RUNTIME__V1__STREAM_POD_SANDBOXES_RESPONSE__INIT;
        Runtime__V1__PodSandbox pod = RUNTIME__V1__POD_SANDBOX__INIT, *pods[] = {&pod};
        int res;

        pod.id = s->id;
        pod.created_at = (int64_t)s->sent;
        r.n_pod_sandboxes = 1;
        r.pod_sandboxes = pods;
        res = grpc_call_send(call, &r.base);
        if (res == -EAGAIN) {
            grpc_call_on_writable(call, stream_more, s);
            return;
        }
        if (res < 0)
            break;
        s->left--;
        s->sent++;
    }
    grpc_call_finish(call);
}

static void on_stream_cancelled(struct grpc_call *call, void *ud)
{
    struct echo *e = ud;

    e->cancelled++;
}

static void on_stream(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    const Runtime__V1__StreamPodSandboxesRequest *rq =
        (const Runtime__V1__StreamPodSandboxesRequest *)request;
    struct stream *s = arena_alloc(grpc_call_arena(call), sizeof(*s));
    char *end = NULL;

    if (!s || !rq->filter) {
        grpc_call_fail(call, GRPC_INVALID_ARGUMENT, "no filter");
        return;
    }
    s->left = strtoull(rq->filter->id, &end, 10);
    s->bytes = end && *end ? strtoull(end, NULL, 10) : 1;
    s->id = arena_alloc(grpc_call_arena(call), s->bytes + 1);
    if (!s->id) {
        grpc_call_fail(call, GRPC_RESOURCE_EXHAUSTED, "too large");
        return;
    }
    memset(s->id, 'i', s->bytes);
    grpc_call_on_cancel(call, on_stream_cancelled, ud);
    stream_more(call, s);
}

static void on_events(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    Runtime__V1__ContainerEventResponse r = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;

    r.container_id = (char[]){"c1"};
    grpc_call_on_cancel(call, on_stream_cancelled, ud);
    (void)grpc_call_send(call, &r.base);
}

static void on_status(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    struct echo *e = ud;
    struct grpc_server_stats st;
    Runtime__V1__StatusResponse r = RUNTIME__V1__STATUS_RESPONSE__INIT;
    Runtime__V1__StatusResponse__InfoEntry entries[10], *list[10];
    struct arena *a = grpc_call_arena(call);

    grpc_server_get_stats(e->server, &st);
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"cancelled", e->cancelled},
        {"observed", e->observed},
        {"errors", e->observed_errors},
        {"late", e->late},
        {"connections", st.connections},
        {"failed", st.connections_failed},
        {"calls", st.calls},
        {"started", st.calls_started},
        {"accepted", st.connections_accepted},
        {"pauses", st.accept_pauses},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        runtime__v1__status_response__info_entry__init(&entries[i]);
        entries[i].key = arena_strdup(a, rows[i].name);
        entries[i].value = arena_printf(a, "%llu", (unsigned long long)rows[i].value);
        list[i] = &entries[i];
    }
    r.n_info = ARRAY_SIZE(rows);
    r.info = list;
    grpc_call_reply(call, &r.base);
}

static void on_observe(const struct grpc_call_info *info, void *ud)
{
    struct echo *e = ud;

    e->observed++;
    e->observed_errors += info->status != GRPC_OK;
}

static void on_stopped(void *ud)
{
    struct echo *e = ud;

    (void)sd_event_exit(e->event, 0);
}

static int on_sigterm(sd_event_source *s, const struct signalfd_siginfo *si, void *ud)
{
    struct echo *e = ud;

    grpc_server_stop(e->server, on_stopped, e);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct grpc_method methods[] = {
        {"Version", on_version},
        {"Status", on_status},
        {"ExecSync", on_exec},
        {"StreamPodSandboxes", on_stream},
        {"GetContainerEvents", on_events},
        {NULL, NULL},
    };
    struct echo e = {0};
    struct error *err = NULL;
    sigset_t set;
    int r;

    if (argc != 2) {
        fprintf(stderr, "usage: grpc-echo SOCKET\n");
        return 2;
    }
    log_init("grpc-echo");
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    if (sd_event_default(&e.event) < 0 || grpc_server_new(e.event, &e.server) < 0 ||
        sd_event_add_signal(e.event, NULL, SIGTERM, on_sigterm, &e) < 0 ||
        grpc_server_add_service(e.server, &runtime__v1__runtime_service__descriptor, methods, &e) <
            0)
        return 1;
    grpc_server_set_observer(e.server, on_observe, &e);
    r = grpc_server_listen_unix(e.server, argv[1], 0600, &err);
    if (r < 0) {
        fprintf(stderr, "grpc-echo: %s\n", error_text(err, r));
        error_free(err);
        return 1;
    }
    printf("ready\n");
    (void)fflush(stdout);
    r = sd_event_loop(e.event);
    grpc_server_free(e.server);
    sd_event_unref(e.event);
    return r < 0;
}
