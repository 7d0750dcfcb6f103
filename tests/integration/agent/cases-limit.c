/* SPDX-License-Identifier: Apache-2.0 */
/* Resource limits: need cgroup v2 with its controllers, so they run in a guest. */
#include <signal.h>
#include <string.h>

#include "cases.h"

static void with_little_memory(Nexus__ContainerSpec *spec)
{
    spec->resources->memory_limit_bytes = 24 << 20;
}

static void memory_over_the_limit_is_an_oom_kill(struct drive *d)
{
    unsigned before = d->oom_events;
    const struct outcome *o =
        run_container(d, "oom-1", "x=a; while :; do x=$x$x; done", with_little_memory);

    CHECK(o->has_exit && o->code == 137 && o->signal == SIGKILL && o->oom, "code %d oom %d",
          o->code, o->oom);
    drive_wait_oom(d, before + 1);
    CHECK(strcmp(d->oom_container, "oom-1") == 0, "%s", d->oom_container);
}

static void with_all_limits(Nexus__ContainerSpec *spec)
{
    spec->resources->memory_limit_bytes = 64 << 20;
    spec->resources->cpu_quota_us = 50000;
    spec->resources->cpu_period_us = 100000;
    spec->resources->cpu_shares = 1024;
    spec->resources->pids_limit = 17;
    spec->resources->cpuset_cpus = text("0");
}

static void limits_stand_where_the_container_sees_them(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "limit-1",
                      "cd /sys/fs/cgroup; cat memory.max cpu.max cpu.weight pids.max cpuset.cpus; "
                      "cat /proc/self/cgroup; echo 1 > memory.max || echo ro",
                      with_all_limits);

    CHECK(buf_is(&o->out, "67108864\n50000 100000\n39\n17\n0\n0::/\nro\n"), "%s%s%s", o->out.data,
          o->err.data, o->error_text);
}

static void with_few_pids(Nexus__ContainerSpec *spec)
{
    spec->resources->pids_limit = 5;
}

static void a_fork_bomb_hits_pids_max(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "limit-2", "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo not reached",
        with_few_pids);

    CHECK(buf_has(&o->err, "fork"), "%s", o->err.data);
}

static void with_no_such_cpu(Nexus__ContainerSpec *spec)
{
    spec->resources->cpuset_cpus = text("4000");
}

static void a_cpu_that_is_not_there_is_an_error(struct drive *d)
{
    Nexus__Reply *r = try_create_container(d, "limit-3", "true", with_no_such_cpu);

    CHECK(*r->error_class && strstr(r->message, "cpuset.cpus"), "%s", r->message);
    r = try_create_container(d, "limit-3", "true", NULL); /* nothing of it stayed behind */
    CHECK(!*r->error_class, "%s", r->message);
    remove_container(d, "limit-3");
}

const struct drive_case limit_cases[] = {
    {"memory_over_the_limit_is_an_oom_kill", memory_over_the_limit_is_an_oom_kill, true},
    {"limits_stand_where_the_container_sees_them", limits_stand_where_the_container_sees_them,
     true},
    {"a_fork_bomb_hits_pids_max", a_fork_bomb_hits_pids_max, true},
    {"a_cpu_that_is_not_there_is_an_error", a_cpu_that_is_not_there_is_an_error, true},
};
const size_t n_limit_cases = sizeof(limit_cases) / sizeof(limit_cases[0]);
