/* SPDX-License-Identifier: Apache-2.0 */
/* Latencies of CRI calls over a socket, for benchmarks; one JSON object on stdout, times in ns, each from
 * start to answer: {"latency_ns":[…],"elapsed_ns":…}
 *
 *   grpc-load SOCKET CALLS IN_FLIGHT          Version
 *   grpc-load --pace US SOCKET CALLS METHOD   Version or ListPodSandbox, one at a time, one every US
 *   grpc-load --exec SOCKET CALLS CONTAINER COMMAND…   ExecSync, one at a time; each must exit with 0
 *   grpc-load --floor CALLS [PACE_US]                    200 bytes there and back between two processes over a
 *                                             socket pair: what the machine itself costs */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
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

static void wait_until(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000U),
                          .tv_nsec = (long)(ns % 1000000000U)};

    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static int run_floor(size_t calls, uint64_t pace_ns, uint64_t *ns)
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
        uint64_t t;

        if (pace_ns)
            wait_until(start + i * pace_ns);
        t = clock_mono_ns();
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

#define SERVICE "/runtime.v1.RuntimeService/"

struct load {
    const char *method;
    const ProtobufCMessage *request;
    const ProtobufCMessageDescriptor *answer;
    size_t in_flight;
    uint64_t pace_ns; /* 0: as fast as it goes */
};

struct slot {
    struct grpc_client_call *call;
    uint64_t start;
};

static int start(struct grpc_client *c, const struct load *load, struct slot *s)
{
    s->start = clock_mono_ns();
    return grpc_client_start(c, load->method, load->request, load->answer, -1, &s->call, NULL);
}

static bool is_good(const struct load *load, const ProtobufCMessage *m)
{
    if (load->answer != &runtime__v1__exec_sync_response__descriptor)
        return true;
    return ((const Runtime__V1__ExecSyncResponse *)(const void *)m)->exit_code == 0;
}

/* Waits for the answer and its end. */
static int finish(const struct load *load, struct slot *s, uint64_t *ns)
{
    _cleanup_(error_freep) struct error *err = NULL;
    ProtobufCMessage *m = NULL;
    int r = grpc_client_next(s->call, -1, &m, &err);

    if (r <= 0) {
        (void)fprintf(stderr, "grpc-load: %s: %s\n", load->method, error_text(err, r));
        return -1;
    }
    if (!is_good(load, m)) {
        (void)fprintf(stderr, "grpc-load: the command failed\n");
        r = -1;
    }
    protobuf_c_message_free_unpacked(m, NULL);
    if (r > 0)
        r = grpc_client_next(s->call, -1, &m, NULL);
    *ns = clock_mono_ns() - s->start;
    grpc_client_call_free(s->call);
    return r;
}

static int run_load(const struct load *load, const char *path, size_t calls, uint64_t *ns)
{
    _cleanup_(grpc_client_freep) struct grpc_client *c = NULL;
    _cleanup_(freep) struct slot *slots = xcalloc(load->in_flight, sizeof(*slots));
    uint64_t begin;
    int r = grpc_client_connect_unix(path, &c, NULL);

    begin = clock_mono_ns();
    for (size_t i = 0; r >= 0 && i < calls + load->in_flight; i++) {
        struct slot *s = &slots[i % load->in_flight];
        if (i >= load->in_flight)
            r = finish(load, s, &ns[i - load->in_flight]);
        if (load->pace_ns)
            wait_until(begin + i * load->pace_ns);
        if (r >= 0 && i < calls)
            r = start(c, load, s);
    }
    if (r < 0)
        return 1;
    print_result(ns, calls, clock_mono_ns() - begin);
    return 0;
}

static int usage(void)
{
    (void)fprintf(stderr, "usage: grpc-load SOCKET CALLS IN_FLIGHT\n"
                          "       grpc-load --pace US SOCKET CALLS Version|ListPodSandbox\n"
                          "       grpc-load --exec SOCKET CALLS CONTAINER COMMAND...\n"
                          "       grpc-load --floor CALLS [PACE_US]\n");
    return 2;
}

int main(int argc, char **argv)
{
    Runtime__V1__VersionRequest version = RUNTIME__V1__VERSION_REQUEST__INIT;
    Runtime__V1__ListPodSandboxRequest list = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
    Runtime__V1__ExecSyncRequest exec = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
    struct load load = {.method = SERVICE "Version",
                        .request = &version.base,
                        .in_flight = 1,
                        .answer = &runtime__v1__version_response__descriptor};
    const char *mode = argc > 1 && argv[1][0] == '-' ? argv[1] : "";
    char **args = argv + (mode[0] ? 2 : 1);
    int n = argc - (mode[0] ? 2 : 1);
    _cleanup_(freep) uint64_t *ns = NULL;
    uint64_t calls = 0, number = 1;

    version.version = (char[]){"0.1.0"};
    if (strcmp(mode, "--pace") == 0) {
        if (n != 4 || parse_u64(args[0], 10000000, &number) < 0)
            return usage();
        load.pace_ns = number * 1000;
        args++;
        if (strcmp(args[2], "ListPodSandbox") == 0) {
            load.method = SERVICE "ListPodSandbox";
            load.request = &list.base;
            load.answer = &runtime__v1__list_pod_sandbox_response__descriptor;
        }
    } else if (strcmp(mode, "--exec") == 0) {
        if (n < 4)
            return usage();
        exec.container_id = args[2];
        exec.cmd = args + 3;
        exec.n_cmd = (size_t)n - 3;
        load.method = SERVICE "ExecSync";
        load.request = &exec.base;
        load.answer = &runtime__v1__exec_sync_response__descriptor;
    } else if (strcmp(mode, "--floor") == 0) {
        if (n < 1 || n > 2 || (n == 2 && parse_u64(args[1], 10000000, &number) < 0))
            return usage();
        load.pace_ns = n == 2 ? number * 1000 : 0;
        args--;
    } else if (mode[0] || n != 3 || parse_u64(args[2], 256, &number) < 0 || number == 0) {
        return usage();
    } else {
        load.in_flight = number;
    }
    if (parse_u64(args[1], 10000000, &calls) < 0)
        return usage();
    ns = xcalloc(calls + 1, sizeof(*ns));
    return strcmp(mode, "--floor") == 0 ? run_floor(calls, load.pace_ns, ns)
                                        : run_load(&load, args[0], calls, ns);
}
