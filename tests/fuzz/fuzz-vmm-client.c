/* SPDX-License-Identifier: Apache-2.0 */
/* What a taken-over nexus-vmm may say to nexusd: bytes on a control connection with calls open (even first
 * byte) or on an exec connection. Nothing but an end of that connection may come of it. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pod/vmm-client.h"
#include "pod/vmm-exec.h"
#include "pod/vmm-socket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static sd_event *event;
static int dirfd_ = -1, listen_fd = -1;
static struct vmm_client *client;
static int ended;

static void on_answer(void *ud, int r, const Nexus__VmmState *state, const struct error *err)
{
    if ((r < 0) != (err != NULL))
        abort();
}

static void on_event(void *ud, const Nexus__ControlEvent *e)
{
}

static void on_closed(void *ud, int r, const char *why)
{
    vmm_client_free(client);
    client = NULL;
    ended = 1;
}

static void on_exec(void *ud, int r, const struct vmm_exec_result *result, const struct error *err)
{
    if ((r < 0) != (err != NULL) || (r >= 0 && (result->exit_code < 0 || result->exit_code > 255)))
        abort();
    ended = 1;
}

static char dir[] = "/tmp/nexus-fuzz-XXXXXX";

static void tear_down(void)
{
    (void)unlinkat(dirfd_, "s", 0);
    (void)rmdir(dir);
}

static void set_up(void)
{
    if (event)
        return;
    if (!mkdtemp(dir) || sd_event_new(&event) < 0)
        abort();
    dirfd_ = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    listen_fd = vmm_socket_listen(dirfd_, "s", NULL);
    if (listen_fd < 0 || atexit(tear_down) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct vmm_client_ops ops = {on_event, on_closed};
    Nexus__ExecSpec spec = NEXUS__EXEC_SPEC__INIT;
    struct vmm_exec *exec = NULL;
    int peer, r;

    if (size == 0)
        return 0;
    set_up();
    ended = 0;
    if (data[0] & 1)
        r = vmm_exec_start(event, dirfd_, "s", &spec, 0, on_exec, NULL, &exec, NULL);
    else
        r = vmm_client_connect(event, dirfd_, "s", 60000, &ops, on_answer, NULL, &client, NULL);
    peer = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (r < 0 || peer < 0)
        abort();
    for (size_t at = 1; at < size && !ended;) {
        ssize_t n = send(peer, data + at, size - at, MSG_NOSIGNAL);
        if (n > 0)
            at += (size_t)n;
        (void)sd_event_run(event, 0);
    }
    (void)close(peer);
    for (int i = 0; i < 1000 && !ended; i++)
        (void)sd_event_run(event, 0);
    if (!ended)
        abort();
    return 0;
}
