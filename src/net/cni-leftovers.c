/* SPDX-License-Identifier: Apache-2.0 */
/* Plugins that outlived the nexusd that started them, found by the container id in their environment
 * (grandchildren such as IPAM plugins inherit it). */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/numparse.h"
#include "base/str.h"
#include "net/cni.h"

#define ENVIRON_BYTES_MAX (256U << 10)
#define LEFTOVER_PATIENCE_MS 1500 /* for all of them together */
#define LEFTOVER_DEADLINE_MS 5000
#define ID_KEY "CNI_CONTAINERID="

static bool environ_has_id(const char *env, size_t len, char *const *ids)
{
    for (size_t at = 0; at < len; at += strnlen(env + at, len - at) + 1) {
        const char *entry = env + at;

        if (str_starts(entry, ID_KEY))
            return strv_contains(ids, entry + strlen(ID_KEY));
    }
    return false;
}

/* A process that cannot be read (gone, or larger than any plugin's) is none of ours. */
static bool is_leftover(int proc_fd, const char *pid, char *const *ids)
{
    char path[64];
    _cleanup_(freep) char *env = NULL;
    size_t len = 0;

    (void)snprintf(path, sizeof(path), "%s/environ", pid);
    return file_read_all(proc_fd, path, ENVIRON_BYTES_MAX, &env, &len) == 0 &&
           environ_has_id(env, len, ids);
}

static int wait_end(int pidfd, uint64_t end_ns)
{
    for (;;) {
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        uint64_t now = clock_mono_ns();

        if (now >= end_ns)
            return -ETIMEDOUT;
        if (poll(&p, 1, (int)((end_ns - now) / 1000000 + 1)) > 0)
            return 0;
    }
}

/* 1: killed and gone; 0: was gone, ended by itself before patience_ns, or is somebody else by now.
 * Ending by itself is better: host-local, killed while it writes, leaves an empty lease file that no
 * DEL finds. */
static int kill_one(int proc_fd, const char *name, char *const *ids, uint64_t patience_ns,
                    uint64_t end_ns)
{
    _cleanup_(closep) int pidfd = -EBADF;
    uint32_t pid = 0;
    int r;

    if (parse_u32(name, INT32_MAX, &pid) < 0 || !is_leftover(proc_fd, name, ids))
        return 0;
    pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (pidfd < 0 || !is_leftover(proc_fd, name, ids)) /* now it cannot be reused under us */
        return 0;
    if (wait_end(pidfd, patience_ns) == 0)
        return 0;
    if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
        return errno == ESRCH ? 0 : -errno;
    r = wait_end(pidfd, end_ns);
    return r < 0 ? r : 1;
}

int cni_kill_leftovers(char *const *ids, struct error **err)
{
    uint64_t now_ns = clock_mono_ns();
    uint64_t end_ns = now_ns + (uint64_t)LEFTOVER_DEADLINE_MS * 1000000;
    uint64_t patience_ns = now_ns + (uint64_t)LEFTOVER_PATIENCE_MS * 1000000;
    DIR *d;
    struct dirent *e;
    int killed = 0, r = 0;

    if (!ids || !ids[0])
        return 0;
    d = opendir("/proc");
    if (!d)
        return error_set(err, -errno, "cannot read /proc: %s", strerror(errno));
    while (r >= 0 && (e = readdir(d))) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9')
            continue;
        r = kill_one(dirfd(d), e->d_name, ids, patience_ns, end_ns);
        if (r < 0)
            (void)error_set(err, r,
                            "CNI plugin left by an earlier run (process %s) cannot be ended: %s",
                            e->d_name, strerror(-r));
        else
            killed += r;
    }
    closedir(d);
    return r < 0 ? r : killed;
}
