/* SPDX-License-Identifier: Apache-2.0 */
/* File descriptors over unix sockets. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#define FDPASS_MAX 128 /* fds in one message; the kernel's own limit is 253 */

/* Sends len (> 0) bytes with n_fds descriptors (borrowed) attached to the first of them, MSG_NOSIGNAL.
 * Bytes sent (the fds went with them), or errno; -EAGAIN on a full non-blocking socket: nothing sent. */
ssize_t fdpass_send(int sock, const void *bytes, size_t len, const int *fds, size_t n_fds);

/* Receives up to len bytes and up to max_fds descriptors, close-on-exec, owned by the caller.
 * Bytes received, 0 at EOF, or errno; -EMSGSIZE: more fds came than fit (all were closed). */
ssize_t fdpass_recv(int sock, void *bytes, size_t len, int *fds, size_t max_fds, size_t *ret_n_fds);

/* Sets or clears close-on-exec / non-blocking. 0 or errno. */
int fd_set_cloexec(int fd, int on);
int fd_set_nonblock(int fd, int on);
