/* SPDX-License-Identifier: Apache-2.0 */
/* How often something may be done: `burst` times at once, then once in each interval; what was not used comes
 * back at that pace. The caller brings the clock. All zero: nothing was done yet. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct pace_rule {
    uint64_t burst; /* 0: no limit */
    uint64_t interval_ns;
};

struct pace {
    uint64_t rested_ns; /* when the whole burst is there again */
};

/* How long until it may be done; 0: now. */
uint64_t pace_wait_ns(const struct pace *p, const struct pace_rule *rule, uint64_t now_ns);
/* It is done, whether it may or not: who did not wait makes the next one wait one interval, never more. */
void pace_take(struct pace *p, const struct pace_rule *rule, uint64_t now_ns);
/* Nothing was done for long enough. */
bool pace_is_rested(const struct pace *p, uint64_t now_ns);
