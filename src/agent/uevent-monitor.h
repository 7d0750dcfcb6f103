/* SPDX-License-Identifier: Apache-2.0 */
/* Tells whoever waits for a device that one came. */
#pragma once

#include "agent/agent-internal.h"

struct uevent_waiter {
    struct list link;
    void (*fn)(void *userdata); /* some device was added or bound: look again */
    void *userdata;
};

/* 0 or errno. */
int uevent_start(struct agent *a);
/* w is the caller's; uevent_wait twice is one. */
void uevent_wait(struct agent *a, struct uevent_waiter *w);
void uevent_wait_no_more(struct uevent_waiter *w);
