/* SPDX-License-Identifier: Apache-2.0 */
#include "net/cni-child.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/fdpass.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "net/cni.h"

#define READ_BYTES (32U << 10)
#define DRAIN_READS_MAX 64 /* after the end; a daemon that keeps stderr open could write for ever */
#define ACCURACY_US 1000

struct cni_child {
    pid_t pid; /* leader of its session and group; not reaped while the object lives */
    int pidfd, out_fd, err_fd;                                      /* owned */
    sd_event_source *exit_source, *out_source, *err_source, *timer; /* owned */
    struct buf out;
    struct buf tail;        /* up to twice the tail that counts; trimmed in halves */
    int reason;             /* see cni_outcome.r */
    bool killed;            /* SIGKILL was sent */
    cni_child_done_fn done; /* NULL: nobody waits any more */
    void *userdata;
};

static void disarm(sd_event_source **s)
{
    *s = sd_event_source_disable_unref(*s);
}

static void child_destroy(struct cni_child *c)
{
    disarm(&c->exit_source);
    disarm(&c->out_source);
    disarm(&c->err_source);
    disarm(&c->timer);
    close_fd(c->pidfd);
    close_fd(c->out_fd);
    close_fd(c->err_fd);
    buf_done(&c->out);
    buf_done(&c->tail);
    free(c);
}

/* ---------------------------------------------------------------- ending */

static void signal_group(const struct cni_child *c, int sig)
{
    if (c->pid > 1)
        (void)kill(-c->pid, sig);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata);

static void arm_timer(struct cni_child *c, uint64_t ms)
{
    sd_event *event = sd_event_source_get_event(c->exit_source);

    disarm(&c->timer);
    /* without the timer the process could outlive its deadline: do at once what it was for */
    if (sd_event_add_time_relative(event, &c->timer, CLOCK_MONOTONIC, ms * 1000, ACCURACY_US,
                                   on_timer, c) < 0)
        signal_group(c, SIGKILL);
}

static void kill_now(struct cni_child *c)
{
    if (c->killed)
        return;
    c->killed = true;
    signal_group(c, SIGKILL);
    arm_timer(c, CNI_STUCK_MS);
}

static void report(struct cni_child *c, int exit_code, int sig)
{
    size_t skip = c->tail.used > LIMIT_CNI_STDERR_BYTES ? c->tail.used - LIMIT_CNI_STDERR_BYTES : 0;
    struct cni_outcome o = {
        .r = c->reason,
        .exit_code = exit_code,
        .signal = sig,
        .out = c->out.used ? (const char *)c->out.data : "",
        .out_len = c->out.used,
        .tail = c->tail.used ? (const char *)c->tail.data + skip : "",
        .tail_len = c->tail.used - skip,
    };
    cni_child_done_fn done = c->done;

    c->done = NULL;
    if (done)
        done(&o, c->userdata);
}

/* Nobody waits for it any more: only its reaping is left. */
static void abandon(struct cni_child *c)
{
    c->done = NULL;
    disarm(&c->out_source);
    disarm(&c->err_source);
    disarm(&c->timer);
    c->out_fd = close_fd(c->out_fd);
    c->err_fd = close_fd(c->err_fd);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
    struct cni_child *c = userdata;

    if (!c->killed) {
        kill_now(c);
        return 0;
    }
    report(c, -1, 0); /* it hangs in the kernel */
    abandon(c);
    return 0;
}

/* ---------------------------------------------------------------- reading */

static void keep_tail(struct cni_child *c, const uint8_t *bytes, size_t len)
{
    if (c->tail.used + len > c->tail.max)
        buf_consume(&c->tail, c->tail.used > LIMIT_CNI_STDERR_BYTES
                                  ? c->tail.used - LIMIT_CNI_STDERR_BYTES
                                  : 0);
    (void)buf_append(&c->tail, bytes, len);
}

/* One read. 1: more may come; 0: nothing now; negative: end of file or error. */
static int read_once(struct cni_child *c, int fd)
{
    uint8_t bytes[8192];
    ssize_t n = read(fd, bytes, sizeof(bytes));

    if (n < 0)
        return errno == EAGAIN ? 0 : errno == EINTR ? 1 : -errno;
    if (n == 0)
        return -EPIPE;
    if (fd == c->err_fd) {
        keep_tail(c, bytes, (size_t)n);
    } else if (buf_append(&c->out, bytes, (size_t)n) < 0) {
        if (c->reason == 0)
            c->reason = -EMSGSIZE;
        return -EMSGSIZE;
    }
    return 1;
}

static int on_output(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    struct cni_child *c = userdata;
    int r = 1;

    for (unsigned n = 0; r > 0 && n < READ_BYTES / 8192; n++)
        r = read_once(c, fd);
    if (r == -EMSGSIZE)
        kill_now(c);
    if (r < 0)
        disarm(s == c->out_source ? &c->out_source : &c->err_source);
    return 0;
}

/* What was in the pipes when the leader ended. Who else holds them is not waited for. */
static void drain(struct cni_child *c, int fd)
{
    int r = 1;

    for (unsigned n = 0; r > 0 && n < DRAIN_READS_MAX + LIMIT_CNI_STDOUT_BYTES / 8192; n++)
        r = read_once(c, fd);
}

static int on_child_exit(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    struct cni_child *c = userdata;
    siginfo_t si = {0};
    bool exited;

    signal_group(c, SIGKILL); /* what it left behind; the zombie still holds the number */
    if (c->done) {
        if (c->out_source)
            drain(c, c->out_fd);
        if (c->err_source)
            drain(c, c->err_fd);
    }
    if (waitid((idtype_t)P_PIDFD, (id_t)c->pidfd, &si, WEXITED | WNOHANG) < 0)
        si = (siginfo_t){0};
    exited = si.si_code == CLD_EXITED;
    report(c, exited ? si.si_status : -1, exited ? 0 : si.si_status);
    child_destroy(c);
    return 0;
}

/* ---------------------------------------------------------------- starting */

/* Descriptors 0-2 of our own must not be overwritten by the child's before they are used. */
static int above_stdio(int fd)
{
    int high;

    if (fd < 0 || fd > 2)
        return fd;
    high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close_fd(fd);
    return high;
}

static int make_input(const char *text, int *ret)
{
    _cleanup_(closep) int fd = above_stdio(memfd_create("cni-stdin", MFD_CLOEXEC));
    int r;

    if (fd < 0)
        return -errno;
    r = write_full(fd, text, strlen(text));
    if (r < 0)
        return r;
    if (lseek(fd, 0, SEEK_SET) < 0)
        return -errno;
    *ret = TAKE_FD(fd);
    return 0;
}

static int make_pipe(int *ret_read, int *ret_write)
{
    int p[2], r;

    if (pipe2(p, O_CLOEXEC) < 0)
        return -errno;
    *ret_read = above_stdio(p[0]);
    *ret_write = above_stdio(p[1]);
    if (*ret_read < 0 || *ret_write < 0)
        return -EMFILE;
    r = fd_set_nonblock(*ret_read, 1);
    return r;
}

static int spawn(const char *path, char *const *env, int in, int out, int err_out, pid_t *ret)
{
    char *const argv[] = {(char *)(uintptr_t)path, NULL};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int r;

    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    if (posix_spawn_file_actions_init(&fa) != 0)
        return -ENOMEM;
    if (posix_spawnattr_init(&attr) != 0) {
        (void)posix_spawn_file_actions_destroy(&fa);
        return -ENOMEM;
    }
    r = posix_spawn_file_actions_adddup2(&fa, in, 0);
    r = r ? r : posix_spawn_file_actions_adddup2(&fa, out, 1);
    r = r ? r : posix_spawn_file_actions_adddup2(&fa, err_out, 2);
    r = r ? r : posix_spawn_file_actions_addclosefrom_np(&fa, 3);
    r = r ? r : posix_spawn_file_actions_addchdir_np(&fa, "/");
    r = r ? r : posix_spawnattr_setsigmask(&attr, &none);
    r = r ? r : posix_spawnattr_setsigdefault(&attr, &all);
    r = r ? r
          : posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                                POSIX_SPAWN_SETSIGDEF);
    r = r ? r : posix_spawn(ret, path, &fa, &attr, argv, env);
    (void)posix_spawnattr_destroy(&attr);
    (void)posix_spawn_file_actions_destroy(&fa);
    return -r;
}

static int start(struct cni_child *c, const char *path, char *const *env, const char *input)
{
    _cleanup_(closep) int in = -EBADF, out = -EBADF, err_out = -EBADF;
    int r;

    r = make_input(input, &in);
    if (r == 0)
        r = make_pipe(&c->out_fd, &out);
    if (r == 0)
        r = make_pipe(&c->err_fd, &err_out);
    if (r == 0)
        r = spawn(path, env, in, out, err_out, &c->pid);
    if (r < 0)
        return r;
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    return c->pidfd < 0 ? -errno : 0;
}

static int watch(struct cni_child *c, sd_event *event)
{
    int r = sd_event_add_io(event, &c->exit_source, c->pidfd, EPOLLIN, on_child_exit, c);

    if (r >= 0)
        r = sd_event_add_io(event, &c->out_source, c->out_fd, EPOLLIN, on_output, c);
    if (r >= 0)
        r = sd_event_add_io(event, &c->err_source, c->err_fd, EPOLLIN, on_output, c);
    return r < 0 ? r : 0;
}

int cni_child_start(sd_event *event, const char *path, char *const *env, const char *input,
                    cni_child_done_fn done, void *userdata, struct cni_child **ret,
                    struct error **err)
{
    struct cni_child *c = xcalloc(1, sizeof(*c));
    int r;

    c->pidfd = c->out_fd = c->err_fd = -EBADF;
    c->done = done;
    c->userdata = userdata;
    buf_init(&c->out, LIMIT_CNI_STDOUT_BYTES);
    buf_init(&c->tail, (size_t)2 * LIMIT_CNI_STDERR_BYTES);
    r = start(c, path, env, input);
    if (r == 0)
        r = watch(c, event);
    if (r < 0) {
        if (c->pid > 0) { /* it runs, but cannot be watched */
            signal_group(c, SIGKILL);
            (void)waitpid(c->pid, NULL, 0);
        }
        child_destroy(c);
        return error_set_class(err, ERROR_INTERNAL, r, "cannot run %s: %s", path, strerror(-r));
    }
    *ret = c;
    return 0;
}

void cni_child_terminate(struct cni_child *c, int reason)
{
    if (c->reason == 0)
        c->reason = reason;
    if (c->killed || c->timer)
        return;
    signal_group(c, SIGTERM);
    arm_timer(c, CNI_TERM_GRACE_MS);
}

void cni_child_free(struct cni_child *c)
{
    if (!c)
        return;
    signal_group(c, SIGKILL);
    abandon(c);
}
