/* SPDX-License-Identifier: Apache-2.0 */
/* Host paths as mounts in virtiofsd's namespace. A path is opened on the host (following its links, made if it
 * is missing, as other runtimes do), its mounts are cloned, the clone gets its attributes, and a thread
 * that has gone into the namespace puts it in its place: no other mount table ever has it. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/share-internal.h"

#define NAME_ID 12 /* bytes of the container's id in names */

struct bind {
    char *host_path, *destination, *name; /* owned */
    bool readonly, recursive;
    bool follows; /* what is mounted on the host later shows */
    int tree;     /* owned; the clone */
};

struct bind_job {
    int vmm_dirfd; /* borrowed: the node's */
    char dir[SHARE_NAME_MAX];
    char prefix[NAME_ID + 3]; /* of the names of the container */
    int pidfd;                /* owned; of virtiofsd; -EBADF: it has ended */
    bool drop;
    size_t n;
    struct bind *binds;
    int r; /* of the thread in the namespace */
    size_t at;
};

static void job_free(void *payload)
{
    struct bind_job *j = payload;

    for (size_t i = 0; i < j->n; i++) {
        free(j->binds[i].host_path);
        free(j->binds[i].destination);
        free(j->binds[i].name);
        (void)close_fd(j->binds[i].tree);
    }
    free(j->binds);
    (void)close_fd(j->pidfd);
    free(j);
}

static struct bind *bind_new(struct bind_job *j, const char *name)
{
    struct bind *b;

    j->binds = xrealloc(j->binds, j->n + 1, sizeof(*j->binds));
    b = &j->binds[j->n++];
    *b = (struct bind){.name = str_dup(name), .tree = -EBADF};
    return b;
}

static struct bind_job *job_new(const struct container *c, bool drop)
{
    struct bind_job *j = xcalloc(1, sizeof(*j));
    const struct sandbox *s = c->sandbox;

    j->vmm_dirfd = s->node->vmm_dirfd;
    share_dir_name(s, j->dir);
    (void)snprintf(j->prefix, sizeof(j->prefix), "c%.*s-", NAME_ID, c->id);
    j->pidfd = share_pidfd(s);
    j->drop = drop;
    for (size_t i = 0; !drop && i < c->spec.mounts.count; i++) {
        const struct container_share *share = container_share_at(c, i);
        const struct mount_spec *m = &c->spec.mounts.items[i];
        struct bind *b;

        if (!share || share->kind != SHARE_HOST)
            continue;
        b = bind_new(j, share->name);
        b->host_path = str_dup(m->host_path);
        b->destination = str_dup(m->container_path);
        b->readonly = m->readonly;
        b->recursive = m->recursive_read_only;
        b->follows = m->propagation != 0;
    }
    return j;
}

/* ---- in the thread: on the host */

static int fail(const struct bind *b, int r, struct error **err)
{
    /* "no such object" would be the container's */
    int class = r == -ENOENT || r == -EEXIST ? (int)ERROR_INVALID : (int)error_class_of(NULL, r);

    return error_set_class(err, class, r, "mount of %s at %s: %s", b->host_path, b->destination,
                           strerror(-r));
}

/* All that is missing of path, whatever the umask. */
static int make_missing(const char *path)
{
    _cleanup_(freep) char *copy = str_dup(path);

    for (char *end = strchr(copy + 1, '/');; end = strchr(end + 1, '/')) {
        if (end)
            *end = '\0';
        if (mkdir(copy, 0755) == 0) {
            if (chmod(copy, 0755) < 0)
                return -errno;
        } else if (errno != EEXIST) {
            return -errno;
        }
        if (!end)
            return 0;
        *end = '/';
    }
}

static int open_source(const struct bind *b)
{
    int fd = open(b->host_path, O_PATH | O_CLOEXEC), r;

    if (fd >= 0 || errno != ENOENT)
        return fd < 0 ? -errno : fd;
    r = make_missing(b->host_path);
    if (r < 0)
        return r;
    log_info("host path %s was missing: a directory was made", b->host_path);
    fd = open(b->host_path, O_PATH | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int clone_source(struct bind *b, int source)
{
    struct mount_attr all = {.propagation = b->follows ? MS_SLAVE : MS_PRIVATE};
    struct mount_attr top = {.attr_set = MOUNT_ATTR_RDONLY};

    b->tree =
        open_tree(source, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
    if (b->tree < 0)
        return -errno;
    if (mount_setattr(b->tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &all, sizeof(all)) < 0)
        return -errno;
    if (b->readonly && mount_setattr(b->tree, "", AT_EMPTY_PATH | (b->recursive ? AT_RECURSIVE : 0),
                                     &top, sizeof(top)) < 0)
        return -errno;
    return 0;
}

static int make_place(int dir, const char *name, bool directory)
{
    int fd;

    if (directory)
        return mkdirat(dir, name, 0755) < 0 && errno != EEXIST ? -errno : 0;
    fd = openat(dir, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    (void)close_fd(fd);
    return 0;
}

static int prepare(int dir, struct bind *b, struct error **err)
{
    _cleanup_(closep) int source = open_source(b);
    struct stat st;
    int r = source < 0 ? source : fstat(source, &st) < 0 ? -errno : 0;

    if (r >= 0)
        r = clone_source(b, source);
    if (r >= 0)
        r = make_place(dir, b->name, S_ISDIR(st.st_mode));
    return r < 0 ? fail(b, r, err) : 0;
}

/* ---- in a thread of its own: in virtiofsd's namespace, whose root the directory is */

static int place(const struct bind_job *j, const struct bind *b)
{
    char path[SHARE_NAME_MAX + 1];

    (void)snprintf(path, sizeof(path), "/%s", b->name);
    if (!j->drop)
        return move_mount(b->tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
    (void)umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW); /* not mounted, or not any more: as well */
    return 0;
}

static void *in_namespace(void *arg)
{
    struct bind_job *j = arg;

    if (unshare(CLONE_FS) < 0 || setns(j->pidfd, CLONE_NEWNS) < 0) {
        j->r = -errno;
        return NULL;
    }
    for (j->at = 0; j->at < j->n && j->r >= 0; j->at++)
        j->r = place(j, &j->binds[j->at]);
    return NULL;
}

static int enter(struct bind_job *j)
{
    pthread_t thread;
    int r = -pthread_create(&thread, NULL, in_namespace, j);

    if (r < 0)
        return r;
    (void)pthread_join(thread, NULL);
    return j->r;
}

/* ---- the jobs */

static int bind_all(struct bind_job *j, int dir, struct error **err)
{
    int r = 0;

    for (size_t i = 0; i < j->n && r >= 0; i++)
        r = prepare(dir, &j->binds[i], err);
    if (r < 0)
        return r;
    r = j->pidfd < 0 ? -ESRCH : enter(j);
    if (r == -ESRCH)
        return error_set_class(err, ERROR_UNAVAILABLE, r, "host directories: virtiofsd ended");
    if (r < 0)
        return error_set(err, r, "host directories: binding %s for virtiofsd: %s",
                         j->at ? j->binds[j->at - 1].host_path : "them", strerror(-r));
    return 0;
}

static void find_all(struct bind_job *j, int dir)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (str_starts(e->d_name, j->prefix))
            (void)bind_new(j, e->d_name);
    if (d)
        (void)closedir(d);
    else
        (void)close_fd(fd);
}

/* A name that is a mount point nowhere any more; if it is one here, it stays. */
static void forget_place(int dir, const char *name)
{
    if (unlinkat(dir, name, AT_REMOVEDIR) < 0 && errno == ENOTDIR)
        (void)unlinkat(dir, name, 0);
}

static void drop_all(struct bind_job *j, int dir)
{
    int r;

    find_all(j, dir);
    r = j->n && j->pidfd >= 0 ? enter(j) : 0;
    if (r < 0 && r != -ESRCH)
        log_warning_errno(r, "host directories stay with virtiofsd until the pod ends");
    for (size_t i = 0; i < j->n; i++)
        forget_place(dir, j->binds[i].name);
}

static int job_work(void *payload, struct error **err)
{
    struct bind_job *j = payload;
    _cleanup_(closep) int dir =
        openat(j->vmm_dirfd, j->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (j->drop) {
        if (dir >= 0)
            drop_all(j, dir);
        return 0;
    }
    if (dir < 0)
        return error_set(err, -errno, "host directories: %s: %s", j->dir, strerror(errno));
    return bind_all(j, dir, err);
}

static void job_done(void *userdata, void *payload, int r, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(pod, "pod", c->sandbox->id);

    c->share_job.job = NULL;
    plan_step_ended(c->plan, c->share_job.step, r, err);
}

static int begin(struct container *c, bool drop, struct error **err)
{
    static const struct side_job_ops ops = {job_work, job_done, job_free};
    int r = side_job_start(c->sandbox->node->files_worker, &ops, job_new(c, drop),
                           "binding host directories", FILES_TIMEOUT_MS, c, &c->share_job.job, err);

    return r < 0 ? r : 1;
}

int share_bind(struct container *c, struct error **err)
{
    return begin(c, false, err);
}

int drop_share(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    char dir[SHARE_NAME_MAX];

    share_dir_name(c->sandbox, dir);
    if (faccessat(c->sandbox->node->vmm_dirfd, dir, F_OK, 0) < 0)
        return 0;
    c->share_job.step = plan_current_step(run);
    return begin(c, true, err) < 0 ? 0 : 1;
}

static void nobody_waits(void *userdata, void *payload, int r, const struct error *err)
{
    if (r < 0)
        log_debug("host directories stay bound: %s", error_text(err, r));
}

void share_forget(struct container *c)
{
    static const struct side_job_ops ops = {job_work, nobody_waits, job_free};
    char dir[SHARE_NAME_MAX];
    struct side_job *job;

    share_dir_name(c->sandbox, dir);
    if (faccessat(c->sandbox->node->vmm_dirfd, dir, F_OK, 0) == 0)
        (void)side_job_start(c->sandbox->node->files_worker, &ops, job_new(c, true),
                             "letting go of host directories", FILES_TIMEOUT_MS, NULL, &job, NULL);
}

void share_remove_dir(struct sandbox *s)
{
    char name[SHARE_NAME_MAX];
    struct dirent *e;
    DIR *d;
    int fd;

    share_dir_name(s, name);
    fd = openat(s->node->vmm_dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        (void)close_fd(fd);
        return;
    }
    while ((e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            forget_place(fd, e->d_name);
    (void)closedir(d);
    (void)unlinkat(s->node->vmm_dirfd, name, AT_REMOVEDIR);
}
