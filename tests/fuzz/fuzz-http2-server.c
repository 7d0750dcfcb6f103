/* SPDX-License-Identifier: Apache-2.0 */
/* A server connection: any bytes from the client. The first byte of the input says whether a good
 * preface and SETTINGS come first; then runs of bytes, each followed by what its head says: time
 * passes, kept calls are answered, output is taken or left. */
#include <stdlib.h>
#include <string.h>

#include "gen/cri/cri.pb-c.h"
#include "grpc/conn-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define KEPT 16

struct world {
    struct grpc_call *kept[KEPT]; /* waiting to be answered */
};

static void forget(struct grpc_call *call, void *ud)
{
    struct world *w = ud;

    for (size_t i = 0; i < KEPT; i++)
        if (w->kept[i] == call)
            w->kept[i] = NULL;
}

static void on_call(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    Runtime__V1__VersionResponse r = RUNTIME__V1__VERSION_RESPONSE__INIT;
    struct world *w = ud;

    for (size_t i = 0; i < KEPT; i++) {
        if (w->kept[i])
            continue;
        w->kept[i] = call;
        if (i % 2 == 0) /* every other one ignores cancellation */
            grpc_call_on_cancel(call, forget, w);
        return;
    }
    grpc_call_reply(call, &r.base);
}

static void on_stream(struct grpc_call *call, const ProtobufCMessage *request, void *ud)
{
    Runtime__V1__ContainerEventResponse r = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;

    for (int i = 0; i < 3; i++)
        (void)grpc_call_send(call, &r.base);
    grpc_call_finish(call);
}

static void on_wake(struct grpc_conn *c, void *ud)
{
    (void)c;
    (void)ud;
}

static void answer(struct world *w, size_t i)
{
    Runtime__V1__VersionResponse r = RUNTIME__V1__VERSION_RESPONSE__INIT;
    struct grpc_call *call = w->kept[i];

    w->kept[i] = NULL;
    if (call && i % 3 == 0)
        grpc_call_fail(call, GRPC_NOT_FOUND, "gone");
    else if (call)
        grpc_call_reply(call, &r.base);
}

static int drain(struct grpc_conn *c)
{
    const uint8_t *p;
    ssize_t n;

    while ((n = grpc_conn_output(c, &p)) > 0)
        ;
    return (int)n;
}

static int step(struct grpc_conn *c, struct world *w, uint8_t what, uint64_t *now)
{
    *now += (uint64_t)(what & 7) * 100000000;
    if (what & 8)
        answer(w, what >> 4);
    if (what & 16)
        grpc_conn_shutdown(c);
    if (grpc_conn_tick(c, *now) < 0)
        return -1;
    return what & 32 ? 0 : drain(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    static const struct grpc_method methods[] = {{"Version", on_call},
                                                 {"ExecSync", on_call},
                                                 {"GetContainerEvents", on_stream},
                                                 {NULL, NULL}};
    struct world w = {0};
    struct grpc_conn_host host = {.wake = on_wake, .ud = &w};
    struct grpc_services services;
    struct grpc_conn *c = NULL;
    uint64_t now = 0;
    size_t at = 1;
    int r = 0;

    grpc_services_init(&services);
    if (grpc_services_add(&services, &runtime__v1__runtime_service__descriptor, methods, &w) < 0 ||
        grpc_conn_new(&services, &host, "fuzz", now, &c) < 0)
        abort();
    if (size > 0 && data[0] & 1)
        r = grpc_conn_feed(c, hello, sizeof(hello) - 1, now);
    while (r == 0 && at + 1 < size && !grpc_conn_is_over(c)) {
        size_t len = data[at];
        uint8_t what = data[at + 1];

        at += 2;
        if (len > size - at)
            len = size - at;
        r = grpc_conn_feed(c, data + at, len, now);
        at += len;
        if (r == 0)
            r = step(c, &w, what, &now);
    }
    grpc_conn_free(c);
    for (size_t i = 0; i < KEPT; i++)
        answer(&w, i);
    grpc_services_done(&services);
    return 0;
}
