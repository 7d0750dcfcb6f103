/* SPDX-License-Identifier: Apache-2.0 */
/* Printing a container's log while it runs, until it has exited and its log is at the end. */
#pragma once

#include "cli/exit-watch.h"
#include "cli/log-file.h"

struct follow {
    struct log_file *log;       /* borrowed; NULL: nothing to print */
    struct log_printer printer; /* how */
    struct exit_watch *watch;   /* borrowed */
    int signal_fd;              /* negative: none. Readable: on_signal is called, once per signal */
    void (*on_signal)(int signo, void *ud);
    void *ud;
};
/* 0: *ret_code is the container's; -EPIPE: nobody reads the output; else errno with *err. */
int follow_until_exit(struct follow *f, int *ret_code, char **ret_reason, struct error **err);
