/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-agent: PID 1 of the guest. `nexus-agent --test-socket DIR` (never as PID 1 of a kernel) runs
 * the same agent over unix sockets below DIR, with DIR/run and a cgroup2 mounted at DIR/cgroup. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/early.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"

static int run(struct settings *set)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct agent *a = NULL;
    int r = set->guest ? early_init(&err) : 0;

    set->early_ns = clock_boot_ns();
    if (r == 0)
        r = agent_new(set, &a, &err);
    if (r < 0) {
        log_error("cannot start: %s", error_text(err, r));
        return 1; /* as PID 1: the kernel panics, and the host sees that */
    }
    r = agent_run(a);
    agent_free(a);
    return r < 0;
}

int main(int argc, char **argv)
{
    struct settings set = {.guest = true, .run_dir = "/run", .cgroup_dir = "/sys/fs/cgroup"};

    set.boot_ns = clock_boot_ns();
    log_init("nexus-agent");
    if (argc == 3 && strcmp(argv[1], "--test-socket") == 0) {
        set = (struct settings){.socket_dir = argv[2], .boot_ns = set.boot_ns};
        set.run_dir = str_printf("%s/run", argv[2]);
        set.cgroup_dir = str_printf("%s/cgroup", argv[2]);
    } else if (getpid() != 1) {
        (void)fprintf(stderr, "nexus-agent %s is the first process of a guest\n", NEXUS_VERSION);
        return 2;
    }
    int r = run(&set);

    if (!set.guest) {
        free((char *)(uintptr_t)set.run_dir);
        free((char *)(uintptr_t)set.cgroup_dir);
    }
    return r;
}
