/* SPDX-License-Identifier: Apache-2.0 */
/* One-line files of the kernel (sysfs, procfs). */
#pragma once

#include <stddef.h>

/* The first line, without its end, cut to size - 1 bytes. 0 or errno. */
int attr_read(const char *path, char *out, size_t size);
/* One write of all of value. 0 or errno. */
int attr_write(const char *path, const char *value);
