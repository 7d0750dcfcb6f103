/* SPDX-License-Identifier: Apache-2.0 */
/* Two small kernel filters around containers: vsock sockets are the agent's alone, and device nodes
 * that a container makes for itself open nothing but the harmless ones. */
#pragma once

#include "base/error.h"

/* For this process and all it starts: socket(AF_VSOCK, …) answers EAFNOSUPPORT, by every way of
 * calling that x86-64 kernels offer; io_uring, which no such filter sees into, answers ENOSYS. Needs
 * CAP_SYS_ADMIN. The agent does it to itself, once, before its first child. 0 or errno. */
int filter_install_syscalls(struct error **err);

/* For the cgroup: device nodes may be made, but opened only null, zero, full, random, urandom, tty,
 * console, ptmx and pts. 0 or errno. Source: Documentation/admin-guide/cgroup-v2.rst, "Device controller". */
int filter_attach_devices(int cgroup_fd, struct error **err);
