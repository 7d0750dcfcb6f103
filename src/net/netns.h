/* SPDX-License-Identifier: Apache-2.0 */
/* Named network namespaces: made, pinned by a bind mount, found again, removed.
 *
 * nexusd never changes its own namespace. Work inside another namespace is done by a short child
 * (fork, setns, a few netlink requests, the answer and at most one descriptor over a socket pair,
 * _exit), which the loop watches like any other process; it is killed after NETNS_DEADLINE_MS. A
 * thread would do too, but one that hangs in the kernel cannot be given up.
 * Thread: the loop's. Callbacks come from the loop, never from inside a call. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"

#define NETNS_DEADLINE_MS 30000 /* a few ms as a rule; a node under load takes its time */

/* Work that goes on in a child: owned by who started it, until done is called. */
struct net_task;

/* Called once, when the child has ended and been reaped (or hangs in the kernel in spite of SIGKILL).
 * 0, or a negative errno with err (borrowed): -ETIMEDOUT; -ECANCELED; -EIO: the child died; otherwise
 * what the call says. fd: owned by the callee, -EBADF if there is none. data: borrowed, NULL unless
 * the call says what it is. The task is gone when this returns. */
typedef void (*net_done_fn)(void *userdata, int r, int fd, const void *data,
                            const struct error *err);

/* Kills the child; done follows with -ECANCELED when it has ended. */
void net_task_cancel(struct net_task *t);
/* Kills the child and forgets it: done is not called, the loop reaps it. NULL is allowed. */
void net_task_free(struct net_task *t);

/* A new namespace with loopback up, pinned at path (a file below /run/netns as a rule; its directory
 * is created 0755). IPv6 duplicate address detection is off in it: plugins would wait for it, and
 * the addresses move on to the guest. done's fd: the namespace, close-on-exec.
 * -EEXIST, at once: a namespace is pinned there already. A leftover file that pins nothing is taken
 * over. After any other failure, also of done, the caller calls netns_remove(). */
int netns_create(sd_event *event, const char *path, net_done_fn done, void *userdata,
                 struct net_task **ret, struct error **err);

/* Opens a pinned namespace. -ENOENT: no such file, or it pins no network namespace (after a reboot,
 * or after a crash between making the file and mounting on it). */
int netns_open(const char *path, int *ret_fd, struct error **err);

/* netns_remove() in a child: unmounting waits for the kernel, some ms as a rule. done's fd: none. */
int netns_remove_begin(sd_event *event, const char *path, net_done_fn done, void *userdata,
                       struct net_task **ret, struct error **err);

/* Unpins and deletes, at once (for the start of nexusd, when nobody waits for the loop); not while a netns_create() of the path goes on. A missing file is no error, so repeating it is harmless. The kernel frees the
 * namespace and what is in it when its last user (a TAP descriptor of nexus-vmm) has gone. */
int netns_remove(const char *path, struct error **err);

/* The inode number that names the namespace, 0 if fd is none. */
uint64_t netns_inode(int fd);
