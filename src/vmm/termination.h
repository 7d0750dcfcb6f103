/* SPDX-License-Identifier: Apache-2.0 */
/* The host's file of a container's termination log, opened by nexusd: kubelet reads it when the container has
 * ended. It holds what the guest told last and nothing else: LIMIT_TERMINATION_BYTES at most. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* 0; -EINVAL: fd is no regular file open for writing. */
int termination_check(int fd);
/* The file becomes these bytes. Whenever nexus-vmm dies it has the old text, none or the new one, never a
 * mixture. 0 or errno. */
int termination_write(int fd, const uint8_t *bytes, size_t len);
