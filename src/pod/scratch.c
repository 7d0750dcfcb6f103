/* SPDX-License-Identifier: Apache-2.0 */
/* Scratch disks: a sparse file per pod, copied from one template that mkfs.ext4 made once for its
 * size. Only the blocks that hold data are copied, so a disk of any size costs some hundred KiB. */
#include "pod/scratch.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"

#define COPY_BYTES (256U << 10)

static void template_name(uint64_t bytes, char *out, size_t size)
{
    (void)snprintf(out, size, "template-%llu-quota.img", (unsigned long long)bytes);
}

/* Waits for mkfs: once per node and size, at the start, before anything is served. */
static int run_mkfs(const char *mkfs, int fd)
{
    char path[64];
    static const char *const fixed[] = {"mkfs.ext4",
                                        "-q",
                                        "-F",
                                        "-m",
                                        "0",
                                        "-O",
                                        "^has_journal,^resize_inode,quota,project",
                                        "-E",
                                        "lazy_itable_init=1,nodiscard,quotatype=prjquota",
                                        NULL,
                                        NULL};
    char *argv[ARRAY_SIZE(fixed)];
    char *const envp[] = {(char *)(uintptr_t) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;
    int status = 0, r;
    pid_t pid;

    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
        argv[i] = (char *)(uintptr_t)fixed[i];
    (void)snprintf(path, sizeof(path), "/dev/fd/%d", 3);
    argv[ARRAY_SIZE(fixed) - 2] = path;
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    (void)posix_spawn_file_actions_adddup2(&actions, fd, 3);
    (void)posix_spawnattr_init(&attr);
    (void)sigemptyset(&none);
    (void)posix_spawnattr_setsigmask(&attr, &none);
    (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    r = -posix_spawn(&pid, mkfs, &actions, &attr, argv, envp);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attr);
    if (r < 0)
        return r;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

int scratch_make_template(int dirfd, const char *mkfs, uint64_t bytes, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    char name[64], temporary[72];
    struct stat st;
    int r;

    template_name(bytes, name, sizeof(name));
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        (uint64_t)st.st_size == bytes)
        return 0;
    (void)snprintf(temporary, sizeof(temporary), ".%s.tmp", name);
    (void)unlinkat(dirfd, temporary, 0);
    fd = openat(dirfd, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(err, -errno, "cannot make the scratch template: %s", strerror(errno));
    r = ftruncate(fd, (off_t)bytes) < 0 ? -errno : run_mkfs(mkfs, fd);
    if (r >= 0 && (fsync(fd) < 0 || renameat(dirfd, temporary, dirfd, name) < 0))
        r = -errno;
    if (r < 0) {
        (void)unlinkat(dirfd, temporary, 0);
        return error_set(err, r,
                         "cannot make the scratch template with %s: %s (is e2fsprogs "
                         "installed?)",
                         mkfs, strerror(-r));
    }
    return 0;
}

static int copy_range(int from, int to, off_t start, off_t end)
{
    static uint8_t bytes[COPY_BYTES]; /* one thread makes all of them */

    while (start < end) {
        size_t n = (size_t)(end - start) < sizeof(bytes) ? (size_t)(end - start) : sizeof(bytes);
        ssize_t k = pread_full(from, bytes, n, (uint64_t)start);

        if (k <= 0)
            return k < 0 ? (int)k : -EIO;
        for (ssize_t at = 0; at < k;) {
            ssize_t w = pwrite(to, bytes + at, (size_t)(k - at), start + at);
            if (w < 0 && errno == EINTR)
                continue;
            if (w <= 0)
                return w < 0 ? -errno : -EIO;
            at += w;
        }
        start += k;
    }
    return 0;
}

int scratch_copy_sparse(int from, int to, uint64_t bytes)
{
    off_t at = 0, size = (off_t)bytes;

    if (ftruncate(to, size) < 0)
        return -errno;
    while (at < size) {
        off_t data = lseek(from, at, SEEK_DATA), hole;
        int r;

        if (data < 0)
            return errno == ENXIO ? 0 : -errno; /* only holes are left */
        hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        r = copy_range(from, to, data, hole);
        if (r < 0)
            return r;
        at = hole;
    }
    return 0;
}

static void scratch_name(const char *id, char *out, size_t size)
{
    (void)snprintf(out, size, "%s.img", id);
}

int scratch_create(int dirfd, const char *mkfs, uint64_t bytes, const char *id, int *ret_fd,
                   struct error **err)
{
    _cleanup_(closep) int template = -EBADF, fd = -EBADF;
    char name[LIMIT_ID_MAX + 8];
    int r;

    r = scratch_make_template(dirfd, mkfs, bytes, err);
    if (r < 0)
        return r;
    template_name(bytes, name, sizeof(name));
    template = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
    if (template <0)
        return error_set(err, -errno, "cannot open the scratch template: %s", strerror(errno));
    scratch_name(id, name, sizeof(name));
    (void)unlinkat(dirfd, name, 0);
    fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a scratch disk: %s", strerror(errno));
    r = FP("pod.scratch.copy");
    if (r >= 0)
        r = scratch_copy_sparse(template, fd, bytes);
    if (r < 0)
        return error_set(err, r, "cannot make a scratch disk: %s", strerror(-r));
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int scratch_remove(int dirfd, const char *id, struct error **err)
{
    char name[LIMIT_ID_MAX + 8];
    int r = FP("pod.scratch.remove");

    scratch_name(id, name, sizeof(name));
    if (r < 0)
        return error_set(err, r, "failpoint while removing scratch disk %s", name);
    if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
        return error_set(err, -errno, "cannot remove scratch disk %s: %s", name, strerror(errno));
    return 0;
}
