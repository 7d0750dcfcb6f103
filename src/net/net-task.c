/* SPDX-License-Identifier: Apache-2.0 */
/* The child of net_task_start(). One SOCK_SEQPACKET message carries result, text, data and fd, so
 * there is no half of an answer. It is read when the child has ended: then nothing of the child is
 * left, whatever it was about, and a missing message means that it died. */
#include "net/net-task.h"

#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fdpass.h"
#include "base/str.h"

#define TEXT_MAX 1024
#define STUCK_MS 5000 /* from SIGKILL on: longer than that only a hang in the kernel lasts */
#define ACCURACY_US 1000

struct answer {
    int r;
    int class;
    char text[TEXT_MAX];
    /* data follows */
};

struct net_task {
    pid_t pid;                    /* not reaped while the object lives */
    int pidfd, sock;              /* owned */
    sd_event_source *end, *timer; /* owned */
    size_t data_size;
    int reason;       /* negative errno: why it was killed */
    net_done_fn done; /* NULL: nobody waits any more */
    void *userdata;
};

/* ---------------------------------------------------------------- in the child */

/* The descriptors of nexusd would live as long as the child: a TAP keeps its namespace, a connection
 * its peer. What stays is 0-2, the socket and the namespace. */
static int keep_only(int sock, int netns_fd)
{
    int low = sock, high = sock;

    if (netns_fd >= 0) {
        low = netns_fd < sock ? netns_fd : sock;
        high = netns_fd < sock ? sock : netns_fd;
    }
    if (low > 3)
        (void)syscall(SYS_close_range, 3U, (unsigned)low - 1, 0U);
    if (high > low + 1)
        (void)syscall(SYS_close_range, (unsigned)low + 1, (unsigned)high - 1, 0U);
    return (int)syscall(SYS_close_range, (unsigned)high + 1, ~0U, 0U);
}

_Noreturn static void child(int sock, int netns_fd, net_task_fn fn, void *arg, size_t data_size,
                            pid_t parent)
{
    struct answer *a = xcalloc(1, sizeof(*a) + data_size);
    struct net_task_reply reply = {.fd = -EBADF, .data = a + 1, .data_size = data_size};
    struct error *err = NULL;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* an undo after a crash must not race with us */
    if (getppid() != parent || keep_only(sock, netns_fd) < 0)
        _exit(1);
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

/* ---------------------------------------------------------------- the end */

static void task_destroy(struct net_task *t)
{
    sd_event_source_disable_unref(t->end);
    sd_event_source_disable_unref(t->timer);
    close_fd(t->pidfd);
    close_fd(t->sock);
    free(t);
}

static int killed_text(const struct net_task *t, bool stuck, struct error **err)
{
    const char *end = stuck ? " (it hangs in the kernel)" : "";

    if (t->reason == -ECANCELED)
        return error_set(err, t->reason, "work in the network namespace was cancelled%s", end);
    return error_set(err, t->reason, "work in the network namespace did not end within %d s%s",
                     NETNS_DEADLINE_MS / 1000, end);
}

/* What the child said before it ended. */
static int take_answer(const struct net_task *t, struct answer *a, int *ret_fd, struct error **err)
{
    size_t size = sizeof(*a) + t->data_size, n_fds = 0;
    ssize_t n = fdpass_recv(t->sock, a, size, ret_fd, 1, &n_fds);

    if (n_fds == 0)
        *ret_fd = -EBADF;
    if (n != (ssize_t)size)
        return error_set(err, -EIO, "the helper in the network namespace died");
    if (a->r >= 0)
        return 0;
    a->text[TEXT_MAX - 1] = '\0';
    return error_set_class(err, (enum error_class)a->class, a->r, "%s", a->text);
}

/* done is called at most once. */
static void report(struct net_task *t, bool stuck)
{
    _cleanup_(freep) struct answer *a = xcalloc(1, sizeof(*a) + t->data_size);
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(closep) int fd = -EBADF;
    net_done_fn done = t->done;
    int r;

    t->done = NULL;
    if (!done)
        return;
    r = t->reason < 0 ? killed_text(t, stuck, &err) : take_answer(t, a, &fd, &err);
    if (r < 0)
        fd = close_fd(fd);
    done(t->userdata, r, TAKE_FD(fd), r == 0 && t->data_size > 0 ? a + 1 : NULL, err);
}

static int on_end(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    struct net_task *t = userdata;
    siginfo_t si;

    (void)waitid((idtype_t)P_PIDFD, (id_t)t->pidfd, &si, WEXITED | WNOHANG);
    report(t, false);
    task_destroy(t);
    return 0;
}

static void kill_now(struct net_task *t, int reason)
{
    if (t->reason < 0)
        return;
    t->reason = reason;
    (void)syscall(SYS_pidfd_send_signal, t->pidfd, SIGKILL, NULL, 0);
    (void)sd_event_source_set_time_relative(t->timer, STUCK_MS * 1000ULL);
    (void)sd_event_source_set_enabled(t->timer, SD_EVENT_ONESHOT);
}

/* The second time: it hangs in the kernel. Only its reaping is left then. */
static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
    struct net_task *t = userdata;

    if (t->reason < 0)
        report(t, true);
    else
        kill_now(t, -ETIMEDOUT);
    return 0;
}

void net_task_cancel(struct net_task *t)
{
    kill_now(t, -ECANCELED);
}

void net_task_free(struct net_task *t)
{
    if (!t)
        return;
    kill_now(t, -ECANCELED);
    t->done = NULL;
}

/* ---------------------------------------------------------------- the beginning */

static int watch(struct net_task *t, sd_event *event)
{
    int r;

    t->pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0);
    if (t->pidfd < 0)
        return -errno;
    r = fd_set_nonblock(t->sock, 1);
    if (r >= 0)
        r = sd_event_add_io(event, &t->end, t->pidfd, EPOLLIN, on_end, t);
    if (r >= 0)
        r = sd_event_add_time_relative(event, &t->timer, CLOCK_MONOTONIC,
                                       NETNS_DEADLINE_MS * 1000ULL, ACCURACY_US, on_timer, t);
    return r < 0 ? r : 0;
}

int net_task_start(sd_event *event, int netns_fd, net_task_fn fn, void *arg, size_t data_size,
                   net_done_fn done, void *userdata, struct net_task **ret, struct error **err)
{
    struct net_task *t;
    pid_t parent = getpid();
    int sock[2], r;

    if (data_size > NET_TASK_DATA_MAX)
        return error_set(err, -E2BIG, "too much data for a network helper");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) < 0)
        return error_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    t = xcalloc(1, sizeof(*t));
    *t = (struct net_task){.pidfd = -EBADF,
                           .sock = sock[0],
                           .data_size = data_size,
                           .done = done,
                           .userdata = userdata};
    t->pid = fork();
    if (t->pid == 0)
        child(sock[1], netns_fd, fn, arg, data_size, parent);
    r = t->pid < 0 ? -errno : 0;
    close_fd(sock[1]);
    if (r == 0)
        r = watch(t, event);
    if (r < 0) {
        if (t->pid > 0) { /* it runs, but cannot be watched */
            (void)kill(t->pid, SIGKILL);
            (void)waitpid(t->pid, NULL, 0);
        }
        task_destroy(t);
        return error_set(err, r, "cannot start a network helper: %s", strerror(-r));
    }
    *ret = t;
    return 0;
}
