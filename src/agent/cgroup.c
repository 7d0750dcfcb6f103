/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/attr.h"
#include "agent/cgroup-value.h"
#include "agent/watch.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/log.h"
#include "base/numparse.h"
#include "base/str.h"

#define EVENTS_FILE_MAX 4096
#define EVENTS_TEXT_MAX 128 /* of which the first line counts */
#define PROCS_FILE_MAX (1U << 20)
#define CGROUP_DEPTH_MAX 16
#define PIDS_HEADROOM 256

static int write_at(int dir, const char *file, const char *value)
{
    _cleanup_(closep) int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    return write_full(fd, value, strlen(value));
}

/* cgroup files are regular but have no length: read to the end */
static int read_at(int dir, const char *file, size_t max, char **ret)
{
    _cleanup_(closep) int fd = openat(dir, file, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    return fd_read_all(fd, max, ret, NULL);
}

static void enable_controllers(int dir)
{
    static const char *const wanted[] = {"memory", "cpu", "pids", "cpuset", "io"};
    _cleanup_(freep) char *have = NULL;

    if (read_at(dir, "cgroup.controllers", EVENTS_FILE_MAX, &have) < 0)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
        char text[32];
        int r;

        if (!strstr(have,
                    wanted[i])) /* no name is part of another but cpu, and cpuset implies it */
            continue;
        (void)snprintf(text, sizeof(text), "+%s", wanted[i]);
        r = write_at(dir, "cgroup.subtree_control", text);
        if (r < 0)
            log_warning_errno(r, "cgroup controller %s", wanted[i]);
    }
}

/* Leaves some process ids for the agent's own children when containers have no limit. */
static void keep_headroom(int pod)
{
    uint64_t pids = 0, threads = 0;
    char text[32];

    if (attr_read("/proc/sys/kernel/pid_max", text, sizeof(text)) < 0 ||
        parse_u64(text, UINT32_MAX, &pids) < 0 ||
        attr_read("/proc/sys/kernel/threads-max", text, sizeof(text)) < 0 ||
        parse_u64(text, UINT32_MAX, &threads) < 0)
        return;
    pids = min_of(pids, threads);
    if (pids <= 2 * PIDS_HEADROOM)
        return;
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)(pids - PIDS_HEADROOM));
    (void)write_at(pod, "pids.max", text); /* without the controller there is no such file */
}

int cgroup_start(struct agent *a, struct error **err)
{
    _cleanup_(closep) int root = open(a->set.cgroup_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (root < 0)
        return error_set(err, -errno, "cgroup root %s", a->set.cgroup_dir);
    enable_controllers(root);
    if (mkdirat(root, "pod", 0755) < 0 && errno != EEXIST)
        return error_set(err, -errno, "cgroup of the pod");
    a->pod_cgroup = openat(root, "pod", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (a->pod_cgroup < 0)
        return error_set(err, -errno, "cgroup of the pod");
    enable_controllers(a->pod_cgroup);
    keep_headroom(a->pod_cgroup);
    return 0;
}

int cgroup_new(struct agent *a, const struct cgroup *parent, const char *name, struct cgroup **ret,
               struct error **err)
{
    _cleanup_(cgroup_freep) struct cgroup *cg = calloc(1, sizeof(*cg));

    if (!cg)
        return error_set(err, -ENOMEM, "cgroup");
    cg->fd = cg->events = -EBADF;
    cg->path = parent ? str_printf("%s/%s", parent->path, name)
                      : str_printf("%s/pod/%s", a->set.cgroup_dir, name);
    /* one that is left over was killed, and newer kernels kill whatever is born into such a one */
    if (mkdir(cg->path, 0755) < 0 &&
        (errno != EEXIST || rmdir(cg->path) < 0 || mkdir(cg->path, 0755) < 0))
        return error_set(err, -errno, "cgroup %s", name);
    cg->fd = open(cg->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cg->fd < 0)
        return error_set(err, -errno, "cgroup %s", name);
    *ret = TAKE(cg);
    return 0;
}

void cgroup_free(struct cgroup *cg)
{
    if (!cg)
        return;
    (void)close_fd(cg->fd);
    (void)close_fd(cg->events);
    free(cg->path);
    free(cg);
}

int cgroup_limit(const struct cgroup *cg, const Nexus__Resources *r, struct error **err)
{
    struct cgroup_setting s[CGROUP_SETTINGS_MAX];
    size_t n = 0;
    int e = cgroup_settings(r, s, &n, err);

    for (size_t i = 0; e == 0 && i < n; i++) {
        e = write_at(cg->fd, s[i].file, s[i].value);
        /* without swap in the kernel the file is missing, and nothing is left to limit */
        if (e == -ENOENT && strcmp(s[i].file, "memory.swap.max") == 0)
            e = 0;
        if (e < 0)
            return error_set(err, e, "cgroup: cannot set %s to \"%s\": %s", s[i].file, s[i].value,
                             e == -ENOENT ? "the controller is not available" : strerror(-e));
    }
    return e;
}

int cgroup_kill(struct cgroup *cg)
{
    cg->killed = true;
    return write_at(cg->fd, "cgroup.kill", "1");
}

bool cgroup_is_populated(const struct cgroup *cg)
{
    _cleanup_(freep) char *text = NULL;

    return read_at(cg->fd, "cgroup.events", EVENTS_FILE_MAX, &text) == 0 &&
           cgroup_flat_value(text, "populated") != 0;
}

bool cgroup_is_clean(struct cgroup *cg)
{
    char text[EVENTS_TEXT_MAX];
    struct stat st;
    ssize_t n;

    if (cg->killed || fstat(cg->fd, &st) < 0 || st.st_nlink > 2) /* "." and its name, no child */
        return false;
    if (cg->events < 0)
        cg->events = openat(cg->fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
    n = cg->events < 0 ? -1 : pread(cg->events, text, sizeof(text) - 1, 0);
    if (n <= 0)
        return false;
    text[n] = '\0';
    return strncmp(text, "populated 0\n", strlen("populated 0\n")) == 0;
}

void cgroup_discard(struct cgroup *cg)
{
    if (cg)
        (void)rmdir(cg->path);
    cgroup_free(cg);
}

uint64_t cgroup_oom_kills(const struct cgroup *cg)
{
    _cleanup_(freep) char *text = NULL;

    if (read_at(cg->fd, "memory.events", EVENTS_FILE_MAX, &text) < 0)
        return 0; /* no memory controller: none by it */
    return cgroup_flat_value(text, "oom_kill");
}

static int signal_procs(int dir, int signal)
{
    _cleanup_(freep) char *text = NULL;
    char *save = NULL;
    int r = read_at(dir, "cgroup.procs", PROCS_FILE_MAX, &text);

    if (r < 0)
        return r;
    for (char *s = strtok_r(text, "\n", &save); s; s = strtok_r(NULL, "\n", &save)) {
        uint32_t pid;
        if (parse_u32(s, INT32_MAX, &pid) == 0 && pid > 1)
            (void)kill((pid_t)pid, signal);
    }
    return 0;
}

/* Calls fn for each child directory. */
static int for_each_child(int dir, int (*fn)(int dir, const char *name, int arg), int arg)
{
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *e;

    if (!d) {
        (void)close_fd(copy);
        return -errno;
    }
    while ((e = readdir(d)))
        if (e->d_type == DT_DIR && e->d_name[0] != '.')
            (void)fn(dir, e->d_name, arg);
    (void)closedir(d);
    return 0;
}

static int signal_child(int dir, const char *name, int signal)
{
    _cleanup_(closep) int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : signal_procs(fd, signal);
}

int cgroup_signal(struct cgroup *cg, int signal)
{
    int r;

    if (signal == SIGKILL)
        return cgroup_kill(cg);
    r = signal_procs(cg->fd, signal);
    if (r == 0)
        r = for_each_child(cg->fd, signal_child, signal);
    return r;
}

struct cgroup_reaper {
    struct list link;
    struct cgroup *cg;
    struct watch *watch;
    void (*done)(void *userdata);
    void *userdata;
};

/* a privileged container may have made cgroups below its own */
static int remove_child(int dir, const char *name, int depth)
{
    _cleanup_(closep) int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && depth > 0)
        (void)for_each_child(fd, remove_child, depth - 1);
    return unlinkat(dir, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

/* True: nothing is left to wait for. */
static bool try_remove(const struct cgroup *cg)
{
    if (cgroup_is_populated(cg))
        return false;
    (void)for_each_child(cg->fd, remove_child, CGROUP_DEPTH_MAX);
    if (rmdir(cg->path) == 0 || errno == ENOENT)
        return true;
    log_warning_errno(-errno, "cannot remove cgroup %s", cg->path);
    return true;
}

static void reaper_free(struct cgroup_reaper *r)
{
    list_remove(&r->link);
    watch_free(r->watch);
    cgroup_free(r->cg);
    free(r);
}

void cgroups_free(struct agent *a)
{
    while (!list_is_empty(&a->dying_cgroups))
        reaper_free(list_first(&a->dying_cgroups, struct cgroup_reaper, link));
}

static void on_events(struct watch *w, void *userdata)
{
    struct cgroup_reaper *r = userdata;
    void (*done)(void *) = r->done;
    void *done_data = r->userdata;

    if (!try_remove(r->cg))
        return;
    reaper_free(r);
    if (done)
        done(done_data);
}

void cgroup_reaper_forget(struct cgroup_reaper *r)
{
    if (r)
        r->done = NULL;
}

struct cgroup_reaper *cgroup_reap(struct agent *a, struct cgroup *cg, void (*done)(void *userdata),
                                  void *userdata)
{
    _cleanup_(freep) char *events = NULL;
    struct cgroup_reaper *r;
    int e;

    /* mostly it is empty; the kernel removes none in which something lives */
    if (rmdir(cg->path) == 0) {
        cgroup_free(cg);
        if (done)
            done(userdata);
        return NULL;
    }
    r = xcalloc(1, sizeof(*r));
    events = str_printf("%s/cgroup.events", cg->path);
    r->cg = cg;
    r->done = done;
    r->userdata = userdata;
    list_append(&a->dying_cgroups, &r->link);
    /* the watch first: a change between the test and the watch would be missed */
    e = watch_new(a, events, on_events, r, &r->watch);
    if (e == 0)
        e = cgroup_kill(cg);
    if (e == 0 && !try_remove(cg))
        return r;
    if (e < 0 && e != -ENOENT)
        log_warning_errno(e, "cgroup %s", cg->path);
    reaper_free(r);
    if (done)
        done(userdata);
    return NULL;
}
