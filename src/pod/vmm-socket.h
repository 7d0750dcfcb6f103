/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of one nexus-vmm: a unix stream socket in a directory, reached through the
 * directory's fd, so that no path is too long for a socket address. */
#pragma once

#include "base/error.h"

/* A listening socket (close-on-exec, mode 0600), nobody's yet: nexus-vmm inherits it. A socket file
 * that is there already is replaced. The fd, or errno with *err set. */
int vmm_socket_listen(int dirfd, const char *name, struct error **err);
/* A connected, non-blocking socket. -ENOENT, -ECONNREFUSED: nobody there. -EAGAIN: backlog full. */
int vmm_socket_connect(int dirfd, const char *name, struct error **err);
