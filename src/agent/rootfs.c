/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/rootfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "agent/mountapi.h"

static const struct {
    const char *name;
    unsigned major, minor;
} device_nodes[] = {
    {"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
    {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
};

static const struct {
    const char *name, *target;
} device_links[] = {
    {"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
    {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"},         {"core", "/proc/kcore"},
};

/* What must be opened before the agent's root goes away. */
struct sources {
    int root; /* O_PATH of the container's root once it is / */
    int shm;
    int host_dev; /* the guest's /dev, for privileged containers */
    int files[ROOTFS_FILES_MAX];
    int volumes[ROOTFS_VOLUMES_MAX];
};

static int open_volume(const struct rootfs_volume *v)
{
    _cleanup_(closep) int base = -EBADF;
    _cleanup_(closep) int below = -EBADF;

    if (v->live || v->shared)
        return mnt_clone(AT_FDCWD, v->source, v->live);
    base = open(v->source, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (base < 0)
        return -errno;
    if (!*v->sub_path)
        return mnt_clone(base, "", false);
    below = open_in_root(base, v->sub_path, O_PATH, true);
    return below < 0 ? below : mnt_clone(below, "", false);
}

static int open_volumes(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    for (size_t i = 0; i < plan->n_volumes; i++) {
        int fd = open_volume(&plan->volumes[i]);

        if (fd < 0)
            return error_set(err, fd, "volume for %s: %s", plan->volumes[i].target, strerror(-fd));
        src->volumes[i] = fd;
    }
    return 0;
}

static int open_sources(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    src->shm = mnt_clone(AT_FDCWD, plan->shm, false);
    if (src->shm < 0)
        return error_set(err, src->shm, "shared memory of the pod");
    src->host_dev = -EBADF;
    if (plan->privileged) {
        src->host_dev = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (src->host_dev < 0)
            return error_set(err, -errno, "devices of the guest");
    }
    for (size_t i = 0; i < plan->n_files; i++) {
        int fd = mnt_clone(AT_FDCWD, plan->files[i].source, false);
        if (fd < 0)
            return error_set(err, fd, "file for %s", plan->files[i].target);
        src->files[i] = fd;
    }
    return open_volumes(plan, src, err);
}

static int change_root(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    if (chdir(plan->root) < 0)
        return error_set(err, -errno, "root file system");
    if (syscall(SYS_pivot_root, ".", ".") < 0)
        return error_set(err, -errno, "pivot_root");
    /* the old root lies over the new one now */
    if (umount2(".", MNT_DETACH) < 0)
        return error_set(err, -errno, "detach the old root");
    if (chdir("/") < 0)
        return error_set(err, -errno, "new root");
    src->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return src->root < 0 ? error_set(err, -errno, "new root") : 0;
}

/* Attaches a detached mount (taken) at path. The kernel's own file systems go on real directories
 * only: an image that has a link there chooses their place. */
static int place(const struct sources *src, int mount_fd, const char *path, bool directory,
                 bool links, struct error **err)
{
    _cleanup_(closep) int mnt = mount_fd;
    _cleanup_(closep) int target = -EBADF;
    int r;

    if (mnt < 0)
        return error_set(err, mnt, "mount for %s: %s", path, strerror(-mnt));
    if (!links) {
        target = open_in_root(src->root, path, O_PATH | O_DIRECTORY, false);
        if (target == -ELOOP)
            return error_set(err, -ELOOP, "%s is a symbolic link in the image", path);
        if (target != -ENOENT && target < 0)
            return error_set(err, target, "%s: %s", path, strerror(-target));
    }
    if (target < 0)
        target = open_or_make_in_root(src->root, path, directory);
    if (target < 0)
        return error_set(err, target, "mount point %s: %s", path, strerror(-target));
    r = mnt_attach(mnt, target);
    return r < 0 ? error_set(err, r, "mount on %s: %s", path, strerror(-r)) : 0;
}

static int mount_kernel_fs(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    uint64_t safe = MNT_NOSUID | MNT_NODEV | MNT_NOEXEC;
    uint64_t sys = safe | (plan->privileged ? 0 : MNT_RDONLY);
    int r = place(src, mnt_new("proc", NULL, safe), "/proc", true, false, err);

    if (r == 0)
        r = place(src, mnt_new("sysfs", NULL, sys), "/sys", true, false, err);
    if (r == 0)
        r = place(src, mnt_new("cgroup2", NULL, sys), "/sys/fs/cgroup", true, false, err);
    return r;
}

static int make_node(int dev, const char *name, mode_t type, dev_t rdev, struct error **err)
{
    if (mknodat(dev, name, type | 0666, rdev) < 0)
        return error_set(err, -errno, "device node %s", name);
    return 0;
}

int rootfs_check_devices(Nexus__DeviceNode *const *devices, size_t n, struct error **err)
{
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;

        while (k < ARRAY_SIZE(device_nodes) && strcmp(device_nodes[k].name, devices[i]->name) != 0)
            k++;
        if (k == ARRAY_SIZE(device_nodes) || devices[i]->path[0] != '/')
            return error_set(err, -EINVAL, "device \"%.32s\"", devices[i]->name);
    }
    return 0;
}

/* The nodes are in /dev already: elsewhere they are seen once more. */
static int place_devices(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < plan->n_devices; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "/dev/%s", plan->devices[i]->name);
        r = place(src, mnt_clone(AT_FDCWD, path, false), plan->devices[i]->path, false, true, err);
    }
    return r;
}

/* All nodes of the guest's /dev itself; what is in folders there is no device of a pod. */
static int copy_host_nodes(int host_dev, int dev, struct error **err)
{
    DIR *d = fdopendir(host_dev);
    struct dirent *e;
    int r = 0;

    if (!d)
        return error_set(err, -errno, "devices of the guest");
    while (r == 0 && (e = readdir(d))) {
        struct stat st;
        if (fstatat(host_dev, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            !(S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)))
            continue;
        if (mknodat(dev, e->d_name, st.st_mode, st.st_rdev) < 0 && errno != EEXIST)
            r = error_set(err, -errno, "device node %s", e->d_name);
    }
    (void)closedir(d);
    return r;
}

static int fill_dev(const struct rootfs_plan *plan, struct sources *src, int dev,
                    struct error **err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(device_nodes); i++)
        r = make_node(dev, device_nodes[i].name, S_IFCHR,
                      makedev(device_nodes[i].major, device_nodes[i].minor), err);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(device_links); i++)
        if (symlinkat(device_links[i].target, dev, device_links[i].name) < 0)
            r = error_set(err, -errno, "link /dev/%s", device_links[i].name);
    if (r == 0 && src->host_dev >= 0)
        r = copy_host_nodes(src->host_dev, dev, err);
    return r;
}

static int mount_dev(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    static const char *const tmpfs[] = {"mode", "755", "size", "65536k", "source", "dev", NULL};
    _cleanup_(closep) int dev = -EBADF;
    uint64_t safe = MNT_NOSUID | MNT_NODEV | MNT_NOEXEC;
    mode_t mask = umask(0);
    int r = place(src, mnt_new("tmpfs", tmpfs, MNT_NOSUID), "/dev", true, false, err);

    if (r == 0) {
        dev = open("/dev", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        r = dev < 0 ? error_set(err, -errno, "/dev") : fill_dev(plan, src, dev, err);
    }
    (void)umask(mask);
    if (r == 0)
        r = place(src, plan->devpts, "/dev/pts", true, false, err);
    if (r == 0)
        r = place(src, src->shm, "/dev/shm", true, false, err);
    if (r == 0)
        r = place(src, mnt_new("mqueue", NULL, safe), "/dev/mqueue", true, false, err);
    if (r == 0 && plan->console >= 0) {
        char slave[32];
        (void)snprintf(slave, sizeof(slave), "/dev/pts/%d", plan->console);
        r = place(src, mnt_clone(AT_FDCWD, slave, false), "/dev/console", false, true, err);
    }
    return r;
}

static int place_files(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < plan->n_files; i++) {
        if (plan->files[i].readonly)
            r = mnt_set_attrs(src->files[i], MNT_RDONLY, false);
        r = r < 0 ? error_set(err, r, "file for %s", plan->files[i].target)
                  : place(src, src->files[i], plan->files[i].target, false, true, err);
    }
    return r;
}

/* They stay followers of the agent's mounts: what a live volume gets there appears here. */
static int place_volumes(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < plan->n_volumes; i++) {
        const struct rootfs_volume *v = &plan->volumes[i];
        struct stat st;

        uint64_t attrs = (v->writable ? 0 : MNT_RDONLY) | MNT_NODEV | (v->shared ? 0 : MNT_NOSUID);

        r = fstat(src->volumes[i], &st) < 0 ? -errno : 0;
        if (r == 0)
            r = mnt_set_attrs(src->volumes[i], attrs, v->live);
        r = r < 0 ? error_set(err, r, "volume for %s: %s", v->target, strerror(-r))
                  : place(src, src->volumes[i], v->target, S_ISDIR(st.st_mode), true, err);
    }
    return r;
}

/* What is not there needs no protection. */
static bool is_missing(int fd)
{
    return fd == -ENOENT || fd == -ENOTDIR;
}

static int make_readonly(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    for (size_t i = 0; i < plan->n_readonly_paths; i++) {
        const char *path = plan->readonly_paths[i];
        _cleanup_(closep) int target = open_in_root(src->root, path, O_PATH, true);
        _cleanup_(closep) int mnt = target < 0 ? target : mnt_clone(target, "", true);
        int r;

        if (is_missing(target))
            continue;
        r = mnt < 0 ? mnt : mnt_set_attrs(mnt, MNT_RDONLY, true);
        if (r == 0)
            r = mnt_attach(mnt, target);
        if (r < 0)
            return error_set(err, r, "read-only path %s: %s", path, strerror(-r));
    }
    return 0;
}

/* The node is our own, in a /dev of ours: still, look at it before it covers anything. */
static int clone_null(void)
{
    _cleanup_(closep) int fd = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
        return -ENODEV;
    return mnt_clone(fd, "", false);
}

static int mask(const struct rootfs_plan *plan, struct sources *src, struct error **err)
{
    static const char *const tmpfs[] = {"mode", "755", "size", "4k", "source", "tmpfs", NULL};

    for (size_t i = 0; i < plan->n_masked; i++) {
        const char *path = plan->masked[i];
        _cleanup_(closep) int target = open_in_root(src->root, path, O_PATH, true);
        _cleanup_(closep) int mnt = -EBADF;
        struct stat st;
        int r;

        if (is_missing(target))
            continue;
        if (target < 0 || fstat(target, &st) < 0)
            return error_set(err, target < 0 ? target : -errno, "masked path %s", path);
        mnt = S_ISDIR(st.st_mode) ? mnt_new("tmpfs", tmpfs, MNT_RDONLY) : clone_null();
        r = mnt < 0 ? mnt : mnt_attach(mnt, target);
        if (r < 0)
            return error_set(err, r, "masked path %s: %s", path, strerror(-r));
    }
    return 0;
}

int rootfs_enter(const struct rootfs_plan *plan, struct error **err)
{
    struct sources src;
    int r;

    /* private, but for the volumes, which follow the agent's */
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return error_set(err, -errno, "mounts of its own");
    r = open_sources(plan, &src, err);
    if (r == 0)
        r = change_root(plan, &src, err);
    if (r == 0)
        r = mount_kernel_fs(plan, &src, err);
    if (r == 0)
        r = mount_dev(plan, &src, err);
    if (r == 0)
        r = place_devices(plan, &src, err);
    if (r == 0)
        r = place_volumes(plan, &src, err);
    if (r == 0)
        r = place_files(plan, &src, err);
    if (r == 0)
        r = make_readonly(plan, &src, err);
    if (r == 0)
        r = mask(plan, &src, err);
    if (r == 0 && plan->readonly) {
        r = mnt_set_attrs(src.root, MNT_RDONLY, false);
        if (r < 0)
            r = error_set(err, r, "read-only root");
    }
    return r;
}
