/* SPDX-License-Identifier: Apache-2.0 */
/* The type information of the running kernel (BTF), as far as a hook is named by it. */
#pragma once

#include <stdint.h>

/* The number of function name in the BTF that fd holds, read piece by piece. -ENOENT: it has none;
 * -EBADMSG: no BTF; or errno. */
int btf_find_function(int fd, const char *name, uint32_t *ret);
