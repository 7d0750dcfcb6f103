/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeDefault. The kernel below it is the pod's own; the profile keeps a container from the kernel's
 * rarely used doors and from its neighbours in the pod. */
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/socket.h>

#include "base/str.h"
#include "seccomp/profile.h"

#define NAMESPACES                                                                             \
    (CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | \
     CLONE_NEWCGROUP)
#define PERSONALITY_ASK 0xffffffffU

/* Of i386 and x86-64: what programs use and what changes nothing beyond the process's own rights. */
static const char always[] =
    "_llseek _newselect accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget "
    "capset chdir chmod chown chown32 clock_getres clock_getres_time64 clock_gettime "
    "clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect "
    "copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait "
    "epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat "
    "faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 "
    "fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork "
    "fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 "
    "futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list "
    "get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid "
    "getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid "
    "getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid "
    "getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr inotify_add_watch "
    "inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents "
    "io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill "
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr "
    "link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise "
    "map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat "
    "mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open "
    "mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap "
    "msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep "
    "newfstatat nice open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc "
    "pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 "
    "process_mrelease pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead "
    "readdir readlink readlinkat readv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages "
    "removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending "
    "rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min "
    "sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval "
    "sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam "
    "sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop "
    "semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list "
    "set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 "
    "setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid "
    "setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid "
    "setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaction sigaltstack signalfd "
    "signalfd4 sigpending sigprocmask sigreturn sigsuspend socketcall socketpair splice stat "
    "stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee "
    "tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 "
    "timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 "
    "timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname "
    "unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid "
    "write writev";
/* Beside a capability. */
static const struct {
    unsigned capability;
    const char *names;
} beside[] = {
    {CAP_DAC_READ_SEARCH, "open_by_handle_at"},
    {CAP_SYS_ADMIN, "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie "
                    "mount mount_setattr "
                    "move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname "
                    "sethostname setns syslog "
                    "umount umount2 unshare"},
    {CAP_SYS_BOOT, "reboot"},
    {CAP_SYS_CHROOT, "chroot"},
    {CAP_SYS_MODULE, "delete_module finit_module init_module"},
    {CAP_SYS_PACCT, "acct"},
    {CAP_SYS_PTRACE, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev"},
    {CAP_SYS_RAWIO, "ioperm iopl"},
    {CAP_SYS_TIME,
     "clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday stime"},
    {CAP_SYS_TTY_CONFIG, "vhangup"},
    {CAP_SYS_NICE, "get_mempolicy mbind migrate_pages move_pages set_mempolicy "
                   "set_mempolicy_home_node"},
    {CAP_SYSLOG, "syslog"},
    {CAP_BPF, "bpf"},
    {CAP_PERFMON, "perf_event_open"},
};

static struct syscall_rule *add(struct syscall_profile *p, const char *name, size_t len,
                                uint32_t action)
{
    struct syscall_rule *rule;

    p->rules = xrealloc(p->rules, p->n_rules + 1, sizeof(*p->rules));
    rule = &p->rules[p->n_rules++];
    *rule = (struct syscall_rule){.name = str_ndup(name, len), .action = action};
    return rule;
}

static void add_words(struct syscall_profile *p, const char *words)
{
    while (*words) {
        size_t len = strcspn(words, " ");

        (void)add(p, words, len, SCMP_ACT_ALLOW);
        words += len;
        words += strspn(words, " ");
    }
}

static void add_if(struct syscall_profile *p, const char *name, enum scmp_compare op,
                   uint64_t value, uint64_t value_two)
{
    struct syscall_rule *rule = add(p, name, strlen(name), SCMP_ACT_ALLOW);

    rule->n_args = 1;
    rule->args[0] = (struct syscall_arg){0, (uint32_t)op, value, value_two};
}

static void add_personalities(struct syscall_profile *p)
{
    static const uint32_t harmless[] = {PER_LINUX, PER_LINUX32, UNAME26, UNAME26 | PER_LINUX32,
                                        PERSONALITY_ASK};

    for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
        add_if(p, "personality", SCMP_CMP_EQ, harmless[i], 0);
}

void syscall_profile_default(uint64_t capabilities, struct syscall_profile *ret)
{
    static const char clone3[] = "clone3";
    struct syscall_profile p = {
        .default_action = SCMP_ACT_ERRNO(EPERM),
        .arches = {SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_X32},
        .n_arches = 3,
    };

    add_words(&p, always);
    for (size_t i = 0; i < ARRAY_SIZE(beside); i++)
        if (capabilities >> beside[i].capability & 1)
            add_words(&p, beside[i].names);
    if (!(capabilities >> CAP_SYS_ADMIN & 1)) {
        add_if(&p, "clone", SCMP_CMP_MASKED_EQ, NAMESPACES, 0);
        /* its flags are in memory: callers go back to clone */
        (void)add(&p, clone3, strlen(clone3), SCMP_ACT_ERRNO(ENOSYS));
    }
    add_if(&p, "socket", SCMP_CMP_NE, AF_VSOCK, 0);
    add_personalities(&p);
    *ret = p;
}
