/* SPDX-License-Identifier: Apache-2.0 */
/* Learning that a container has exited: from the server's events where it has them, by asking
 * otherwise. Survives a restart of the server. */
#pragma once

#include "cli/cli.h"
#include "gen/cri/cri.pb-c.h"

struct exit_watch {
    struct cli *cli;
    const char *id;                 /* borrowed */
    struct grpc_client_call *event; /* owned; NULL: the server has none */
    uint64_t ask_ns;                /* next time to ask; mono */
    uint64_t lost_ns;               /* since when the server does not answer; 0: it does */
};

/* Before the container is started, or any time later. */
void exit_watch_start(struct exit_watch *w, struct cli *cli, const char *id);
void exit_watch_done(struct exit_watch *w);
/* The fd that is readable when there may be news (negative: none), and how long to wait at most. */
int exit_watch_fd(const struct exit_watch *w);
int exit_watch_wait_ms(const struct exit_watch *w);
/* 1: it has exited, *ret_code is its code (and *ret_reason, if not NULL, the caller's); 0: not yet, or the
 * server is away for a moment. now: ask at once, whatever the time. */
int exit_watch_check(struct exit_watch *w, bool now, int *ret_code, char **ret_reason,
                     struct error **err);

/* One ContainerStatus. */
int container_status(struct cli *cli, const char *id, Runtime__V1__ContainerStatusResponse **ret,
                     struct error **err);
