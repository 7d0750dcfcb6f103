/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/follow.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

static int print_log(struct follow *f)
{
    int r = f->log ? log_file_read(f->log, log_record_print, &f->printer) : 0;

    if (fflush(stdout) != 0 || fflush(stderr) != 0)
        return -EPIPE;
    return r;
}

static void take_signals(struct follow *f)
{
    struct signalfd_siginfo si;

    while (read(f->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
        f->on_signal((int)si.ssi_signo, f->ud);
}

int follow_until_exit(struct follow *f, int *ret_code, char **ret_reason, struct error **err)
{
    bool ask = true;

    for (;;) {
        struct pollfd p[3] = {{.events = POLLIN}, {.events = POLLIN}, {.events = POLLIN}};
        int exited = exit_watch_check(f->watch, ask, ret_code, ret_reason, err);
        int r = exited < 0 ? exited : print_log(f); /* a log is complete before EXITED shows */

        if (r == -EPIPE)
            return error_set(err, -EPIPE, "nobody reads the output");
        if (exited < 0)
            return exited;
        if (r < 0)
            return error_set(err, r, "cannot read the log: %s", strerror(-r));
        if (exited)
            return 0;
        ask = false;
        p[0].fd = f->log ? log_file_fd(f->log) : -1;
        p[1].fd = f->signal_fd;
        p[2].fd = exit_watch_fd(f->watch); /* another one after a restart of the server */
        if (poll(p, 3, exit_watch_wait_ms(f->watch)) < 0 && errno != EINTR)
            return error_set(err, -errno, "cannot wait");
        if (p[1].revents & POLLIN) {
            take_signals(f);
            ask = true;
        }
    }
}
