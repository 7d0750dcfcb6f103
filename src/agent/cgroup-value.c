/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/cgroup-value.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SHARES_MIN 2U
#define SHARES_MAX 262144U
#define WEIGHT_MAX 10000U
#define CPU_PERIOD_DEFAULT_US 100000

uint64_t cgroup_weight_from_shares(uint64_t shares)
{
    if (shares < SHARES_MIN)
        shares = SHARES_MIN;
    if (shares > SHARES_MAX)
        shares = SHARES_MAX;
    return 1 + (shares - SHARES_MIN) * (WEIGHT_MAX - 1) / (SHARES_MAX - SHARES_MIN);
}

static void add_number(struct cgroup_setting *list, size_t *n, const char *file, uint64_t v)
{
    list[*n].file = file;
    (void)snprintf(list[*n].value, CGROUP_VALUE_MAX, "%" PRIu64, v);
    (*n)++;
}

static int add_memory(const Nexus__Resources *r, struct cgroup_setting *list, size_t *n,
                      struct error **err)
{
    int64_t memory = r->memory_limit_bytes, both = r->memory_swap_limit_bytes;

    if (memory < 0)
        return error_set(err, -EINVAL, "memory limit is negative");
    if (memory == 0)
        return 0;
    add_number(list, n, "memory.max", (uint64_t)memory);
    /* one process of a container killed for memory leaves a broken container: kill it whole */
    add_number(list, n, "memory.oom.group", 1);
    if (both > 0 && both < memory)
        return error_set(err, -EINVAL, "memory and swap limit is below the memory limit");
    if (both > 0)
        add_number(list, n, "memory.swap.max", (uint64_t)(both - memory));
    return 0;
}

static int add_cpu(const Nexus__Resources *r, struct cgroup_setting *list, size_t *n,
                   struct error **err)
{
    int64_t period = r->cpu_period_us ? r->cpu_period_us : CPU_PERIOD_DEFAULT_US;

    if (period < 1000 || period > 1000000)
        return error_set(err, -EINVAL, "cpu period %" PRId64 " us is out of range", period);
    if (r->cpu_quota_us > 0) {
        list[*n].file = "cpu.max";
        (void)snprintf(list[*n].value, CGROUP_VALUE_MAX, "%" PRId64 " %" PRId64,
                       r->cpu_quota_us < 1000 ? 1000 : r->cpu_quota_us, period);
        (*n)++;
    } else if (r->cpu_quota_us < 0) {
        list[*n].file = "cpu.max";
        (void)snprintf(list[*n].value, CGROUP_VALUE_MAX, "max %" PRId64, period);
        (*n)++;
    }
    if (r->cpu_shares)
        add_number(list, n, "cpu.weight", cgroup_weight_from_shares(r->cpu_shares));
    return 0;
}

int cgroup_settings(const Nexus__Resources *r, struct cgroup_setting ret[CGROUP_SETTINGS_MAX],
                    size_t *ret_n, struct error **err)
{
    size_t n = 0;
    int e;

    *ret_n = 0;
    if (!r)
        return 0;
    e = add_memory(r, ret, &n, err);
    if (e == 0)
        e = add_cpu(r, ret, &n, err);
    if (e < 0)
        return e;
    if (r->pids_limit > 0)
        add_number(ret, &n, "pids.max", (uint64_t)r->pids_limit);
    if (*r->cpuset_cpus) {
        if (strlen(r->cpuset_cpus) >= CGROUP_VALUE_MAX)
            return error_set(err, -EINVAL, "cpuset is too long");
        ret[n].file = "cpuset.cpus";
        (void)snprintf(ret[n].value, CGROUP_VALUE_MAX, "%s", r->cpuset_cpus);
        n++;
    }
    *ret_n = n;
    return 0;
}

uint64_t cgroup_flat_value(const char *text, const char *key)
{
    size_t len = strlen(key);

    for (const char *line = text; line && *line;) {
        const char *end = strchr(line, '\n');
        if (strncmp(line, key, len) == 0 && line[len] == ' ')
            return strtoull(line + len + 1, NULL, 10);
        line = end ? end + 1 : NULL;
    }
    return 0;
}
