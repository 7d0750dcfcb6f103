/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/exit-watch.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#define ASK_NS 200000000ULL              /* between questions without events */
#define ASK_WITH_EVENTS_NS 5000000000ULL /* an event may be lost: ask now and then */
#define AWAY_NS 60000000000ULL           /* how long a server may be gone */

int container_status(struct cli *cli, const char *id, Runtime__V1__ContainerStatusResponse **ret,
                     struct error **err)
{
    Runtime__V1__ContainerStatusRequest rq = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
    ANSWER(Runtime__V1__ContainerStatusResponse, answer);
    int r;

    rq.container_id = (char *)(uintptr_t)id;
    r = cli_call(cli, "RuntimeService/ContainerStatus", &rq.base,
                 &runtime__v1__container_status_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(answer), err);
    if (r < 0)
        return r;
    if (!answer->status)
        return error_set_class(err, ERROR_INTERNAL, -EPROTO, "the server sent no status of %s", id);
    *ret = TAKE(answer);
    return 0;
}

static void subscribe(struct exit_watch *w)
{
    Runtime__V1__GetEventsRequest rq = RUNTIME__V1__GET_EVENTS_REQUEST__INIT;

    grpc_client_call_free(TAKE(w->event));
    (void)grpc_client_start(w->cli->client, "/runtime.v1.RuntimeService/GetContainerEvents",
                            &rq.base, &runtime__v1__container_event_response__descriptor,
                            CLI_NO_TIMEOUT, &w->event, NULL);
}

void exit_watch_start(struct exit_watch *w, struct cli *cli, const char *id)
{
    *w = (struct exit_watch){.cli = cli, .id = id};
    subscribe(w);
}

void exit_watch_done(struct exit_watch *w)
{
    grpc_client_call_free(TAKE(w->event));
}

int exit_watch_fd(const struct exit_watch *w)
{
    return w->event && w->cli->client ? grpc_client_fd(w->cli->client) : -EBADF;
}

int exit_watch_wait_ms(const struct exit_watch *w)
{
    uint64_t now = clock_mono_ns();

    return now >= w->ask_ns ? 0 : (int)((w->ask_ns - now + 999999) / 1000000);
}

/* Takes the events that are there. True: one says that our container may have exited. */
static bool take_events(struct exit_watch *w)
{
    bool news = false;
    int r = 1;

    while (w->event && r == 1) {
        ANSWER(Runtime__V1__ContainerEventResponse, e);
        _cleanup_(error_freep) struct error *err = NULL;

        r = grpc_client_next(w->event, 0, ANSWER_AT(e), &err);
        if (r == 1 && strcmp(e->container_id, w->id) == 0 &&
            e->container_event_type >= RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT)
            news = true;
        if (r != 1 && r != -EAGAIN) { /* not offered, or the server is gone: ask instead */
            grpc_client_call_free(TAKE(w->event));
            news = true;
        }
    }
    return news;
}

/* The server did not answer: connect again, for a while. 0, or the error of when that was too long. */
static int server_away(struct exit_watch *w, int r, struct error *why, struct error **err)
{
    uint64_t now = clock_mono_ns();

    if (error_class_of(why, r) != ERROR_UNAVAILABLE || (w->lost_ns && now - w->lost_ns > AWAY_NS)) {
        if (err)
            *err = why;
        else
            error_free(why);
        return r;
    }
    error_free(why);
    if (w->lost_ns == 0)
        w->lost_ns = now;
    grpc_client_call_free(TAKE(w->event));
    if (cli_reconnect(w->cli, NULL) == 0)
        subscribe(w);
    return 0;
}

static int server_status(struct exit_watch *w, Runtime__V1__ContainerStatusResponse **ret,
                         struct error **err)
{
    if (!w->cli->client)
        return error_set_class(err, ERROR_UNAVAILABLE, -ECONNREFUSED, "the server is gone");
    return container_status(w->cli, w->id, ret, err);
}

int exit_watch_check(struct exit_watch *w, bool now, int *ret_code, char **ret_reason,
                     struct error **err)
{
    ANSWER(Runtime__V1__ContainerStatusResponse, answer);
    struct error *why = NULL;
    int r;

    if (!take_events(w) && !now && clock_mono_ns() < w->ask_ns)
        return 0;
    w->ask_ns = clock_mono_ns() + (w->event ? ASK_WITH_EVENTS_NS : ASK_NS);
    r = server_status(w, &answer, &why);
    if (r < 0)
        return server_away(w, r, why, err);
    w->lost_ns = 0;
    if (answer->status->state != RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED) {
        if (take_events(w)) /* it came in while we asked */
            w->ask_ns = 0;
        return 0;
    }
    *ret_code = answer->status->exit_code;
    if (ret_reason)
        *ret_reason = str_dup(answer->status->reason);
    return 1;
}
