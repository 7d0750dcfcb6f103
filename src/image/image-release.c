/* SPDX-License-Identifier: Apache-2.0 */
/* Deleting without waiting for the disk: the name of a large file goes at once, its blocks (25 ms for 100 MB
 * on ext4, a second for a large image) when its last descriptor is closed. That is done by a child that
 * does nothing else, for nexusd's loop must not stand still. */
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "image/image-internal.h"

#define LARGE_BYTES (4U << 20)

void image_release_file(struct image_release *r, int dir, const char *name, uint64_t bytes)
{
    int fd = -EBADF;

    if (bytes >= LARGE_BYTES && r->n < IMAGE_RELEASE_MAX)
        fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    (void)unlinkat(dir, name, 0);
    if (fd >= 0)
        r->fds[r->n++] = fd;
}

static void sort(int *fds, size_t n)
{
    for (size_t i = 1; i < n; i++)
        for (size_t k = i; k > 0 && fds[k] < fds[k - 1]; k--) {
            int t = fds[k];
            fds[k] = fds[k - 1];
            fds[k - 1] = t;
        }
}

/* System calls only. Keeps the files and nothing else (no socket, no lock) until nexusd has closed its own. */
static _Noreturn void child(int *fds, size_t n, int wait_fd)
{
    unsigned from = 0;
    char byte;

    fds[n++] = wait_fd;
    sort(fds, n);
    for (size_t i = 0; i < n; i++) {
        if ((unsigned)fds[i] > from)
            (void)syscall(SYS_close_range, from, (unsigned)fds[i] - 1, 0);
        from = (unsigned)fds[i] + 1;
    }
    (void)syscall(SYS_close_range, from, ~0U, 0);
    while (read(wait_fd, &byte, 1) < 0 && errno == EINTR)
        ;
    _exit(0);
}

static int on_reaped(sd_event_source *source, const siginfo_t *si, void *userdata)
{
    (void)sd_event_source_set_floating(source, false); /* the loop's was the last reference */
    return 0;
}

void image_release_end(sd_event *event, struct image_release *r)
{
    int pidfd = -EBADF, ends[2] = {-EBADF, -EBADF};
    struct clone_args args = {
        .flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&pidfd, .exit_signal = SIGCHLD};
    sd_event_source *source = NULL;
    pid_t pid = -1;

    if (r->n && pipe2(ends, O_CLOEXEC) == 0)
        pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid == 0)
        child(r->fds, r->n, ends[0]);
    for (size_t i = 0; i < r->n; i++)
        (void)close(r->fds[i]);
    r->n = 0;
    (void)close_fd(ends[0]);
    (void)close_fd(ends[1]); /* now it may go */
    if (pid < 0)
        return;
    if (sd_event_add_child_pidfd(event, &source, pidfd, WEXITED, on_reaped, NULL) < 0) {
        siginfo_t si;
        (void)waitid((idtype_t)P_PIDFD, (id_t)pidfd, &si, WEXITED);
        (void)close(pidfd);
        return;
    }
    (void)sd_event_source_set_child_pidfd_own(source, true);
    (void)sd_event_source_set_floating(source, true);
    sd_event_source_unref(source);
}
