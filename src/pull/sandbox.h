/* SPDX-License-Identifier: Apache-2.0 */
/* What nexus-pull gives up before it reads its first byte from a registry: dumps, new privileges, every
 * capability, the file system but for its directory and what TLS and DNS read, most system calls, and
 * memory and descriptors beyond what a pull needs. It ends with its parent.
 *
 * A build with a sanitizer keeps three of these, and no other build does: the sanitizer maps terabytes of shadow
 * (so no limit of the address space), and its leak check at the end reads /proc and traces its own threads
 * from a new process (so no file fence, no system call filter, and it stays dumpable). What such a build still
 * gives up: new privileges, capabilities, dumps, and descriptors and file sizes over their limits. */
#pragma once

#include "base/error.h"

#define SANDBOX_MEMORY_BYTES (1024ULL << 20)   /* address space */
#define SANDBOX_CONVERTER_BYTES (512ULL << 20) /* a zstd window is 128 MiB of it */

/* dir_fd: the one directory written below. layout_fd: one read below, or -EBADF. Fences that the kernel
 * does not have (Landlock before 5.13) are left out; one that it refuses is an error. */
int sandbox_enter(int dir_fd, int layout_fd, struct error **err);

/* For a converter: besides, no file system at all and no way to open, connect or start anything. */
int sandbox_enter_converter(struct error **err);
