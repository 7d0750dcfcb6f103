/* SPDX-License-Identifier: Apache-2.0 */
/* Resources as cgroup v2 says them: which file gets which text. Sans-IO. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

#define CGROUP_VALUE_MAX 256
#define CGROUP_SETTINGS_MAX 8

struct cgroup_setting {
    const char *file; /* static */
    char value[CGROUP_VALUE_MAX];
};

/* cgroup v1 cpu shares (2 … 262144) on the scale of cpu.weight (1 … 10000); 1024 becomes 39. */
uint64_t cgroup_weight_from_shares(uint64_t shares);
/* What r limits, in the order of writing; r may be NULL. *ret_n of them. -EINVAL: a value that means
 * nothing. */
int cgroup_settings(const Nexus__Resources *r, struct cgroup_setting ret[CGROUP_SETTINGS_MAX],
                    size_t *ret_n, struct error **err);
/* The number behind "key " in a flat keyed file such as memory.events; 0 if the key is not there. */
uint64_t cgroup_flat_value(const char *text, const char *key);
