/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/endpoint.h"

#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define BACKLOG 128
#define SOCKET_TYPE (SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)

static int unix_address(const struct agent *a, unsigned port, struct sockaddr_un *ret)
{
    int n;

    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    n = snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/agent_%u", a->set.socket_dir, port);
    return n > 0 && (size_t)n < sizeof(ret->sun_path) ? 0 : -ENAMETOOLONG;
}

static int connect_unix(const struct agent *a)
{
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCKET_TYPE, 0);
    struct sockaddr_un addr;
    int r = unix_address(a, ENDPOINT_CONTROL_PORT, &addr);

    if (r < 0 || fd < 0)
        return r < 0 ? r : -errno;
    if (connect(fd, (const void *)&addr, sizeof(addr)) < 0)
        return -errno;
    return TAKE_FD(fd);
}

int endpoint_connect(const struct agent *a)
{
    const struct sockaddr_vm addr = {
        .svm_family = AF_VSOCK,
        .svm_cid = VMADDR_CID_HOST,
        .svm_port = ENDPOINT_CONTROL_PORT,
    };
    _cleanup_(closep) int fd = -EBADF;

    if (!a->set.guest)
        return connect_unix(a);
    fd = socket(AF_VSOCK, SOCKET_TYPE, 0);
    if (fd < 0)
        return errno == EAFNOSUPPORT ? -ENODEV : -errno; /* the module is not there (yet) */
    if (connect(fd, (const void *)&addr, sizeof(addr)) < 0 && errno != EINPROGRESS)
        return -errno;
    return TAKE_FD(fd);
}

int endpoint_finish_connect(int fd)
{
    int e = 0;
    socklen_t len = sizeof(e);

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0)
        return -errno;
    return -e;
}

int endpoint_listen(const struct agent *a)
{
    _cleanup_(closep) int fd = socket(a->set.guest ? AF_VSOCK : AF_UNIX, SOCKET_TYPE, 0);
    const struct sockaddr_vm vm = {
        .svm_family = AF_VSOCK,
        .svm_cid = VMADDR_CID_ANY,
        .svm_port = ENDPOINT_STREAM_PORT,
    };
    struct sockaddr_un un;
    int r = 0;

    if (fd < 0)
        return a->set.guest && errno == EAFNOSUPPORT ? -ENODEV : -errno;
    if (a->set.guest) {
        r = bind(fd, (const void *)&vm, sizeof(vm)) < 0 ? -errno : 0;
    } else {
        r = unix_address(a, ENDPOINT_STREAM_PORT, &un);
        if (r == 0)
            (void)unlink(un.sun_path);
        if (r == 0 && bind(fd, (const void *)&un, sizeof(un)) < 0)
            r = -errno;
    }
    if (r == 0 && listen(fd, BACKLOG) < 0)
        r = -errno;
    return r < 0 ? r : TAKE_FD(fd);
}

int endpoint_accept(const struct agent *a, int listen_fd)
{
    struct sockaddr_vm peer = {0};
    socklen_t len = sizeof(peer);
    int fd = accept4(listen_fd, a->set.guest ? (void *)&peer : NULL, a->set.guest ? &len : NULL,
                     SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return -errno;
    if (a->set.guest && peer.svm_cid != VMADDR_CID_HOST) {
        (void)close(fd);
        return -EPERM;
    }
    return fd;
}
