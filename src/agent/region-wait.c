/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/region-wait.h"

#include "event/loop.h"

#define WAIT_MS 15000
#define RESCAN_MS 500 /* a slot whose driver was taken away by an older event tells nobody */

static void on_device(void *userdata)
{
    struct region_wait *w = userdata;

    if (!w->attempt(w->userdata))
        uevent_wait(w->agent, &w->waiter);
}

static void on_patience_over(struct loop_source *s, void *userdata)
{
    struct region_wait *w = userdata;

    w->want(w->userdata);
    if (w->attempt(w->userdata))
        return;
    if (++w->rescans < WAIT_MS / RESCAN_MS)
        loop_timer_set_after_ms(w->timer, RESCAN_MS);
    else
        w->timed_out(w->userdata);
}

int region_wait_begin(struct region_wait *w)
{
    int r = loop_add_timer(w->agent->loop, on_patience_over, w, &w->timer);

    if (r < 0)
        return r;
    w->waiter.fn = on_device;
    w->waiter.userdata = w;
    if (w->attempt(w->userdata))
        return 0;
    w->want(w->userdata);
    if (w->attempt(w->userdata))
        return 0;
    uevent_wait(w->agent, &w->waiter);
    loop_timer_set_after_ms(w->timer, RESCAN_MS);
    return 0;
}

void region_wait_end(struct region_wait *w)
{
    uevent_wait_no_more(&w->waiter);
    loop_remove(w->timer);
    w->timer = NULL;
}
