/* SPDX-License-Identifier: Apache-2.0 */
/* Patience with a region whose device is hot-added meanwhile: looks again whenever a device comes, and
 * after a while offers it to the driver once more. */
#pragma once

#include "agent/uevent-monitor.h"

struct region_wait {
    struct agent *agent;
    bool (*attempt)(void *userdata);   /* true: it is over, and the wait was ended */
    void (*want)(void *userdata);      /* region_want for each region */
    void (*timed_out)(void *userdata); /* it did not come; ends the wait */
    void *userdata;
    unsigned rescans;
    struct uevent_waiter waiter;
    struct loop_source *timer; /* owned */
};

/* The first five fields above are set, the rest is zero. Attempts at once. 0, or errno: nothing was
 * attempted, and the wait is to be ended. w may be gone when it returns. */
int region_wait_begin(struct region_wait *w);
/* Also for one that never began. */
void region_wait_end(struct region_wait *w);
