/* SPDX-License-Identifier: Apache-2.0 */
/* A short child that works inside another network namespace. Private to net. */
#pragma once

#include <stddef.h>

#include "base/error.h"

#define NET_TASK_DATA_MAX (32U << 10)

/* What the child hands back. It starts zeroed with fd -EBADF. */
struct net_task_reply {
    int fd;     /* passed to the parent if >= 0 */
    void *data; /* data_size bytes, as many as the caller asked for */
    size_t data_size;
};

/* Runs in the child, inside the namespace. 0 or a negative errno with *err. Must not write to
 * descriptors it did not open and must not return to the event loop. */
typedef int (*net_task_fn)(void *arg, struct net_task_reply *reply, struct error **err);

/* Forks, enters netns_fd (or stays, if < 0), runs fn, waits NETNS_DEADLINE_MS at most for the answer
 * (then kills the child). arg: seen by the child as it is now. data (data_size bytes, at most
 * NET_TASK_DATA_MAX; may be NULL) and ret_fd (may be NULL: a passed fd is closed) are written on
 * success only. -ETIMEDOUT; -EIO: the child died; otherwise fn's error with its text and class. */
int net_task_run(int netns_fd, net_task_fn fn, void *arg, void *data, size_t data_size, int *ret_fd,
                 struct error **err);
