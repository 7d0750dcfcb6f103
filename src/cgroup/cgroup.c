/* SPDX-License-Identifier: Apache-2.0 */
/* One leaf: made, limited, filled, emptied, removed. Start reading at cgroup_create(). */
#include "cgroup/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/numparse.h"
#include "base/str.h"
#include "cgroup/cgroup-internal.h"

#define FIND_DEPTH_MAX 8
#define PROCS_BYTES_MAX (1U << 20)

/* ---------------------------------------------------------------- making */

/* Hands the controllers that dir has on to its children; those that are on already stay. One write
 * for all: with processes inside, cpu alone would be accepted and turn the cgroup into a threaded
 * one, for which memory is then refused with a misleading error. */
static int enable_controllers(int dir_fd, unsigned wanted)
{
    char text[1024] = "";
    unsigned add, on = 0;
    int r;

    r = cgroup_file_read(dir_fd, "cgroup.controllers", text, sizeof(text));
    if (r < 0)
        return r;
    add = cgroup_controllers_parse(text) & wanted;
    r = cgroup_file_read(dir_fd, "cgroup.subtree_control", text, sizeof(text));
    if (r == 0)
        on = cgroup_controllers_parse(text);
    add &= ~on;
    if (!add)
        return 0;
    return cgroup_file_printf(
        dir_fd, "cgroup.subtree_control", "%s%s%s", add & CGROUP_CPU ? "+cpu " : "",
        add & CGROUP_MEMORY ? "+memory " : "", add & CGROUP_PIDS ? "+pids" : "");
}

/* Walks from the root to the parent, making what is missing, enabling on the way. */
static int open_parent(struct cgroup_fs *fs, const char *parent, int *ret_fd, struct error **err)
{
    _cleanup_(closep) int dir = cgroup_dir_open(fs, "/");
    const char *p = parent;
    int r;

    if (dir < 0)
        return error_set(err, dir, "cannot open cgroup root %s: %s", fs->root, strerror(-dir));
    for (;;) {
        _cleanup_(freep) char *name = NULL;
        int next;

        r = enable_controllers(dir, fs->controllers);
        if (r < 0)
            return error_set(
                err, r, "cannot enable controllers in cgroup %s%.*s: %s%s", fs->root,
                (int)(p - parent), parent, strerror(-r),
                r == -EBUSY ? " (it has processes of its own; use an empty cgroup parent)" : "");
        p += strspn(p, "/");
        if (!*p)
            break;
        name = str_ndup(p, strcspn(p, "/"));
        p += strlen(name);
        if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
            return error_set(err, -errno, "cannot make cgroup %s%.*s: %s", fs->root,
                             (int)(p - parent), parent, strerror(errno));
        next = file_open_beneath(dir, name, O_RDONLY | O_DIRECTORY, 0);
        if (next < 0)
            return error_set(err, next, "cannot open cgroup %s%.*s: %s", fs->root,
                             (int)(p - parent), parent, strerror(-next));
        close_fd(dir);
        dir = next;
    }
    *ret_fd = TAKE_FD(dir);
    return 0;
}

static unsigned limits_wanted(const struct cgroup_limits *l)
{
    return (l->memory_max_bytes ? CGROUP_MEMORY : 0U) | (l->pids_max ? CGROUP_PIDS : 0U) |
           (l->cpu_quota_us || l->cpu_weight ? CGROUP_CPU : 0U);
}

/* A file that this kernel does not have is no failure: swap accounting may be compiled out. */
static int write_optional(int dir_fd, const char *file, const char *text)
{
    int r = cgroup_file_write(dir_fd, file, text);

    return r == -ENOENT ? 0 : r;
}

static int write_limits(int dir_fd, const struct cgroup_limits *l, unsigned have,
                        const char **ret_file)
{
    int r = 0;

    if (l->memory_max_bytes && (have & CGROUP_MEMORY)) {
        *ret_file = "memory.max";
        r = cgroup_file_printf(dir_fd, "memory.max", "%llu",
                               (unsigned long long)l->memory_max_bytes);
        if (r == 0)
            r = write_optional(dir_fd, "memory.oom.group", "1");
        if (r == 0)
            r = write_optional(dir_fd, "memory.swap.max", "0");
    }
    if (r == 0 && l->pids_max && (have & CGROUP_PIDS)) {
        *ret_file = "pids.max";
        r = cgroup_file_printf(dir_fd, "pids.max", "%llu", (unsigned long long)l->pids_max);
    }
    if (r == 0 && l->cpu_quota_us && l->cpu_period_us && (have & CGROUP_CPU)) {
        *ret_file = "cpu.max";
        r = cgroup_file_printf(dir_fd, "cpu.max", "%llu %llu", (unsigned long long)l->cpu_quota_us,
                               (unsigned long long)l->cpu_period_us);
    }
    if (r == 0 && l->cpu_weight && (have & CGROUP_CPU)) {
        *ret_file = "cpu.weight";
        r = cgroup_file_printf(dir_fd, "cpu.weight", "%llu", (unsigned long long)l->cpu_weight);
    }
    return r;
}

static int apply_limits(int dir_fd, const char *path, const struct cgroup_limits *l,
                        unsigned *ret_missing, struct error **err)
{
    const char *file = "cgroup.controllers";
    char text[1024];
    unsigned have;
    int r;

    r = cgroup_file_read(dir_fd, "cgroup.controllers", text, sizeof(text));
    if (r < 0)
        return error_set(err, r, "cannot read %s of cgroup %s: %s", file, path, strerror(-r));
    have = cgroup_controllers_parse(text);
    r = write_limits(dir_fd, l, have, &file);
    if (r < 0)
        return error_set(err, r, "cannot set %s of cgroup %s: %s", file, path, strerror(-r));
    if (ret_missing)
        *ret_missing = limits_wanted(l) & ~have;
    return 0;
}

int cgroup_create(struct cgroup_fs *fs, const char *parent, const char *name,
                  const struct cgroup_limits *limits, char **ret_path, unsigned *ret_missing,
                  struct error **err)
{
    static const struct cgroup_limits none;
    _cleanup_(closep) int parent_fd = -EBADF, fd = -EBADF;
    _cleanup_(freep) char *path = NULL;
    bool made;
    int r;

    if (!limits)
        limits = &none;
    if (!*name || strchr(name, '/') || name[0] == '.')
        return error_set(err, -EINVAL, "\"%s\" is no name for a cgroup", name);
    path = str_printf("%s/%s", str_equal(parent, "/") ? "" : parent, name);
    if (!cgroup_fs_usable(fs)) {
        if (ret_missing)
            *ret_missing = limits_wanted(limits);
        *ret_path = TAKE(path);
        return 0;
    }
    r = open_parent(fs, parent, &parent_fd, err);
    if (r < 0)
        return r;
    made = mkdirat(parent_fd, name, 0755) == 0;
    if (!made && errno != EEXIST)
        return error_set(err, -errno, "cannot make cgroup %s%s: %s", fs->root, path,
                         strerror(errno));
    fd = file_open_beneath(parent_fd, name, O_RDONLY | O_DIRECTORY, 0);
    r = fd < 0 ? error_set(err, fd, "cannot open cgroup %s%s: %s", fs->root, path, strerror(-fd))
               : apply_limits(fd, path, limits, ret_missing, err);
    if (r < 0) {
        if (made)
            (void)unlinkat(parent_fd, name, AT_REMOVEDIR);
        return r;
    }
    *ret_path = TAKE(path);
    return 0;
}

int cgroup_set_limits(struct cgroup_fs *fs, const char *path, const struct cgroup_limits *limits,
                      unsigned *ret_missing, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    int r;

    if (!cgroup_fs_usable(fs)) {
        if (ret_missing)
            *ret_missing = limits_wanted(limits);
        return 0;
    }
    r = cgroup_open(fs, path, &fd, err);
    if (r < 0)
        return r;
    return apply_limits(fd, path, limits, ret_missing, err);
}

/* ---------------------------------------------------------------- processes */

int cgroup_open(struct cgroup_fs *fs, const char *path, int *ret_fd, struct error **err)
{
    int fd;

    if (!cgroup_fs_usable(fs))
        return error_set(err, -EOPNOTSUPP, "%s", fs->description);
    fd = cgroup_dir_open(fs, path);
    if (fd < 0)
        return error_set(err, fd, "cannot open cgroup %s%s: %s", fs->root, path, strerror(-fd));
    *ret_fd = fd;
    return 0;
}

int cgroup_add_pid(struct cgroup_fs *fs, const char *path, pid_t pid, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    int r;

    if (!cgroup_fs_usable(fs))
        return 0;
    r = cgroup_open(fs, path, &fd, err);
    if (r < 0)
        return r;
    r = cgroup_file_printf(fd, "cgroup.procs", "%d", (int)pid);
    if (r < 0)
        return error_set(err, r, "cannot move process %d into cgroup %s%s: %s", (int)pid, fs->root,
                         path, strerror(-r));
    return 0;
}

/* Before 5.14 there is no cgroup.kill: one pass over the processes. A process that forks meanwhile is
 * met by the next pass of cgroup_remove. */
static int kill_one_by_one(int dir_fd)
{
    _cleanup_(closep) int fd = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    _cleanup_(freep) char *text = NULL;
    char *save = NULL;
    int r;

    if (fd < 0)
        return -errno;
    r = fd_read_all(fd, PROCS_BYTES_MAX, &text, NULL);
    if (r < 0)
        return r;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        uint32_t pid = 0;

        if (parse_u32(line, INT32_MAX, &pid) == 0 && pid > 1)
            (void)kill((pid_t)pid, SIGKILL);
    }
    return 0;
}

static int kill_dir(int dir_fd)
{
    int r = cgroup_file_write(dir_fd, "cgroup.kill", "1");

    return r == -ENOENT ? kill_one_by_one(dir_fd) : r;
}

int cgroup_kill(struct cgroup_fs *fs, const char *path, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    int r;

    if (!cgroup_fs_usable(fs))
        return 0;
    fd = cgroup_dir_open(fs, path);
    if (fd == -ENOENT)
        return 0;
    r = fd < 0 ? fd : kill_dir(fd);
    if (r < 0)
        return error_set(err, r, "cannot kill cgroup %s%s: %s", fs->root, path, strerror(-r));
    return 0;
}

/* 1: a process is in it or below. */
static int is_populated(int events_fd)
{
    char text[256];
    ssize_t n = pread_full(events_fd, text, sizeof(text) - 1, 0);

    if (n < 0)
        return (int)n;
    text[n] = '\0';
    return cgroup_keyed_value(text, "populated") != 0;
}

/* The kernel wakes pollers of cgroup.events (POLLPRI) when "populated" changes. */
static int wait_empty(int dir_fd, unsigned timeout_ms)
{
    _cleanup_(closep) int fd = openat(dir_fd, "cgroup.events", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    uint64_t end_ns = clock_mono_ns() + (uint64_t)timeout_ms * 1000000;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLPRI};
        int r = is_populated(fd);
        uint64_t now = clock_mono_ns();

        if (r <= 0)
            return r;
        if (now >= end_ns)
            return -EBUSY;
        if (poll(&p, 1, (int)((end_ns - now) / 1000000 + 1)) < 0 && errno != EINTR)
            return -errno;
        r = kill_dir(dir_fd); /* what forked between the passes */
        if (r < 0)
            return r;
    }
}

int cgroup_remove(struct cgroup_fs *fs, const char *path, unsigned timeout_ms, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    const char *rel = path + strspn(path, "/");
    int r;

    if (!cgroup_fs_usable(fs))
        return 0;
    fd = cgroup_dir_open(fs, path);
    if (fd == -ENOENT)
        return 0;
    if (fd < 0)
        return error_set(err, fd, "cannot open cgroup %s%s: %s", fs->root, path, strerror(-fd));
    if (!*rel)
        return error_set(err, -EINVAL, "the root cgroup cannot be removed");
    r = kill_dir(fd);
    if (r == 0)
        r = wait_empty(fd, timeout_ms);
    if (r == 0 && unlinkat(fs->root_fd, rel, AT_REMOVEDIR) < 0 && errno != ENOENT)
        r = -errno;
    if (r == -EBUSY)
        return error_set(err, r, "cgroup %s%s still has processes or children", fs->root, path);
    if (r < 0)
        return error_set(err, r, "cannot remove cgroup %s%s: %s", fs->root, path, strerror(-r));
    return 0;
}

/* ---------------------------------------------------------------- looking */

static uint64_t read_number(int dir_fd, const char *file)
{
    char text[64];
    uint64_t v = 0;

    if (cgroup_file_read(dir_fd, file, text, sizeof(text)) < 0 ||
        parse_u64(text, UINT64_MAX, &v) < 0)
        return 0;
    return v;
}

static uint64_t read_keyed(int dir_fd, const char *file, const char *key)
{
    char text[4096];

    if (cgroup_file_read(dir_fd, file, text, sizeof(text)) < 0)
        return 0;
    return cgroup_keyed_value(text, key);
}

static void read_memory_stat(int dir_fd, struct cgroup_usage *u)
{
    char text[4096];

    if (cgroup_file_read(dir_fd, "memory.stat", text, sizeof(text)) < 0)
        return;
    u->memory_anon_bytes = cgroup_keyed_value(text, "anon");
    u->memory_shmem_bytes = cgroup_keyed_value(text, "shmem");
    u->memory_inactive_file_bytes = cgroup_keyed_value(text, "inactive_file");
    u->page_faults = cgroup_keyed_value(text, "pgfault");
    u->major_page_faults = cgroup_keyed_value(text, "pgmajfault");
}

int cgroup_read_usage(struct cgroup_fs *fs, const char *path, struct cgroup_usage *ret,
                      struct error **err)
{
    struct cgroup_usage u = {0};
    _cleanup_(closep) int fd = -EBADF;
    int r;

    if (cgroup_fs_usable(fs)) {
        r = cgroup_open(fs, path, &fd, err);
        if (r < 0)
            return r;
        u.memory_current_bytes = read_number(fd, "memory.current");
        u.memory_peak_bytes = read_number(fd, "memory.peak");
        u.pids_current = read_number(fd, "pids.current");
        u.oom_kills = read_keyed(fd, "memory.events", "oom_kill");
        u.cpu_usage_us = read_keyed(fd, "cpu.stat", "usage_usec");
        read_memory_stat(fd, &u);
    }
    *ret = u;
    return 0;
}

struct finder {
    const char *prefix;
    cgroup_found_fn fn;
    void *userdata;
};

static int find_below(const struct finder *f, int dir_fd, const char *path, unsigned depth)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct dirent *e;
    DIR *d;
    int r = 0;

    d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        close_fd(fd);
        return -errno;
    }
    while (r == 0 && (e = readdir(d))) {
        _cleanup_(closep) int child = -EBADF;
        _cleanup_(freep) char *name = NULL;

        if (e->d_type != DT_DIR || e->d_name[0] == '.')
            continue;
        name = str_printf("%s/%s", str_equal(path, "/") ? "" : path, e->d_name);
        if (str_starts(e->d_name, f->prefix))
            r = f->fn(name, f->userdata);
        if (r != 0 || depth == 0)
            continue;
        child = file_open_beneath(dir_fd, e->d_name, O_RDONLY | O_DIRECTORY, 0);
        if (child >= 0)
            r = find_below(f, child, name, depth - 1);
    }
    closedir(d);
    return r;
}

int cgroup_find(struct cgroup_fs *fs, const char *parent, const char *prefix, cgroup_found_fn fn,
                void *userdata, struct error **err)
{
    struct finder f = {prefix, fn, userdata};
    _cleanup_(closep) int fd = -EBADF;

    if (!cgroup_fs_usable(fs))
        return 0;
    fd = cgroup_dir_open(fs, parent);
    if (fd == -ENOENT)
        return 0;
    if (fd < 0)
        return error_set(err, fd, "cannot open cgroup %s%s: %s", fs->root, parent, strerror(-fd));
    return find_below(&f, fd, parent, FIND_DEPTH_MAX - 1);
}
