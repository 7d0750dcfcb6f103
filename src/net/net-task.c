/* SPDX-License-Identifier: Apache-2.0 */
/* The child of net_task_run(). One SOCK_SEQPACKET message carries result, text, data and fd, so there
 * is no half of an answer; end of file without one means that the child died. */
#include "net/net-task.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fdpass.h"
#include "base/str.h"
#include "net/netns.h"

#define TEXT_MAX 1024
#define REAP_NS 200000000ULL

struct answer {
    int r;
    int class;
    char text[TEXT_MAX];
    /* data follows */
};

_Noreturn static void child(int sock, int netns_fd, net_task_fn fn, void *arg, size_t data_size)
{
    struct answer *a = xcalloc(1, sizeof(*a) + data_size);
    struct net_task_reply reply = {.fd = -EBADF, .data = a + 1, .data_size = data_size};
    struct error *err = NULL;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* an undo after a crash must not race with us */
    if (netns_fd >= 0 && setns(netns_fd, CLONE_NEWNET) < 0)
        a->r = error_set(&err, -errno, "cannot enter the network namespace: %s", strerror(errno));
    else
        a->r = fn(arg, &reply, &err);
    if (a->r < 0) {
        a->class = (int)error_class_of(err, a->r);
        (void)snprintf(a->text, sizeof(a->text), "%s", error_text(err, a->r));
    }
    if (fdpass_send(sock, a, sizeof(*a) + data_size, &reply.fd, a->r == 0 && reply.fd >= 0) < 0)
        _exit(1);
    _exit(0);
}

/* 0 when there is something to read. */
static int wait_readable(int sock, uint64_t end_ns)
{
    for (;;) {
        struct pollfd p = {.fd = sock, .events = POLLIN};
        uint64_t now = clock_mono_ns();
        int n;

        if (now >= end_ns)
            return -ETIMEDOUT;
        n = poll(&p, 1, (int)((end_ns - now) / 1000000 + 1));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

static int receive(int sock, void *data, size_t data_size, int *ret_fd, struct error **err)
{
    _cleanup_(freep) struct answer *a = xcalloc(1, sizeof(*a) + data_size);
    _cleanup_(closep) int fd = -EBADF;
    size_t n_fds = 0;
    ssize_t n;
    int r;

    r = wait_readable(sock, clock_mono_ns() + (uint64_t)NETNS_DEADLINE_MS * 1000000);
    if (r < 0)
        return error_set(err, r, "work in the network namespace did not end within %d s",
                         NETNS_DEADLINE_MS / 1000);
    n = fdpass_recv(sock, a, sizeof(*a) + data_size, &fd, 1, &n_fds);
    if (n != (ssize_t)(sizeof(*a) + data_size))
        return error_set(err, -EIO, "the helper in the network namespace died");
    if (a->r < 0) {
        a->text[TEXT_MAX - 1] = '\0';
        return error_set_class(err, (enum error_class)a->class, a->r, "%s", a->text);
    }
    if (data_size > 0)
        memcpy(data, a + 1, data_size);
    if (ret_fd)
        *ret_fd = TAKE_FD(fd);
    return 0;
}

/* The answer was the child's last act, so waiting is short. One that is late is killed and waited for
 * a moment; if it hangs in the kernel even so, it stays behind as a zombie of this process. */
static void reap(pid_t pid, bool late)
{
    _cleanup_(closep) int pidfd = -EBADF;

    if (late) {
        (void)kill(pid, SIGKILL);
        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd >= 0)
            (void)wait_readable(pidfd, clock_mono_ns() + REAP_NS);
    }
    while (waitpid(pid, NULL, late ? WNOHANG : 0) < 0 && errno == EINTR)
        ;
}

int net_task_run(int netns_fd, net_task_fn fn, void *arg, void *data, size_t data_size, int *ret_fd,
                 struct error **err)
{
    int sock[2], r;
    pid_t pid;

    if (data_size > NET_TASK_DATA_MAX)
        return error_set(err, -E2BIG, "too much data for a network helper");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) < 0)
        return error_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    pid = fork();
    if (pid < 0) {
        r = error_set(err, -errno, "cannot start a network helper: %s", strerror(errno));
        close_fd(sock[0]);
        close_fd(sock[1]);
        return r;
    }
    if (pid == 0) {
        close_fd(sock[0]);
        child(sock[1], netns_fd, fn, arg, data_size);
    }
    close_fd(sock[1]);
    r = receive(sock[0], data, data_size, ret_fd, err);
    close_fd(sock[0]);
    reap(pid, r == -ETIMEDOUT);
    return r;
}
