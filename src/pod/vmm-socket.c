/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/vmm-socket.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 64

static int address(int dirfd, const char *name, struct sockaddr_un *ret, struct error **err)
{
    int n;

    memset(ret, 0, sizeof(*ret));
    ret->sun_family = AF_UNIX;
    n = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%s", dirfd, name);
    if (n < 0 || (size_t)n >= sizeof(ret->sun_path))
        return error_set(err, -ENAMETOOLONG, "socket name %s is too long", name);
    return 0;
}

int vmm_socket_listen(int dirfd, const char *name, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    struct sockaddr_un sa;
    int r = address(dirfd, name, &sa, err);

    if (r < 0)
        return r;
    if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
        return error_set(err, -errno, "cannot replace socket %s: %s", name, strerror(errno));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    if (fchmod(fd, 0600) < 0 || /* the mode of the file that bind makes, without a umask dance */
        bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, BACKLOG) < 0)
        return error_set(err, -errno, "cannot listen on socket %s: %s", name, strerror(errno));
    return TAKE_FD(fd);
}

int vmm_socket_connect(int dirfd, const char *name, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    struct sockaddr_un sa;
    int r = address(dirfd, name, &sa, err);

    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
        return error_set(err, -errno, "cannot connect to nexus-vmm at %s: %s", name,
                         strerror(errno));
    return TAKE_FD(fd);
}
