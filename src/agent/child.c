/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/child.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "agent/filter.h"
#include "agent/mountapi.h"
#include "agent/process.h"
#include "base/file.h"
#include "base/str.h"

#define NR_close_range 436
#define OOM_SCORE_FILE "/proc/self/oom_score_adj"
#define EXIT_NOT_FOUND 127
#define EXIT_NOT_EXECUTABLE 126
#define EXIT_OTHER 128

/* What the agent has and a child inherits, as the kernel writes it; empty: not known. */
static char own_oom_score[16];

static int set_oom_score(int value, struct error **err)
{
    char text[16];
    int fd, r;

    (void)snprintf(text, sizeof(text), "%d\n", value);
    if (strcmp(text, own_oom_score) == 0)
        return 0;
    fd = open(OOM_SCORE_FILE, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, -errno, "oom_score_adj");
    r = write_full(fd, text, strlen(text));
    (void)close(fd);
    return r < 0 ? error_set(err, r, "oom_score_adj %d", value) : 0;
}

int child_begin(int oom_score_adj, struct error **err)
{
    (void)prctl(PR_SET_DUMPABLE, 0); /* /proc/<pid> of the agent's image is nobody's business */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)umask(0022);
    (void)setsid();
    return set_oom_score(oom_score_adj, err);
}

/* The image's file as text; missing is empty. */
static int read_database(const char *path, struct text *ret, struct error **err)
{
    _cleanup_(closep) int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    /* no magic links: /proc/self/fd of this child still has what is the agent's */
    _cleanup_(closep) int fd =
        root < 0 ? -errno : open_in_root(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, true);
    struct stat st;
    char *bytes = NULL;
    size_t len = 0;
    int r;

    *ret = (struct text){0};
    if (fd == -ENOENT || fd == -ENOTDIR)
        return 0;
    if (fd < 0)
        return error_set(err, fd, "cannot open the image's %s: %s", path, strerror(-fd));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "the image's %s is no file", path);
    r = fd_read_all(fd, USER_FILE_MAX, &bytes, &len);
    if (r < 0)
        return error_set(err, r, "cannot read the image's %s", path);
    *ret = (struct text){.p = bytes, .len = len}; /* lives until execve */
    return 0;
}

static int resolve_user(const struct process_plan *plan, struct user_identity *ret,
                        struct error **err)
{
    struct text passwd, group;
    int r = read_database("/etc/passwd", &passwd, err);

    if (r == 0)
        r = read_database("/etc/group", &group, err);
    if (r == 0)
        r = user_resolve(&plan->user, passwd, group, ret, err);
    return r;
}

/* After it getcwd must have an absolute answer: else the path led to a directory of another root
 * that somebody kept open (the class of CVE-2024-21626). */
static int enter_cwd(const char *cwd, struct error **err)
{
    _cleanup_(closep) int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    _cleanup_(closep) int fd = root < 0 ? -errno : open_or_make_in_root(root, cwd, true);
    char real[PATH_MAX];

    if (fd < 0)
        return error_set(err, fd, "working directory %.512s: %s", cwd, strerror(-fd));
    if (fchdir(fd) < 0)
        return error_set(err, -errno, "working directory %.512s: %s", cwd, strerror(errno));
    if (!getcwd(real, sizeof(real)) || real[0] != '/')
        return error_set(err, -EPERM, "working directory %.512s leaves the container", cwd);
    return 0;
}

static int set_stdio(const struct child_io *io, const struct user_identity *id, struct error **err)
{
    const int from[3] = {io->in, io->out, io->err};

    /* a program that changed its user must still be able to open /dev/stdout */
    for (int i = 0; i < 3; i++) {
        struct stat st;
        if (fstat(from[i], &st) < 0 || (S_ISCHR(st.st_mode) && !io->terminal))
            continue; /* /dev/null is everybody's */
        if (fchown(from[i], id->uid, io->terminal ? (gid_t)-1 : id->gid) < 0)
            return error_set(err, -errno, "owner of standard stream %d", i);
    }
    if (io->terminal && ioctl(io->in, TIOCSCTTY, 0) < 0)
        return error_set(err, -errno, "controlling terminal");
    /* the sources are all above 2: the agent's own 0 to 2 are never used for a child */
    for (int i = 0; i < 3; i++)
        if (dup2(from[i], i) < 0)
            return error_set(err, -errno, "standard stream %d", i);
    return 0;
}

/* Not left to close-on-exec: until then a program name such as /proc/self/fd/7 could still use them. */
static int close_the_rest(int status_fd, struct error **err)
{
    if ((status_fd > 3 && syscall(NR_close_range, 3U, (unsigned)status_fd - 1, 0U) < 0) ||
        syscall(NR_close_range, (unsigned)status_fd + 1, ~0U, 0U) < 0)
        return error_set(err, -errno, "close_range");
    return 0;
}

static int set_rlimits(const struct process_plan *plan, struct error **err)
{
    for (size_t i = 0; i < plan->n_rlimits; i++) {
        const struct plan_rlimit *l = &plan->rlimits[i];
        const uint64_t v[2] = {l->soft, l->hard};
        if (syscall(SYS_prlimit64, 0, l->resource, v, NULL) < 0 &&
            !(l->is_default && errno == EPERM))
            return error_set(err, -errno, "resource limit %d: %s", l->resource, strerror(errno));
    }
    return 0;
}

static int set_capability_sets(uint64_t effective, uint64_t ambient, struct error **err)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {
        {(uint32_t)effective, (uint32_t)effective, (uint32_t)ambient},
        {(uint32_t)(effective >> 32), (uint32_t)(effective >> 32), (uint32_t)(ambient >> 32)},
    };

    if (syscall(SYS_capset, &h, d) < 0)
        return error_set(err, -errno, "capset");
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return error_set(err, -errno, "ambient capabilities");
    for (unsigned c = 0; c < 64; c++)
        if ((ambient >> c & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) < 0)
            return error_set(err, -errno, "ambient capability %u", c);
    return 0;
}

/* What can be given at all: known to the running kernel and in the agent's own bounding set, which in
 * a guest is everything. */
static uint64_t known_capabilities;

static void learn_oom_score(void)
{
    int fd = open(OOM_SCORE_FILE, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, own_oom_score, sizeof(own_oom_score) - 1);

    (void)close_fd(fd);
    own_oom_score[n > 0 ? n : 0] = '\0';
}

void child_learn(void)
{
    learn_oom_score();
    known_capabilities = 0;
    for (unsigned c = 0; c < 64; c++)
        if (prctl(PR_CAPBSET_READ, c, 0, 0, 0) == 1)
            known_capabilities |= UINT64_C(1) << c;
}

static int set_identity(const struct process_plan *plan, const struct user_identity *id,
                        struct error **err)
{
    uint64_t known = known_capabilities;
    uint64_t caps = plan->capabilities & known;

    for (unsigned c = 0; c < 64; c++)
        if ((known & ~caps) >> c & 1 && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0)
            return error_set(err, -errno, "bounding capability %u", c);
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        return error_set(err, -errno, "keepcaps");
    /* raw calls: libc's forms may try to tell threads that do not exist in this child */
    if (syscall(SYS_setgroups, id->n_groups, id->groups) < 0)
        return error_set(err, -errno, "supplemental groups");
    if (syscall(SYS_setresgid, id->gid, id->gid, id->gid) < 0)
        return error_set(err, -errno, "group %u", id->gid);
    if (syscall(SYS_setresuid, id->uid, id->uid, id->uid) < 0)
        return error_set(err, -errno, "user %u", id->uid);
    (void)prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
    /* CAP_SYS_ADMIN for the filter that comes; outside the bounding set execve takes it away */
    if (plan->n_seccomp && !plan->no_new_privs)
        caps |= UINT64_C(1) << CAP_SYS_ADMIN;
    return set_capability_sets(caps, plan->ambient & known, err);
}

static void complete_env(struct process_plan *plan, const struct user_identity *id)
{
    char host[HOST_NAME_MAX + 1];

    plan_env_default(plan, "PATH", PLAN_PATH_DEFAULT);
    plan_env_default(plan, "HOME", id->home);
    if (gethostname(host, sizeof(host)) == 0)
        plan_env_default(plan, "HOSTNAME", host);
    if (plan->tty)
        plan_env_default(plan, "TERM", "xterm");
}

static _Noreturn void exec_failed(int status_fd, const char *name, int e, bool searched)
{
    struct error *err = NULL;
    const char *why = strerror(e);
    int code = EXIT_NOT_EXECUTABLE;

    if (e == ENOENT || e == ENOTDIR || e == ENAMETOOLONG || e == ELOOP) {
        code = EXIT_NOT_FOUND;
        why = searched ? "executable file not found in $PATH" : "no such file or directory";
    } else if (e == EACCES || e == EPERM) {
        why = "permission denied";
    } else if (e == ENOEXEC) {
        why = "exec format error";
    } else if (e == E2BIG || e == ENOMEM) {
        code = EXIT_OTHER;
    }
    (void)error_set(&err, -e, "exec: \"%.512s\": %s", name, why);
    child_fail(status_fd, code, -e, err);
}

/* Each directory of PATH, as a shell does it: what is there but may not be run is remembered. */
static int search_and_exec(const struct process_plan *plan, bool *ret_searched)
{
    const char *name = plan->args[0];
    const char *path = plan_env_get(plan, "PATH");
    int found = ENOENT;
    char full[PATH_MAX];

    *ret_searched = true;
    for (const char *p = path ? path : "", *end; p; p = *end ? end + 1 : NULL) {
        const char *colon = strchr(p, ':');
        struct stat st;
        int n;

        end = colon ? colon : p + strlen(p);
        n = snprintf(full, sizeof(full), "%.*s%s%s", (int)(end - p), p, end > p ? "/" : "./", name);
        if (n < 0 || (size_t)n >= sizeof(full) || stat(full, &st) < 0 || S_ISDIR(st.st_mode))
            continue;
        (void)execve(full, plan->args, plan->env);
        if (errno != EACCES) {
            *ret_searched = false; /* the file is there; ENOENT means its interpreter */
            return errno;
        }
        found = EACCES;
    }
    return found;
}

static _Noreturn void run(struct process_plan *plan, int status_fd)
{
    const char *name = plan->args[0];
    bool searched = true;
    struct stat st;

    if (!*name)
        exec_failed(status_fd, name, ENOENT, searched);
    if (!strchr(name, '/')) {
        int e = search_and_exec(plan, &searched);
        exec_failed(status_fd, name, e, searched);
    }
    (void)execve(name, plan->args, plan->env);
    if (errno == EACCES && stat(name, &st) == 0 && S_ISDIR(st.st_mode))
        errno = EISDIR;
    exec_failed(status_fd, name, errno, false);
}

void child_become(struct process_plan *plan, const struct child_io *io, struct user_identity *told,
                  int status_fd)
{
    struct user_identity resolved;
    const struct user_identity *id = plan->identity ? plan->identity : &resolved;
    struct error *err = NULL;
    int r = plan->identity ? 0 : resolve_user(plan, &resolved, &err);

    if (r == 0)
        r = enter_cwd(plan->cwd, &err);
    if (r == 0)
        r = set_rlimits(plan, &err);
    if (r == 0)
        r = set_stdio(io, id, &err);
    if (r == 0)
        r = close_the_rest(status_fd, &err);
    if (r == 0)
        complete_env(plan, id);
    if (r == 0)
        r = set_identity(plan, id, &err);
    if (r == 0 && plan->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        r = error_set(&err, -errno, "no_new_privs");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user has cleared it */
    if (told)
        *told = *id;
    if (r == 0 && plan->n_seccomp)
        r = filter_install(plan->seccomp, plan->n_seccomp, &err);
    if (r < 0)
        child_fail(status_fd, EXIT_OTHER, r, err);
    run(plan, status_fd);
}
