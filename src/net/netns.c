/* SPDX-License-Identifier: Apache-2.0 */
#include "net/netns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "base/file.h"
#include "base/str.h"
#include "net/net-task.h"
#include "net/rtnl.h"

#define STACKED_MOUNTS_MAX 16

static bool is_netns(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && (unsigned long)fs.f_type == NSFS_MAGIC &&
           ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET;
}

/* ---------------------------------------------------------------- in the child */

/* Duplicate address detection makes plugins wait for a second or more; the addresses go to the guest,
 * whose kernel does its own. Without /proc/sys it only takes longer. */
static void disable_dad(void)
{
    static const char *const files[] = {"/proc/sys/net/ipv6/conf/all/accept_dad",
                                        "/proc/sys/net/ipv6/conf/default/accept_dad"};

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        _cleanup_(closep) int fd = open(files[i], O_WRONLY | O_CLOEXEC);

        if (fd >= 0)
            (void)write_full(fd, "0", 1);
    }
}

static int loopback_up(struct error **err)
{
    _cleanup_(rtnl_freep) struct rtnl *nl = NULL;
    struct rtnl_link lo;
    int r;

    r = rtnl_open(&nl);
    if (r == 0)
        r = rtnl_link_get(nl, "lo", &lo);
    if (r == 0)
        r = rtnl_link_set_up(nl, lo.index);
    return r < 0 ? error_set(err, r, "cannot bring loopback up: %s", strerror(-r)) : 0;
}

/* arg: the pin, which exists. The namespace lives from unshare() on through this child, from mount()
 * on through the pin. */
static int create_in_child(void *arg, struct net_task_reply *reply, struct error **err)
{
    const char *path = arg;
    int r;

    if (unshare(CLONE_NEWNET) < 0)
        return error_set(err, -errno, "cannot make a network namespace: %s", strerror(errno));
    disable_dad();
    r = loopback_up(err);
    if (r < 0)
        return r;
    reply->fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (reply->fd < 0)
        return error_set(err, -errno, "cannot open /proc/self/ns/net: %s", strerror(errno));
    if (mount("/proc/self/ns/net", path, NULL, MS_BIND, NULL) < 0)
        return error_set(err, -errno, "cannot pin the network namespace at %s: %s", path,
                         strerror(errno));
    return 0;
}

/* ---------------------------------------------------------------- public */

static int make_parent(const char *path, struct error **err)
{
    const char *slash = strrchr(path, '/');
    _cleanup_(freep) char *dir = NULL;
    int r;

    if (path[0] != '/' || !slash[1])
        return error_set(err, -EINVAL, "network namespace path %s is not absolute", path);
    dir = str_ndup(path, slash == path ? 1 : (size_t)(slash - path));
    r = dir_make(dir, 0755);
    return r < 0 ? error_set(err, r, "cannot make directory %s: %s", dir, strerror(-r)) : 0;
}

/* The file to mount on. A leftover of a crash between making and mounting is as good as a new one. */
static int make_pin(const char *path, struct error **err)
{
    int fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0444);
    struct stat st;
    int r = 0;

    if (fd < 0)
        return error_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    if (is_netns(fd))
        r = error_set(err, -EEXIST, "a network namespace is already pinned at %s", path);
    else if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > 0)
        r = error_set(err, -EEXIST, "%s exists and is no network namespace", path);
    close_fd(fd);
    return r;
}

int netns_create(sd_event *event, const char *path, net_done_fn done, void *userdata,
                 struct net_task **ret, struct error **err)
{
    _cleanup_(freep) char *copy = str_dup(path);
    int r = make_parent(path, err);

    if (r == 0)
        r = make_pin(path, err);
    if (r < 0)
        return r;
    return net_task_start(event, -EBADF, create_in_child, copy, 0, done, userdata, ret, err);
}

int netns_open(const char *path, int *ret_fd, struct error **err)
{
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0)
        return error_set(err, -errno, "cannot open network namespace %s: %s", path,
                         strerror(errno));
    if (!is_netns(fd))
        return error_set(err, -ENOENT, "%s pins no network namespace (any more)", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int netns_remove(const char *path, struct error **err)
{
    struct stat st;

    /* mounts can be stacked if two creators met; EINVAL: not a mount (any more) */
    for (int i = 0; i < STACKED_MOUNTS_MAX; i++)
        if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0) {
            if (errno == EINVAL)
                break;
            if (errno == ENOENT)
                return 0;
            return error_set(err, -errno, "cannot unmount network namespace %s: %s", path,
                             strerror(errno));
        }
    if (lstat(path, &st) < 0)
        return errno == ENOENT
                   ? 0
                   : error_set(err, -errno, "cannot look at %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size > 0)
        return error_set(err, -ENOTSUP, "%s is no pin of a network namespace; it is left alone",
                         path);
    if (unlink(path) < 0 && errno != ENOENT)
        return error_set(err, -errno, "cannot remove %s: %s", path, strerror(errno));
    return 0;
}

static int remove_in_child(void *arg, struct net_task_reply *reply, struct error **err)
{
    return netns_remove(arg, err);
}

int netns_remove_begin(sd_event *event, const char *path, net_done_fn done, void *userdata,
                       struct net_task **ret, struct error **err)
{
    _cleanup_(freep) char *copy = str_dup(path);

    return net_task_start(event, -EBADF, remove_in_child, copy, 0, done, userdata, ret, err);
}

uint64_t netns_inode(int fd)
{
    struct stat st;

    return is_netns(fd) && fstat(fd, &st) == 0 ? (uint64_t)st.st_ino : 0;
}
