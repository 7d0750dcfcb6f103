/* SPDX-License-Identifier: Apache-2.0 */
/* What a client sends to the control socket, through the whole supervisor with a fake guest behind it: any
 * bytes, descriptors with each piece. First byte: bit 0: a valid CONTROL hello goes first. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fdpass.h"
#include "base/log.h"
#include "event/loop.h"
#include "fakes/fake-agent.h"
#include "fakes/mem-transport.h"
#include "vmm/control-internal.h"
#include "vmm/supervisor-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
    if (!ok)
        abort();
}

static int add_region(void *ud, const char *key, const char *what, const int *fds,
                      const uint64_t *segment_bytes, char *const *names, size_t n, bool more,
                      uint64_t *ret_gpa, uint64_t *ret_bytes, struct error **err)
{
    must(key[0] && n > 0 && fds[0] >= 0 && segment_bytes);
    if (more)
        return 0;
    *ret_gpa = *(uint64_t *)ud += 1U << 21;
    *ret_bytes = 1U << 21;
    return 0;
}

static void forget_region(void *ud, const char *key)
{
    must(key[0] != '\0');
}

static int remove_region(void *ud, uint64_t gpa)
{
    must(gpa != 0);
    return 0;
}

static void stop_vm(void *ud)
{
}

static void exit_process(void *ud, int code)
{
    must(code == 0);
}

static const struct supervisor_host_ops ops = {
    .add_region = add_region,
    .forget_region = forget_region,
    .remove_region = remove_region,
    .stop_vm = stop_vm,
    .exit_process = exit_process,
};

static void on_end(void *ud, Nexus__VmmState__End end, const char *detail)
{
}

static void run(const uint8_t *data, size_t size, int listener, int file)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct fake_script script = {0};
    struct mem_transport *t;
    struct fake_agent *agent;
    struct supervisor *sup;
    struct loop *loop;
    uint64_t gpa = 1ULL << 32;
    uint8_t sink[4096];
    int pair[2];

    log_set_level((enum log_level)(LOG_ERROR - 1));
    must(bind(listener, (struct sockaddr *)&addr, sizeof(sa_family_t)) == 0 &&
         listen(listener, 1) == 0);
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    must(loop_new(&loop) == 0);
    must(mem_transport_new(loop, &t) == 0);
    must(supervisor_new(loop, mem_transport_host(t), listener, &ops, &gpa, &sup) == 0);
    agent = fake_agent_new(loop, mem_transport_guest(t), &script, on_end, NULL);
    must(control_adopt(sup->control, pair[0]) == 0);
    for (int i = 0; i < 6; i++)
        must(loop_turn(loop, 0) >= 0);
    if (data[0] & 1) { /* hello{version 1}, configure{} */
        must(send(pair[1], "\x08\0\0\0\x04\x1a\x02\x08\x01\x08\0\0\0\x04\x08\x01\x42\x00", 18,
                  MSG_NOSIGNAL) == 18);
        for (int i = 0; i < 6; i++)
            must(loop_turn(loop, 0) >= 0);
    }
    for (size_t at = 1; at < size;) {
        size_t step = (size_t)data[at] + 1;
        ssize_t n;

        step = step < size - at ? step : size - at;
        n = fdpass_send(pair[1], data + at, step, &file, data[at] & 1);
        if (n <= 0)
            break;
        at += (size_t)n;
        for (int i = 0; i < 4; i++)
            must(loop_turn(loop, 0) >= 0);
        (void)!recv(pair[1], sink, sizeof(sink), MSG_DONTWAIT);
    }
    must(close(pair[1]) == 0);
    for (int i = 0; i < 8; i++)
        must(loop_turn(loop, 0) >= 0);
    supervisor_free(sup);
    fake_agent_free(agent);
    mem_transport_free(t);
    loop_free(loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int file;

    if (size < 1)
        return 0;
    file = memfd_create("file", MFD_CLOEXEC);
    run(data, size, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), file);
    must(close(file) == 0);
    return 0;
}
