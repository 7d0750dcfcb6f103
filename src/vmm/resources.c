/* SPDX-License-Identifier: Apache-2.0 */
/* One table row per resource: where it is in the options, how it is opened. */
#include "vmm/resources.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>

static int open_file(const char *path, int flags, int *ret)
{
    *ret = open(path, flags | O_CLOEXEC | O_NOCTTY, 0600);
    return *ret < 0 ? -errno : 0;
}

/* Attaches to an existing TAP device. */
static int open_tap(const char *name, int *ret)
{
    _cleanup_(closep) int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq req = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};

    if (fd < 0)
        return -errno;
    memcpy(req.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
    if (ioctl(fd, TUNSETIFF, &req) < 0)
        return -errno;
    *ret = TAKE_FD(fd);
    return 0;
}

static int adopt(int fd, int *ret)
{
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    *ret = fd;
    return 0;
}

static const struct {
    const char *name;
    size_t option, result;
    int flags; /* -1: a TAP */
} rows[] = {
    {"kvm", offsetof(struct options, kvm), offsetof(struct resources, kvm), O_RDWR},
    {"kernel", offsetof(struct options, kernel), offsetof(struct resources, kernel), O_RDONLY},
    {"initramfs", offsetof(struct options, initramfs), offsetof(struct resources, initramfs),
     O_RDONLY},
    {"net", offsetof(struct options, net), offsetof(struct resources, net), -1},
    {"scratch", offsetof(struct options, scratch), offsetof(struct resources, scratch), O_RDWR},
    {"control", offsetof(struct options, control), offsetof(struct resources, control), 0},
    {"console", offsetof(struct options, console), offsetof(struct resources, console),
     O_WRONLY | O_CREAT | O_APPEND},
    {"counters", offsetof(struct options, counters), offsetof(struct resources, counters),
     O_WRONLY | O_CREAT | O_APPEND},
};

int resources_open(const struct options *options, struct resources *ret, struct error **err)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        *(int *)(void *)((char *)ret + rows[i].result) = -EBADF;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct resource *res =
            (const struct resource *)(const void *)((const char *)options + rows[i].option);
        int *fd = (int *)(void *)((char *)ret + rows[i].result);
        int r = 0;

        if (res->fd >= 0)
            r = adopt(res->fd, fd);
        else if (res->path && rows[i].flags >= 0)
            r = open_file(res->path, rows[i].flags, fd);
        else if (res->path)
            r = open_tap(res->path, fd);
        if (r < 0) {
            if (res->path)
                (void)error_set(err, r, "--%s %s", rows[i].name, res->path);
            else
                (void)error_set(err, r, "--%s fd:%d", rows[i].name, res->fd);
            resources_close(ret);
            return r;
        }
    }
    return 0;
}

void resources_close(struct resources *r)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        int *fd = (int *)(void *)((char *)r + rows[i].result);

        *fd = close_fd(*fd);
    }
}
