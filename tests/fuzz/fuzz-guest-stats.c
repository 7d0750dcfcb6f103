/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest says its cgroup files hold. */
#include <stdlib.h>

#include "vmm/guest-stats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guest_stats s;

    guest_stats_parse((const char *)data, size, &s);
    for (unsigned i = 0; i < GUEST_STATS_KINDS; i++)
        if (s.values[i] && !(s.known >> i & 1))
            abort();
    return 0;
}
