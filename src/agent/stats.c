/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/stats.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "agent/container.h"
#include "base/file.h"

#define SYS_QUOTACTL_FD 443
#define FILES_MAX 1024

static const char files[] = "cpu.stat\0memory.current\0memory.peak\0memory.stat\0memory.events\0"
                            "memory.swap.current\0pids.current\0pids.max\0io.stat\0";

static size_t add_file(int dir, const char *name, char *out, size_t room)
{
    _cleanup_(closep) int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    size_t head = strlen(name) + 2;
    ssize_t n;

    if (fd < 0 || room <= head)
        return 0;
    (void)snprintf(out, room, "#%s\n", name);
    n = read_full(fd, out + head, room - head);
    return n < 0 ? 0 : head + (size_t)n;
}

/* Of the container's own processes, as far as they are quickly counted. */
static int add_processes(int dir, char *out, size_t room)
{
    char text[1024], path[32], target[8] = "", *save = NULL;
    unsigned processes = 0, all = 0, sockets = 0;
    size_t n = add_file(dir, "cgroup.procs", text, sizeof(text) - 1);
    DIR *d;

    text[n] = '\0';
    (void)strtok_r(text, "\n", &save); /* its heading */
    for (char *pid; (pid = strtok_r(NULL, "\n", &save)); processes++) {
        (void)snprintf(path, sizeof(path), "/proc/%.12s/fd", pid);
        d = opendir(path);
        for (struct dirent *e; d && all < FILES_MAX && (e = readdir(d));) {
            if (readlinkat(dirfd(d), e->d_name, target, sizeof(target)) <= 0)
                continue; /* "." and ".." */
            all++;
            sockets += memcmp(target, "socket:", 7) == 0;
        }
        if (d)
            (void)closedir(d);
    }
    if (n >= sizeof(text) - 1 || all >= FILES_MAX)
        return 0;
    return snprintf(out, room, "#files\nprocesses %u\nall %u\nsockets %u\n", processes, all,
                    sockets);
}

static int add_disk(struct agent *a, uint32_t project, char *out, size_t room)
{
    _cleanup_(freep) char *path = agent_path(a, "scratch");
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct if_dqblk q;
    struct statvfs st;

    if (!project || fd < 0 || fstatvfs(fd, &st) < 0 ||
        syscall(SYS_QUOTACTL_FD, fd, QCMD(Q_GETQUOTA, PRJQUOTA), project, &q) < 0)
        return 0;
    return snprintf(
        out, room,
        "#disk\nbytes %llu\ninodes %llu\nlimit %llu\nall_inodes %llu\nfree_inodes %llu\n",
        (unsigned long long)q.dqb_curspace, (unsigned long long)q.dqb_curinodes,
        (unsigned long long)(st.f_blocks * st.f_frsize), (unsigned long long)st.f_files,
        (unsigned long long)st.f_ffree);
}

int stats_read(struct agent *a, const char *id, char out[STATS_TEXT_MAX])
{
    const struct container *k = *id ? container_find(a, id) : NULL;
    size_t n = 0, last = STATS_TEXT_MAX - 256; /* those are for what has no file */

    if (*id && (!k || !k->cgroup))
        return -ENOENT;
    for (const char *f = files; *f; f += strlen(f) + 1)
        n += add_file(k ? k->cgroup->fd : a->pod_cgroup, f, out + n, last - n);
    if (k)
        n += (size_t)add_disk(a, k->project, out + n, STATS_TEXT_MAX - n);
    if (k)
        n += (size_t)add_processes(k->cgroup->fd, out + n, STATS_TEXT_MAX - n);
    return (int)n;
}

uint32_t stats_count_disk(struct agent *a, const char *dir)
{
    _cleanup_(closep) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct fsxattr x = {.fsx_xflags = FS_XFLAG_PROJINHERIT, .fsx_projid = ++a->last_number};

    return fd >= 0 && ioctl(fd, FS_IOC_FSSETXATTR, &x) == 0 ? x.fsx_projid : 0;
}
