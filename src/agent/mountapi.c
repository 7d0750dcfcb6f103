/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/mountapi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

/* libc has these calls or not, by name and version: use the numbers (the same on every machine) */
#define NR_open_tree 428
#define NR_move_mount 429
#define NR_fsopen 430
#define NR_fsconfig 431
#define NR_fsmount 432
#define NR_openat2 437
#define NR_mount_setattr 442

static int result(long r)
{
    return r < 0 ? -errno : (int)r;
}

int mnt_new(const char *type, const char *const *options, uint64_t attrs)
{
    _cleanup_(closep) int fs = (int)syscall(NR_fsopen, type, FSOPEN_CLOEXEC);
    long r;

    if (fs < 0)
        return -errno;
    for (; options && *options; options += 2) {
        if (*options[1])
            r = syscall(NR_fsconfig, fs, FSCONFIG_SET_STRING, options[0], options[1], 0);
        else
            r = syscall(NR_fsconfig, fs, FSCONFIG_SET_FLAG, options[0], NULL, 0);
        if (r < 0)
            return -errno;
    }
    if (syscall(NR_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -errno;
    return result(syscall(NR_fsmount, fs, FSMOUNT_CLOEXEC, (unsigned)attrs));
}

int mnt_clone(int dirfd, const char *path, bool all)
{
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH;

    return result(syscall(NR_open_tree, dirfd, path, flags | (all ? AT_RECURSIVE : 0U)));
}

int mnt_set_attrs(int fd, uint64_t attrs, bool all)
{
    struct mount_attr a = {.attr_set = attrs};

    return result(
        syscall(NR_mount_setattr, fd, "", AT_EMPTY_PATH | (all ? AT_RECURSIVE : 0), &a, sizeof(a)));
}

int mnt_attach(int mount_fd, int target_fd)
{
    return result(syscall(NR_move_mount, mount_fd, "", target_fd, "",
                          MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
}

int mnt_attach_at(int mount_fd, int dirfd, const char *name)
{
    return result(syscall(NR_move_mount, mount_fd, "", dirfd, name, MOVE_MOUNT_F_EMPTY_PATH));
}

int open_in_root(int root_fd, const char *path, int flags, bool symlinks)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (symlinks ? 0U : RESOLVE_NO_SYMLINKS),
    };

    return result(syscall(NR_openat2, root_fd, path, &how, sizeof(how)));
}

/* Opens the directory path; where it is missing, makes name (its last component) in parent. */
static int enter_or_make(int root_fd, const char *path, int parent, const char *name)
{
    int fd = open_in_root(root_fd, path, O_PATH | O_DIRECTORY, true);

    if (fd != -ENOENT)
        return fd;
    /* EEXIST: a dangling link; made through it, the directory would be somewhere else */
    if (mkdirat(parent, name, 0755) < 0)
        return errno == EEXIST ? -ENOENT : -errno;
    return open_in_root(root_fd, path, O_PATH | O_DIRECTORY, true);
}

/* The end of the component that begins at p. */
static const char *component_end(const char *p)
{
    const char *slash = strchr(p, '/');

    return slash ? slash : p + strlen(p);
}

static int make_last(int root_fd, const char *path, int parent, const char *name, bool directory)
{
    int fd, target;

    if (directory)
        return enter_or_make(root_fd, path, parent, name);
    fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return errno == EEXIST ? -ENOENT : -errno;
    target = open_in_root(root_fd, path, O_PATH, true);
    (void)close(fd);
    return target;
}

static int check_kind(int fd, bool directory)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (directory)
        return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
    return S_ISDIR(st.st_mode) ? -EISDIR : 0;
}

int open_or_make_in_root(int root_fd, const char *path, bool directory)
{
    _cleanup_(closep) int at = fcntl(root_fd, F_DUPFD_CLOEXEC, 3);
    char walk[PATH_MAX] = "";
    size_t used = 0;
    int fd = open_in_root(root_fd, path, O_PATH, true);

    if (fd != -ENOENT) {
        int r = fd < 0 ? fd : check_kind(fd, directory);
        if (r < 0)
            (void)close_fd(fd);
        return r < 0 ? r : fd;
    }
    if (at < 0)
        return -errno;
    for (const char *p = path, *end; *p; p = *end ? end + 1 : end) {
        size_t len;
        bool last;

        end = component_end(p);
        len = (size_t)(end - p);
        if (len == 0 || (len == 1 && p[0] == '.'))
            continue;
        if ((len == 2 && p[0] == '.' && p[1] == '.') || len > NAME_MAX ||
            used + len + 2 > sizeof(walk))
            return -EINVAL;
        walk[used++] = '/';
        memcpy(walk + used, p, len);
        walk[used + len] = '\0';
        last = end[strspn(end, "/")] == '\0';
        fd = last ? make_last(root_fd, walk, at, walk + used, directory)
                  : enter_or_make(root_fd, walk, at, walk + used);
        if (fd < 0 || last)
            return fd;
        used += len;
        (void)close_fd(at);
        at = fd;
    }
    return -EINVAL;
}
