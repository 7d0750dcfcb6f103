/* SPDX-License-Identifier: Apache-2.0 */
/* The two ways to the host: AF_VSOCK in a guest, unix sockets <dir>/agent_<port> in tests. */
#pragma once

#include "agent/agent-internal.h"

#define ENDPOINT_CONTROL_PORT 1024
#define ENDPOINT_STREAM_PORT 1025

/* A non-blocking socket that is connected, or connecting (then it becomes writable). An fd or errno;
 * -ENODEV, -EADDRNOTAVAIL: there is no vsock device yet. */
int endpoint_connect(const struct agent *a);
/* The outcome of a connect that was under way. 0 or errno. */
int endpoint_finish_connect(int fd);
/* A listening, non-blocking socket. An fd or errno. */
int endpoint_listen(const struct agent *a);
/* An accepted, non-blocking connection of the host. An fd; -EAGAIN: none; -EPERM: it was not the
 * host, and was closed. */
int endpoint_accept(const struct agent *a, int listen_fd);
