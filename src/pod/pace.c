/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/pace.h"

uint64_t pace_wait_ns(const struct pace *p, const struct pace_rule *rule, uint64_t now_ns)
{
    uint64_t ahead_ns = p->rested_ns > now_ns ? p->rested_ns - now_ns : 0;
    uint64_t allowed_ns;

    if (rule->burst == 0)
        return 0;
    allowed_ns = (rule->burst - 1) * rule->interval_ns;
    return ahead_ns > allowed_ns ? ahead_ns - allowed_ns : 0;
}

void pace_take(struct pace *p, const struct pace_rule *rule, uint64_t now_ns)
{
    uint64_t last_ns = now_ns + rule->burst * rule->interval_ns;
    uint64_t from_ns = p->rested_ns > now_ns ? p->rested_ns : now_ns;

    p->rested_ns = from_ns + rule->interval_ns;
    if (p->rested_ns > last_ns)
        p->rested_ns = last_ns;
}

bool pace_is_rested(const struct pace *p, uint64_t now_ns)
{
    return p->rested_ns <= now_ns;
}
