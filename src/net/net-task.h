/* SPDX-License-Identifier: Apache-2.0 */
/* A short child that works inside another network namespace. Private to net; its handle is public
 * (netns.h). */
#pragma once

#include <stddef.h>

#include "net/netns.h"

#define NET_TASK_DATA_MAX (32U << 10)

/* What the child hands back. It starts zeroed with fd -EBADF. */
struct net_task_reply {
    int fd;     /* passed to the parent if >= 0 */
    void *data; /* data_size bytes, as many as the caller asked for */
    size_t data_size;
};

/* Runs in the child, inside the namespace. 0 or a negative errno with *err. It has no descriptor but
 * 0-2 and what it opens; it must not return to the event loop. */
typedef int (*net_task_fn)(void *arg, struct net_task_reply *reply, struct error **err);

/* Forks, enters netns_fd (or stays, if < 0) and runs fn; done is called from the loop when the child
 * has ended (see net_done_fn), with data of data_size bytes (at most NET_TASK_DATA_MAX). arg: seen by
 * the child as it is now. Negative: nothing was started. */
int net_task_start(sd_event *event, int netns_fd, net_task_fn fn, void *arg, size_t data_size,
                   net_done_fn done, void *userdata, struct net_task **ret, struct error **err);
