/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/vmm-process.h"

#include <fcntl.h>
#include <jansson.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/numparse.h"
#include "base/str.h"

#define FDS_MAX 16
#define FIRST_FD 3
#define PID_FILE_BYTES 4096

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

int boot_id_read(const char *path, char ret[BOOT_ID_SIZE], struct error **err)
{
    _cleanup_(freep) char *text = NULL;
    int r = file_read_all(AT_FDCWD, path, 256, &text, NULL);

    if (r < 0)
        return error_set(err, r, "cannot read the boot id from %s: %s", path, strerror(-r));
    text[strcspn(text, "\n")] = '\0';
    if (strlen(text) != BOOT_ID_SIZE - 1 || strspn(text, "0123456789abcdef-") != BOOT_ID_SIZE - 1)
        return error_set(err, -EINVAL, "%s holds no boot id", path);
    memcpy(ret, text, BOOT_ID_SIZE);
    return 0;
}

/* Field 22 of /proc/PID/stat; the name in parentheses may hold anything. */
static int read_start_ticks(pid_t pid, uint64_t *ret)
{
    _cleanup_(freep) char *text = NULL;
    char path[64];
    char *rest, *field = NULL;
    int r;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    r = file_read_all(AT_FDCWD, path, 4096, &text, NULL);
    if (r < 0)
        return r == -ENOENT ? -ESRCH : r;
    rest = strrchr(text, ')');
    if (!rest)
        return -EBADMSG;
    rest += 2;
    for (int i = 3; i <= 22; i++)
        field = strsep(&rest, " ");
    return field ? parse_u64(field, INT64_MAX, ret) : -EBADMSG;
}

static int pidfd_open_(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    return fd < 0 ? -errno : fd;
}

/* ---- the child, between clone and exec: system calls only */

struct child_args {
    const struct vmm_spawn *s;
    char *const *argv;
    char *const *envp;
    int go;
    int high[FDS_MAX]; /* the descriptors, above every target number */
};

static void write_proc(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        ssize_t n = write(fd, text, strlen(text));
        (void)n; /* best effort: an ordinary priority for the OOM killer */
        (void)close(fd);
    }
}

static void reset_signals(void)
{
    struct sigaction sa = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        (void)sigaction(i, &sa, NULL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child(const struct child_args *a)
{
    char byte;
    int null = open("/dev/null", O_RDONLY);

    /* no write end of the pipe is left in here: our parent's death is end of file */
    if (read(a->go, &byte, 1) != 1)
        _exit(0);
    if (null < 0 || dup2(null, 0) < 0)
        _exit(125);
    for (size_t i = 0; i < a->s->n_fds; i++)
        if (dup2(a->high[i], FIRST_FD + (int)i) < 0) /* clears close-on-exec */
            _exit(125);
    if (syscall(SYS_close_range, (unsigned)FIRST_FD + (unsigned)a->s->n_fds, ~0U, 0) < 0)
        _exit(125);
    (void)setsid();
    (void)umask(077);
    reset_signals();
    write_proc("/proc/self/oom_score_adj", "0");
    if (chdir("/") < 0)
        _exit(125);
    (void)execve(a->s->path, a->argv, a->envp);
    _exit(126);
}

/* ---- the parent */

static pid_t clone_child(int cgroup_fd, int *ret_pidfd)
{
    struct clone_args args = {
        .flags = CLONE_PIDFD | (cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = cgroup_fd >= 0 ? (unsigned)cgroup_fd : 0U,
    };

    return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static char **build_argv(const struct vmm_spawn *s)
{
    char **argv = NULL;
    int number = FIRST_FD;

    strv_push(&argv, s->path);
    for (size_t i = 0; i < s->n_fds; i++, number++) {
        _cleanup_(freep) char *value = str_printf("fd:%d", number);
        if (!s->fds[i].option)
            continue;
        strv_push(&argv, s->fds[i].option);
        strv_push(&argv, value);
    }
    for (char *const *a = s->args; a && *a; a++)
        strv_push(&argv, *a);
    return argv;
}

int vmm_spawn(const struct vmm_spawn *given, struct vmm_process *ret, int *ret_go,
              struct error **err)
{
    _cleanup_(strv_freep) char **argv = NULL, **envp = NULL;
    _cleanup_(freep) char *log = NULL;
    struct vmm_fd fds[FDS_MAX];
    struct vmm_spawn s = *given;
    struct child_args a = {.s = &s};
    int pipe_fds[2];
    pid_t pid = -1;
    int r = 0;

    s.fds = fds;
    s.n_fds = 0;
    for (size_t i = 0; i < given->n_fds && s.n_fds < FDS_MAX; i++)
        if (given->fds[i].fd >= 0)
            fds[s.n_fds++] = given->fds[i];
    a.argv = argv = build_argv(&s);
    log = str_printf("NEXUS_LOG=%s", s.log_level ? s.log_level : "info");
    strv_push(&envp, "PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    strv_push(&envp, log);
    a.envp = envp;
    if (access(s.path, X_OK) < 0)
        return error_set_class(err, ERROR_INTERNAL, -errno, "cannot execute %s: %s", s.path,
                               strerror(errno));
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
    a.go = pipe_fds[0];
    for (size_t i = 0; i < s.n_fds; i++) {
        a.high[i] = fcntl(fds[i].fd, F_DUPFD_CLOEXEC, FIRST_FD + FDS_MAX + 1);
        if (a.high[i] < 0) {
            r = -errno;
            s.n_fds = i;
            break;
        }
    }
    if (r >= 0) {
        pid = clone_child(s.cgroup_fd, &ret->pidfd);
        if (pid == 0) {
            (void)close(pipe_fds[1]);
            child(&a);
        }
        r = pid < 0 ? -errno : 0;
    }
    (void)close(pipe_fds[0]);
    for (size_t i = 0; i < s.n_fds; i++)
        (void)close(a.high[i]);
    if (r < 0) {
        (void)close(pipe_fds[1]);
        return error_set(err, r, "cannot start %s: %s", s.path, strerror(-r));
    }
    ret->pid = pid;
    r = read_start_ticks(pid, &ret->start_ticks);
    if (r < 0) {
        (void)close(pipe_fds[1]); /* it exits by itself */
        vmm_process_close(ret);
        return error_set(err, r, "cannot read the start time of process %d", (int)pid);
    }
    *ret_go = pipe_fds[1];
    return 0;
}

int vmm_spawn_go(int go)
{
    ssize_t n = write(go, "", 1);

    return n == 1 ? 0 : -errno;
}

int vmm_process_save(int dirfd, const char *name, const struct vmm_process *p, const char *boot_id,
                     struct error **err)
{
    char text[256];
    int n =
        snprintf(text, sizeof(text), "{\"pid\": %d, \"start_ticks\": %llu, \"boot_id\": \"%s\"}\n",
                 (int)p->pid, (unsigned long long)p->start_ticks, boot_id);
    int r = file_write_atomic(dirfd, name, text, (size_t)n, 0600, false);

    return r < 0 ? error_set(err, r, "cannot write %s: %s", name, strerror(-r)) : 0;
}

int vmm_process_load(int dirfd, const char *name, const char *boot_id, struct vmm_process *ret,
                     struct error **err)
{
    _cleanup_(freep) char *text = NULL;
    size_t len = 0;
    int r = file_read_all(dirfd, name, PID_FILE_BYTES, &text, &len);
    const char *boot = NULL;
    json_int_t pid = 0, ticks = 0;
    uint64_t now = 0;
    json_t *doc;

    if (r < 0)
        return error_set(err, r, "cannot read %s: %s", name, strerror(-r));
    doc = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    r = json_unpack(doc, "{s:I, s:I, s:s}", "pid", &pid, "start_ticks", &ticks, "boot_id", &boot);
    if (r < 0 || pid <= 0 || pid > INT32_MAX || ticks < 0)
        r = error_set(err, -EBADMSG, "%s is damaged", name);
    else if (!str_equal(boot, boot_id))
        r = error_set(err, -ESRCH, "%s is of another boot", name);
    json_decref(doc);
    if (r < 0)
        return r;
    *ret = VMM_PROCESS_NONE;
    ret->pid = (pid_t)pid;
    ret->start_ticks = (uint64_t)ticks;
    ret->pidfd = pidfd_open_(ret->pid);
    /* the start time is read with the pidfd in hand: the pid cannot change hands in between */
    if (ret->pidfd < 0 || read_start_ticks(ret->pid, &now) < 0 || now != ret->start_ticks) {
        vmm_process_close(ret);
        return error_set(err, -ESRCH, "the process of %s has ended", name);
    }
    return 0;
}

int vmm_process_kill(const struct vmm_process *p)
{
    if (p->pidfd < 0 || syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0) == 0)
        return 0;
    return errno == ESRCH ? 0 : -errno;
}

int vmm_process_reap(const struct vmm_process *p, int *ret_status)
{
    siginfo_t info = {0};

    if (waitid((idtype_t)P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG) < 0)
        return -errno;
    if (info.si_pid == 0)
        return -EAGAIN;
    *ret_status = info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8 : info.si_status & 0x7f;
    return 0;
}

void vmm_process_close(struct vmm_process *p)
{
    p->pidfd = close_fd(p->pidfd);
    p->pid = 0;
}
