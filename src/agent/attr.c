/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/attr.h"

#include <fcntl.h>
#include <string.h>

#include "base/file.h"

int attr_read(const char *path, char *out, size_t size)
{
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return -errno;
    n = read_full(fd, out, size - 1);
    if (n < 0)
        return (int)n;
    out[n] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return 0;
}

int attr_write(const char *path, const char *value)
{
    _cleanup_(closep) int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    return write(fd, value, strlen(value)) < 0 ? -errno : 0;
}
