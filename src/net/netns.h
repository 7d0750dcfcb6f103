/* SPDX-License-Identifier: Apache-2.0 */
/* Named network namespaces: made, pinned by a bind mount, found again, removed.
 *
 * nexusd has one thread and never changes its own namespace. Work inside another namespace is done
 * by a short child (fork, setns, a few netlink requests, the answer and at most one descriptor over
 * a socket pair, _exit): about half a millisecond, killed after NETNS_DEADLINE_MS. A thread would do
 * too, but nexusd promises to have one, and a thread that hangs in the kernel cannot be given up.
 * Threads: call from the only thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define NETNS_DEADLINE_MS 5000

/* A new namespace with loopback up, pinned at path (a file below /run/netns as a rule; its directory
 * is created 0755). IPv6 duplicate address detection is off in it: plugins would wait for it, and
 * the addresses move on to the guest. ret_fd: owned, close-on-exec; may be NULL.
 * -EEXIST: a namespace is pinned there already. A leftover file that pins nothing is taken over. */
int netns_create(const char *path, int *ret_fd, struct error **err);

/* Opens a pinned namespace. -ENOENT: no such file, or it pins no network namespace (after a reboot,
 * or after a crash between making the file and mounting on it). */
int netns_open(const char *path, int *ret_fd, struct error **err);

/* Unpins and deletes; a missing file is no error, so repeating it is harmless. The kernel frees the
 * namespace and what is in it when its last user (a TAP descriptor of nexus-vmm) has gone. */
int netns_remove(const char *path, struct error **err);

/* The inode number that names the namespace, 0 if fd is none. */
uint64_t netns_inode(int fd);
