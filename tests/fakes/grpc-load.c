/* SPDX-License-Identifier: Apache-2.0 */
/* Latencies of CRI's Version over a socket, for benchmarks; one JSON object on stdout, times in ns.
 *
 *   grpc-load SOCKET CALLS IN_FLIGHT   {"latency_ns":[…],"elapsed_ns":…}: each from start to answer
 *   grpc-load --floor CALLS            the same for 200 bytes there and back between two processes over
 *                                      a socket pair: what the machine itself costs */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/numparse.h"
#include "base/str.h"
#include "gen/cri/cri.pb-c.h"
#include "grpc/client.h"

static void print_result(const uint64_t *ns, size_t n, uint64_t elapsed)
{
    printf("{\"latency_ns\":[");
    for (size_t i = 0; i < n; i++)
        printf("%s%llu", i ? "," : "", (unsigned long long)ns[i]);
    printf("],\"elapsed_ns\":%llu}\n", (unsigned long long)elapsed);
}

static int run_floor(size_t calls, uint64_t *ns)
{
    char bytes[200] = "";
    int fds[2];
    uint64_t start;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return 1;
    child = fork();
    if (child == 0) {
        (void)close(fds[0]);
        while (read(fds[1], bytes, sizeof(bytes)) > 0 && write(fds[1], bytes, sizeof(bytes)) > 0)
            ;
        _exit(0);
    }
    (void)close(fds[1]);
    start = clock_mono_ns();
    for (size_t i = 0; i < calls; i++) {
        uint64_t t = clock_mono_ns();
        if (write(fds[0], bytes, sizeof(bytes)) != sizeof(bytes) ||
            read(fds[0], bytes, sizeof(bytes)) <= 0)
            return 1;
        ns[i] = clock_mono_ns() - t;
    }
    print_result(ns, calls, clock_mono_ns() - start);
    (void)close(fds[0]);
    (void)waitpid(child, NULL, 0);
    return 0;
}

struct slot {
    struct grpc_client_call *call;
    uint64_t start;
};

static int start(struct grpc_client *c, struct slot *s)
{
    Runtime__V1__VersionRequest rq = RUNTIME__V1__VERSION_REQUEST__INIT;

    rq.version = (char[]){"0.1.0"};
    s->start = clock_mono_ns();
    return grpc_client_start(c, "/runtime.v1.RuntimeService/Version", &rq.base,
                             &runtime__v1__version_response__descriptor, -1, &s->call, NULL);
}

/* Waits for the answer and its end. */
static int finish(struct slot *s, uint64_t *ns)
{
    ProtobufCMessage *m = NULL;
    int r = grpc_client_next(s->call, -1, &m, NULL);

    if (r <= 0)
        return -1;
    protobuf_c_message_free_unpacked(m, NULL);
    r = grpc_client_next(s->call, -1, &m, NULL);
    *ns = clock_mono_ns() - s->start;
    grpc_client_call_free(s->call);
    return r;
}

static int run_load(const char *path, size_t calls, size_t in_flight, uint64_t *ns)
{
    _cleanup_(grpc_client_freep) struct grpc_client *c = NULL;
    _cleanup_(freep) struct slot *slots = xcalloc(in_flight, sizeof(*slots));
    uint64_t begin;
    int r = grpc_client_connect_unix(path, &c, NULL);

    begin = clock_mono_ns();
    for (size_t i = 0; r >= 0 && i < calls + in_flight; i++) {
        struct slot *s = &slots[i % in_flight];
        if (i >= in_flight)
            r = finish(s, &ns[i - in_flight]);
        if (r >= 0 && i < calls)
            r = start(c, s);
    }
    if (r < 0)
        return 1;
    print_result(ns, calls, clock_mono_ns() - begin);
    return 0;
}

int main(int argc, char **argv)
{
    _cleanup_(freep) uint64_t *ns = NULL;
    uint64_t calls = 0, in_flight = 1;
    bool floor = argc == 3 && strcmp(argv[1], "--floor") == 0;

    if ((!floor && argc != 4) || parse_u64(argv[2], 10000000, &calls) < 0 ||
        (!floor && (parse_u64(argv[3], 256, &in_flight) < 0 || in_flight == 0))) {
        fprintf(stderr, "usage: grpc-load SOCKET CALLS IN_FLIGHT | --floor CALLS\n");
        return 2;
    }
    ns = xcalloc(calls + 1, sizeof(*ns));
    return floor ? run_floor(calls, ns) : run_load(argv[1], calls, in_flight, ns);
}
