/* SPDX-License-Identifier: Apache-2.0 */
/* Small kernel filters around containers: vsock sockets are the agent's alone, device nodes that a container
 * makes for itself open nothing but the harmless ones, and a container's own seccomp profile. */
#pragma once

#include <stdint.h>

#include "base/error.h"

/* From now on nobody in this kernel makes a socket of AF_VSOCK, by whatever call: EAFNOSUPPORT. A program
 * on the LSM hook, for as long as *ret_fd is open; no container's /proc shows a seccomp filter that it did
 * not ask for. -ENOENT, -EOPNOTSUPP: a kernel without BPF LSM. 0 or errno. Needs CAP_SYS_ADMIN. */
int filter_guard_vsock(int *ret_fd, struct error **err);

/* From now on **ret_word is not 0 any more once anybody but the agent (PID 1) has watched a file: inotify, fanotify,
 * dnotify. For as long as *ret_fd is open; the word is there for good. Errors and needs as above. */
int filter_note_watches(int *ret_fd, const _Atomic uint32_t **ret_word, struct error **err);

/* Where the guard is not to be had. For this process and all it starts: socket(AF_VSOCK, …) answers EAFNOSUPPORT, by every way of
 * calling that x86-64 kernels offer; io_uring, which no such filter sees into, answers ENOSYS. Needs
 * CAP_SYS_ADMIN. The agent does it to itself, once, before its first child. 0 or errno. */
int filter_install_syscalls(struct error **err);

/* A container's own filter, n instructions, for this process and all it starts. Needs CAP_SYS_ADMIN or
 * no_new_privs. 0 or errno: the kernel refuses what is no valid program. */
int filter_install(const void *code, size_t n, struct error **err);

/* For the cgroup: device nodes may be made, but opened only null, zero, full, random, urandom, tty,
 * console, ptmx and pts. 0 or errno. Source: Documentation/admin-guide/cgroup-v2.rst, "Device controller". */
int filter_attach_devices(int cgroup_fd, struct error **err);
