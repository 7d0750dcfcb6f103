/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent tells about a cgroup: the text of kernel files, as the guest has it. Hostile; sans-IO. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "gen/msg/nexus.pb-c.h"

/* Kinds of numbers; their names and units are in proto/nexus.proto. */
#define GUEST_STATS_KINDS 32
_Static_assert(GUEST_STATS_KINDS == NEXUS__CGROUP_STATS__KIND__OPEN_SOCKETS + 1, "kinds");
_Static_assert(GUEST_STATS_KINDS <= 64, "a bit for each");

struct guest_stats {
    uint64_t known; /* bit n: values[n] was told */
    uint64_t values[GUEST_STATS_KINDS];
};

/* Reads sections "#FILE\n" and their content. Anything else is skipped: files and keys that are not known,
 * lines that are too long, words that are no number of 64 bits. A number that comes twice counts once, the
 * first. Never fails. */
void guest_stats_parse(const char *text, size_t len, struct guest_stats *ret);
