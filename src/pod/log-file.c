/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a container's logs: below the pod's log directory, no link followed, a regular file with one
 * name (a FIFO in its place is not waited for). */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/str.h"
#include "pod/node-internal.h"

/* Makes the directories of path (without its last part) below dirfd. */
static int make_parents(int dirfd, const char *path)
{
    _cleanup_(freep) char *copy = str_dup(path);
    _cleanup_(closep) int at = fcntl(dirfd, F_DUPFD_CLOEXEC, 3);
    char *rest = copy, *part;

    if (at < 0)
        return -errno;
    while ((part = strsep(&rest, "/")) && rest) {
        int next;

        if (!*part)
            continue;
        if (mkdirat(at, part, 0755) < 0 && errno != EEXIST)
            return -errno;
        next = file_open_beneath(at, part, O_RDONLY | O_DIRECTORY, 0);
        if (next < 0)
            return next;
        (void)close_fd(at);
        at = next;
    }
    return 0;
}

static int open_checked(int dirfd, const char *path)
{
    _cleanup_(closep) int fd = -EBADF;
    struct stat st;

    fd = file_open_beneath(dirfd, path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOFOLLOW,
                           0640);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
        return -EMLINK;
    return TAKE_FD(fd);
}

int log_file_open(const char *log_directory, const char *log_path, int *ret_fd, struct error **err)
{
    _cleanup_(closep) int dirfd = -EBADF;
    int r = FP("pod.log.open");

    if (r >= 0)
        r = dir_make(log_directory, 0755);
    if (r < 0)
        return error_set(err, r, "log directory %s: %s", log_directory, strerror(-r));
    dirfd = open(log_directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dirfd < 0)
        return error_set(err, -errno, "log directory %s: %s", log_directory, strerror(errno));
    r = make_parents(dirfd, log_path);
    if (r >= 0)
        r = open_checked(dirfd, log_path);
    if (r == -EMLINK)
        return error_set_class(err, ERROR_DENIED, r,
                               "log %s/%s is no regular file of its own (a link or a device)",
                               log_directory, log_path);
    if (r == -ENXIO || r == -EISDIR || r == -ELOOP || r == -EXDEV || r == -ENOTDIR)
        return error_set_class(err, ERROR_DENIED, r,
                               "log %s/%s is no regular file beneath the "
                               "pod's log directory",
                               log_directory, log_path);
    if (r < 0)
        return error_set(err, r, "cannot open log %s/%s: %s", log_directory, log_path,
                         strerror(-r));
    *ret_fd = r;
    return 0;
}

int termination_file_open(const char *path, int *ret_fd, struct error **err)
{
    _cleanup_(closep) int fd =
        open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;
    int r = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

    if (r == 0 && (!S_ISREG(st.st_mode) || st.st_nlink != 1))
        r = -EMLINK;
    if (r == -EMLINK || r == -ELOOP || r == -ENXIO)
        return error_set_class(err, ERROR_DENIED, r,
                               "termination log %s is no regular file of its own (a link or a "
                               "device)",
                               path);
    if (r < 0) /* "no such object" would be the container's */
        return error_set_class(err,
                               r == -ENOENT ? (int)ERROR_INVALID : (int)error_class_of(NULL, r), r,
                               "cannot open termination log %s: %s", path, strerror(-r));
    *ret_fd = TAKE_FD(fd);
    return 0;
}
