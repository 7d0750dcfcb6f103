/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/buf.h"
#include "base/failpoint.h"
#include "base/str.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define TREE_DEPTH_MAX 64

int file_open_beneath(int dirfd, const char *path, int flags, mode_t mode)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = (flags & (O_CREAT | O_TMPFILE)) ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS,
    };
    long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

/* How much to ask for first: the whole file and its end in one read, where its size is told. */
static size_t first_read(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0)
        return 4096; /* of the kernel's own files too */
    return st.st_size < 65536 ? (size_t)st.st_size + 1 : 65536;
}

int fd_read_all(int fd, size_t max, char **ret, size_t *ret_len)
{
    size_t step = first_read(fd);
    struct buf b;

    buf_init(&b, max + 1); /* one more byte tells "exactly max" from "more" */
    for (;;) {
        size_t left = b.max - b.used, room = b.size - b.used;
        uint8_t *p;
        ssize_t n;

        if (room == 0)
            room = step;
        if (room > left)
            room = left;
        step = 65536;
        p = room ? buf_reserve(&b, room) : NULL;
        if (!p) {
            buf_done(&b);
            return room ? -ENOMEM : -EFBIG;
        }
        n = read(fd, p, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int r = -errno;
            buf_done(&b);
            return r;
        }
        if (n == 0)
            break;
        b.used += (size_t)n;
        if (b.used > max) {
            buf_done(&b);
            return -EFBIG;
        }
    }
    if (ret_len)
        *ret_len = b.used;
    *ret = buf_take_str(&b);
    return *ret ? 0 : -ENOMEM;
}

int file_read_all(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len)
{
    _cleanup_(closep) int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    return fd_read_all(fd, max, ret, ret_len);
}

int write_full(int fd, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;

    while (len) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* From the file position, or (offset given) from there. */
static ssize_t read_until_full(int fd, void *bytes, size_t len, const uint64_t *offset)
{
    uint8_t *p = bytes;
    size_t done = 0;

    while (done < len) {
        ssize_t n = offset ? pread(fd, p + done, len - done, (off_t)(*offset + done))
                           : read(fd, p + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t read_full(int fd, void *bytes, size_t len)
{
    return read_until_full(fd, bytes, len, NULL);
}

ssize_t pread_full(int fd, void *bytes, size_t len, uint64_t offset)
{
    return read_until_full(fd, bytes, len, &offset);
}

int file_write_atomic(int dirfd, const char *name, const void *bytes, size_t len, mode_t mode,
                      bool durable)
{
    _cleanup_(closep) int fd = -EBADF;
    char tmp[NAME_MAX + 1];
    char tag[9];
    int r;

    if (strchr(name, '/') || !*name || strlen(name) > NAME_MAX - 16)
        return -EINVAL;
    random_hex(tag, 8);
    (void)snprintf(tmp, sizeof(tmp), ".%s.tmp%s", name, tag);
    r = FP("file.write.open");
    if (r < 0)
        return r;
    fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return -errno;
    r = FP("file.write.data");
    if (r == 0)
        r = write_full(fd, bytes, len);
    if (r == 0 && durable && fsync(fd) < 0)
        r = -errno;
    if (r == 0)
        r = FP("file.write.rename");
    if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlinkat(dirfd, tmp, 0);
        return r;
    }
    if (durable && fsync(dirfd) < 0)
        return -errno;
    return 0;
}

int file_unlink_durable(int dirfd, const char *name)
{
    if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
        return -errno;
    if (fsync(dirfd) < 0)
        return -errno;
    return 0;
}

int dir_make(const char *path, mode_t mode)
{
    _cleanup_(freep) char *copy = NULL;
    struct stat st;

    if (mkdir(path, mode) == 0) /* most often all but the last is there */
        return 0;
    copy = str_dup(path);
    for (char *p = copy + 1;; p++) {
        char c = *p;
        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(copy, mode) < 0 && errno != EEXIST)
            return -errno;
        *p = c;
        if (!c)
            break;
    }
    if (stat(path, &st) < 0)
        return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int dir_open_or_make(const char *path, mode_t mode)
{
    int r = dir_make(path, mode);
    int fd;

    if (r < 0)
        return r;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int remove_at(int parent, const char *name, unsigned depth)
{
    _cleanup_(closep) int fd = -EBADF;
    struct dirent *e;
    int r = 0;
    DIR *d;

    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    if (depth == 0)
        return -ELOOP;
    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    d = fdopendir(fd);
    if (!d)
        return -errno;
    TAKE_FD(fd);
    while (r == 0 && (e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = remove_at(dirfd(d), e->d_name, depth - 1);
    (void)closedir(d);
    if (r == 0 && unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        r = -errno;
    return r;
}

int dir_remove_tree(int dirfd, const char *name)
{
    return remove_at(dirfd, name, TREE_DEPTH_MAX);
}
