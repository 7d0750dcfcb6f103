/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/limit.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* shadow memory and the leak check need what is given up here */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define READ_RIGHTS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE_RIGHTS                                                                \
    (READ_RIGHTS | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_DIR)
#define ALL_RIGHTS \
    ((1ULL << 13) - 1) /* of the first version; later rights are about other things */

/* ---- limits ---- */

static int set_limit(int what, rlim_t value, struct error **err)
{
    struct rlimit l = {value, value};

    if (setrlimit((__rlimit_resource_t)what, &l) < 0)
        return error_set(err, -errno, "cannot set resource limit %d: %s", what, strerror(errno));
    return 0;
}

static int set_limits(uint64_t memory_bytes, struct error **err)
{
    int r = set_limit(RLIMIT_CORE, 0, err);

    if (r == 0)
        r = set_limit(RLIMIT_NOFILE, 256, err);
    if (r == 0)
        r = set_limit(RLIMIT_FSIZE, LIMIT_LAYER_UNPACKED_BYTES + (1U << 20), err);
    if (r == 0 && !SANITIZED)
        r = set_limit(RLIMIT_AS, memory_bytes, err);
    return r;
}

/* ---- capabilities ---- */

static int drop_capabilities(struct error **err)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};

    for (int cap = 0; cap < 64; cap++)
        (void)prctl(PR_CAPBSET_DROP, cap, 0, 0,
                    0); /* without CAP_SETPCAP there is nothing to drop */
    if (syscall(SYS_capset, &head, none) < 0)
        return error_set(err, -errno, "cannot drop capabilities: %s", strerror(errno));
    return 0;
}

/* ---- file system ---- */

/* Resolver, certificates, shared libraries that NSS loads late. */
static const char *const readable[] = {
    "/etc",         "/usr",       "/lib", "/lib64", "/run/systemd/resolve", "/run/resolvconf",
    "/dev/urandom", "/dev/random"};

static int allow_below(int ruleset, int fd, uint64_t rights, struct error **err)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = fd};
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_set(err, -errno, "cannot look at a directory: %s", strerror(errno));
    if (!S_ISDIR(st.st_mode))
        rule.allowed_access &= LANDLOCK_ACCESS_FS_READ_FILE;
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        return error_set(err, -errno, "cannot add a Landlock rule: %s", strerror(errno));
    return 0;
}

/* dir_fd -EBADF: nothing at all. */
static int allow_all(int ruleset, int dir_fd, int layout_fd, struct error **err)
{
    int r = 0;

    if (dir_fd < 0)
        return 0;
    r = allow_below(ruleset, dir_fd, WRITE_RIGHTS, err);

    if (r == 0 && layout_fd >= 0)
        r = allow_below(ruleset, layout_fd, READ_RIGHTS, err);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(readable); i++) {
        _cleanup_(closep) int fd = open(readable[i], O_PATH | O_CLOEXEC);

        if (fd >= 0)
            r = allow_below(ruleset, fd, READ_RIGHTS, err);
    }
    return r;
}

static int restrict_files(int dir_fd, int layout_fd, struct error **err)
{
    struct landlock_ruleset_attr attr = {.handled_access_fs = ALL_RIGHTS};
    _cleanup_(closep) int ruleset = -EBADF;
    int r;

    if (SANITIZED)
        return 0;
    ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
    if (ruleset < 0 && (errno == ENOSYS || errno == EOPNOTSUPP))
        return 0; /* the kernel has no Landlock */
    if (ruleset < 0)
        return error_set(err, -errno, "cannot make a Landlock ruleset: %s", strerror(errno));
    r = allow_all(ruleset, dir_fd, layout_fd, err);
    if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        r = error_set(err, -errno, "cannot enter the Landlock fence: %s", strerror(errno));
    return r;
}

/* ---- system calls ---- */

/* Files below the directory, sockets, threads, memory, time. No exec, no new process or namespace, no signal
 * to others, no device. What is not listed does not exist (ENOSYS), so that libraries fall back. */
static const int allowed[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(open),
    SCMP_SYS(openat),
    SCMP_SYS(openat2),
    SCMP_SYS(close),
    SCMP_SYS(stat),
    SCMP_SYS(lstat),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(lseek),
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64),
    SCMP_SYS(getcwd),
    SCMP_SYS(fcntl),
    SCMP_SYS(flock),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fallocate),
    SCMP_SYS(renameat),
    SCMP_SYS(renameat2),
    SCMP_SYS(rename),
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    SCMP_SYS(mkdir),
    SCMP_SYS(mkdirat),
    SCMP_SYS(fchmod),
    SCMP_SYS(ioctl),
    SCMP_SYS(mmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(mlock),
    SCMP_SYS(munlock),
    SCMP_SYS(membarrier),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(eventfd2),
    SCMP_SYS(pipe),
    SCMP_SYS(pipe2),
    SCMP_SYS(socket),
    SCMP_SYS(socketpair),
    SCMP_SYS(connect),
    SCMP_SYS(bind),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(sendto),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmmsg),
    SCMP_SYS(recvmmsg),
    SCMP_SYS(shutdown),
    SCMP_SYS(getrandom),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(futex),
    SCMP_SYS(clone),
    SCMP_SYS(clone3),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(set_tid_address),
    SCMP_SYS(rseq),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getppid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(sysinfo),
    SCMP_SYS(uname),
    SCMP_SYS(getrusage),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(tgkill), /* abort() */
    SCMP_SYS(arch_prctl),
};

/* Calls of which only some forms are allowed. clone3, whose flags a filter cannot see, is left out: the C
 * library falls back to clone. */
static int allow_forms(scmp_filter_ctx ctx, bool threads_and_sockets)
{
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK}; /* the last two: NSS */
    int r;

    r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(kill),
                         1, /* failpoints kill their own process */
                         SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    if (r < 0 || !threads_and_sockets)
        return r;
    r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                         SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(families); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
    return r;
}

/* What converting takes: its descriptors, memory, the end. */
static const int allowed_converter[] = {
    SCMP_SYS(read),          SCMP_SYS(write),        SCMP_SYS(pwrite64),  SCMP_SYS(lseek),
    SCMP_SYS(fstat),         SCMP_SYS(newfstatat),   SCMP_SYS(ftruncate), SCMP_SYS(close),
    SCMP_SYS(recvmsg),       SCMP_SYS(mmap),         SCMP_SYS(munmap),    SCMP_SYS(mremap),
    SCMP_SYS(mprotect),      SCMP_SYS(madvise),      SCMP_SYS(brk),       SCMP_SYS(futex),
    SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time),      SCMP_SYS(getrandom),
    SCMP_SYS(getpid),        SCMP_SYS(gettid),       SCMP_SYS(tgkill),    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),  SCMP_SYS(rt_sigreturn), SCMP_SYS(exit),      SCMP_SYS(exit_group),
};

static int restrict_calls(const int *list, size_t n, bool forms, struct error **err)
{
    scmp_filter_ctx ctx = SANITIZED ? NULL : seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    int r = 0;

    if (SANITIZED)
        return 0;
    if (!ctx)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && i < n; i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, list[i], 0);
    if (r == 0)
        r = allow_forms(ctx, forms);
    if (r == 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    return r < 0 ? error_set(err, r, "cannot load the system call filter: %s", strerror(-r)) : 0;
}

static int give_up_privileges(uint64_t memory_bytes, struct error **err)
{
    int r;

    if ((!SANITIZED && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_set(err, -errno, "cannot give up privileges: %s", strerror(errno));
    r = set_limits(memory_bytes, err);
    return r < 0 ? r : drop_capabilities(err);
}

int sandbox_enter(int dir_fd, int layout_fd, struct error **err)
{
    pid_t parent = getppid();
    int r;

    /* the parent's death between its fork and here is seen as the parent having changed */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != parent)
        return error_set(err, -ECANCELED, "the daemon is gone");
    r = give_up_privileges(SANDBOX_MEMORY_BYTES, err);
    if (r == 0)
        r = restrict_files(dir_fd, layout_fd, err);
    return r < 0 ? r : restrict_calls(allowed, ARRAY_SIZE(allowed), /* forms= */ true, err);
}

int sandbox_enter_converter(struct error **err)
{
    int r = give_up_privileges(SANDBOX_CONVERTER_BYTES, err);

    if (r == 0)
        r = restrict_files(-EBADF, -EBADF, err);
    return r < 0 ? r
                 : restrict_calls(allowed_converter, ARRAY_SIZE(allowed_converter),
                                  /* forms= */ false, err);
}
