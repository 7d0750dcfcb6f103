/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/termination.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int termination_check(int fd)
{
    struct stat st;
    int flags;

    if (fstat(fd, &st) < 0)
        return -errno;
    flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    /* with O_APPEND the writes below would add to the file */
    if (!S_ISREG(st.st_mode) || (flags & O_ACCMODE) == O_RDONLY || (flags & O_APPEND))
        return -EINVAL;
    return 0;
}

int termination_write(int fd, const uint8_t *bytes, size_t len)
{
    struct stat st;
    ssize_t n;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size > (off_t)len && ftruncate(fd, 0) < 0)
        return -errno;
    if (len == 0)
        return 0;
    do
        n = pwrite(fd, bytes, len,
                   0); /* within one page: whole or not at all, but for a full disk */
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -ENOSPC;
}
