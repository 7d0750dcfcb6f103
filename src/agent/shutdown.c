/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/shutdown.h"

#include <signal.h>
#include <sys/reboot.h>

#include "agent/container.h"
#include "agent/scratch.h"
#include "base/log.h"

#define KILL_WAIT_MS 2000 /* after SIGKILL: only a process stuck in the kernel needs it */
#define FLUSH_MS 20       /* the reply's way to the host when nothing has to end first */

struct shutdown {
    struct agent *agent;
    struct loop_source *timer;
    bool killed;
};

static void power_off(struct agent *a)
{
    log_info("power off");
    scratch_unmount(a);
    sync();
    if (!a->set.guest) {
        loop_exit(a->loop, 0);
        return;
    }
    (void)reboot(RB_POWER_OFF);
    log_error_errno(-errno, "power off");
    loop_exit(a->loop, 1);
}

static void signal_all(struct agent *a, uint32_t signal, bool all)
{
    struct container *k;

    list_foreach (k, &a->containers, link)
        if (k->process)
            (void)container_signal(k, signal, all, NULL);
}

static void kill_all(struct shutdown *s)
{
    s->killed = true;
    signal_all(s->agent, SIGKILL, true);
    loop_timer_set_after_ms(s->timer, KILL_WAIT_MS);
}

static void on_timer(struct loop_source *source, void *userdata)
{
    struct shutdown *s = userdata;

    if (!s->killed && containers_any_running(s->agent))
        kill_all(s);
    else
        power_off(s->agent);
}

void shutdown_begin(struct agent *a, uint32_t grace_ms)
{
    struct shutdown *s = a->shutdown;

    if (!s) {
        s = calloc(1, sizeof(*s));
        if (!s || loop_add_timer(a->loop, on_timer, s, &s->timer) < 0) {
            power_off(a); /* asked to end and no memory to do it well */
            return;
        }
        s->agent = a;
        a->shutdown = s;
        log_info("shutdown, grace %u ms", grace_ms);
        signal_all(a, SIGTERM, false);
    }
    if (s->killed)
        return;
    if (containers_any_running(a))
        loop_timer_set_after_ms(s->timer, grace_ms);
    else
        loop_timer_set_after_ms(s->timer, FLUSH_MS);
}

void shutdown_free(struct shutdown *s)
{
    if (s)
        loop_remove(s->timer);
    free(s);
}

void shutdown_check(struct agent *a)
{
    if (a->shutdown && !containers_any_running(a))
        loop_timer_set_after_ms(a->shutdown->timer, FLUSH_MS);
}
