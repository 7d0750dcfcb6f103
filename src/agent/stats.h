/* SPDX-License-Identifier: Apache-2.0 */
/* What a cgroup of the guest tells about itself, as text; nexus-vmm makes numbers of it. */
#pragma once

#include "agent/agent-internal.h"

#define STATS_TEXT_MAX 8192

/* For each file there is: "#FILE\n" and its content; in the same form, of a container, its part of the scratch
 * disk ("disk"), if that counts, and its processes and their files ("files"), if they are not too many. id "":
 * all containers together. The length, or -ENOENT. */
int stats_read(struct agent *a, const char *id, char out[STATS_TEXT_MAX]);
/* Makes dir, and what comes to be in it, a project of the scratch disk. 0: it cannot count. */
uint32_t stats_count_disk(struct agent *a, const char *dir);
