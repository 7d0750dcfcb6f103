/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/process.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/filter.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define NR_clone3 435
#define NR_pidfd_send_signal 424
#define REAP_PER_TURN 128

/* the kernel's struct clone_args, as far as cgroup (size 88) */
struct clone3_args {
    _Alignas(8) uint64_t flags;
    uint64_t pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};

static pid_t fork_into(const struct spawn *s, int *ret_pidfd)
{
    int pidfd = -EBADF;
    struct clone3_args args = {
        .flags = s->namespaces | CLONE_PIDFD | (s->cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = s->cgroup_fd >= 0 ? (uint64_t)s->cgroup_fd : 0,
    };
    long pid = syscall(NR_clone3, &args, sizeof(args));

    if (pid < 0)
        return -errno;
    *ret_pidfd = pidfd;
    return (pid_t)pid;
}

/* What the agent has changed (start_signals) and execve would not. */
static void reset_signals(void)
{
    struct sigaction sa = {.sa_handler = SIG_DFL};
    sigset_t none;

    (void)sigaction(SIGPIPE, &sa, NULL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void reap_turn(struct agent *a);

/* Before the first child. The agent has its own vsock sockets by now; the host takes no second control
 * connection. In a kernel that is not its own the agent keeps to its children. */
static int filter(struct agent *a, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    int r;

    if (a->filtered)
        return 0;
    r = a->set.guest ? filter_guard_vsock(&a->vsock_guard, &why) : -EOPNOTSUPP;
    if (r < 0) {
        if (why)
            log_notice("%s; a filter of system calls in its place", why->message);
        r = filter_install_syscalls(err);
    }
    a->filtered = r == 0;
    return r;
}

int process_spawn(struct agent *a, const struct spawn *s,
                  void (*on_exit)(struct process *, int, void *), void *userdata,
                  struct process **ret, int *ret_status_fd, struct error **err)
{
    _cleanup_(freep) struct process *p = calloc(1, sizeof(*p));
    int status[2];
    int pidfd = -EBADF;
    pid_t pid;
    int r;

    if (!p)
        return error_set(err, -ENOMEM, "new process");
    r = filter(a, err);
    if (r < 0)
        return r;
    if (pipe2(status, O_CLOEXEC) < 0)
        return error_set(err, -errno, "status pipe");
    if (s->pidns_of >= 0 && setns(s->pidns_of, CLONE_NEWPID) < 0) {
        r = -errno;
        (void)close(status[0]);
        (void)close(status[1]);
        return error_set_class(err, ERROR_PRECONDITION, r, "the container is not running");
    }
    pid = fork_into(s, &pidfd);
    if (pid == 0) {
        reset_signals();
        log_set_sink(NULL); /* the agent's one would write to its connection */
        (void)close(status[0]);
        s->child(s->arg, status[1]);
        _exit(1);
    }
    if (s->pidns_of >= 0 && setns(a->self_pidns, CLONE_NEWPID) < 0) {
        log_error_errno(-errno, "cannot return to the own PID namespace");
        abort(); /* every later child would be born in the container's */
    }
    (void)close(status[1]);
    if (pid < 0) {
        (void)close(status[0]);
        if (s->pidns_of >= 0 && pid == -ENOMEM) /* what the kernel says of a dead namespace */
            return error_set_class(err, ERROR_PRECONDITION, pid, "the container is not running");
        return error_set(err, pid, "cannot make a process");
    }
    (void)fcntl(status[0], F_SETFL, O_NONBLOCK);
    p->pid = pid;
    p->pidfd = pidfd;
    p->on_exit = on_exit;
    p->userdata = userdata;
    list_append(&a->processes, &p->link);
    *ret_status_fd = status[0];
    *ret = TAKE(p);
    return 0;
}

void process_forget(struct process *p)
{
    if (p)
        p->on_exit = NULL;
}

void processes_free(struct agent *a)
{
    while (!list_is_empty(&a->processes)) {
        struct process *p = list_first(&a->processes, struct process, link);
        list_remove(&p->link);
        (void)close_fd(p->pidfd);
        free(p);
    }
}

int process_signal(const struct process *p, int signal)
{
    return syscall(NR_pidfd_send_signal, p->pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

void child_fail(int status_fd, int exit_code, int r, struct error *err)
{
    struct child_failure f = {
        .exit_code = exit_code,
        .error_code = r < 0 ? -r : r,
        .error_class = (int)error_class_of(err, r),
    };

    (void)snprintf(f.text, sizeof(f.text), "%s", error_text(err, r));
    (void)write_full(status_fd, &f, sizeof(f));
    _exit(exit_code);
}

int process_exit_code(int wait_status, uint32_t *ret_signal)
{
    if (WIFSIGNALED(wait_status)) {
        *ret_signal = (uint32_t)WTERMSIG(wait_status);
        return 128 + WTERMSIG(wait_status);
    }
    *ret_signal = 0;
    return WEXITSTATUS(wait_status);
}

static struct process *find(struct agent *a, pid_t pid)
{
    struct process *p;

    list_foreach (p, &a->processes, link)
        if (p->pid == pid)
            return p;
    return NULL;
}

static void reap_turn(struct agent *a)
{
    for (int n = 0; n < REAP_PER_TURN; n++) {
        int status = 0;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        struct process *p;

        if (pid <= 0)
            return;
        p = find(a, pid);
        if (!p)
            continue; /* an orphan that came to PID 1 */
        list_remove(&p->link);
        if (p->on_exit)
            p->on_exit(p, status, p->userdata);
        (void)close_fd(p->pidfd);
        free(p);
    }
    loop_defer_arm(a->reap_again);
}

static void on_reap_again(struct loop_source *s, void *userdata)
{
    reap_turn(userdata);
}

static void on_signal(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct signalfd_siginfo info[8];
    ssize_t n = read(fd, info, sizeof(info));

    (void)n; /* one signal can stand for many children: ask for them in any case */
    reap_turn(userdata);
}

/* Nothing is ignored but SIGPIPE, whoever started us: a child inherits what is. */
static void start_signals(void)
{
    struct sigaction sa = {.sa_handler = SIG_DFL};

    for (int sig = 1; sig < 65; sig++)
        (void)sigaction(sig, &sa, NULL); /* fails for KILL, STOP and libc's own: fine */
    sa.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &sa, NULL);
}

int process_start_reaper(struct agent *a)
{
    sigset_t mask;
    int r;

    start_signals();
    (void)sigemptyset(&mask);
    (void)sigaddset(&mask, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
        return -errno;
    a->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (a->signal_fd < 0)
        return -errno;
    if (!a->set.guest)
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    a->self_pidns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (a->self_pidns < 0)
        return -errno;
    r = loop_add_defer(a->loop, on_reap_again, a, &a->reap_again);
    if (r == 0)
        r = loop_add_io(a->loop, a->signal_fd, LOOP_READ, on_signal, a, &a->signal_source);
    return r;
}
