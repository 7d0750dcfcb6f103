/* SPDX-License-Identifier: Apache-2.0 */
/* What a host says about a container's rights that no host of ours would say, and what it would. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "cases.h"
#include "wire/message.h"

/* Everything is allowed but changing modes. */
static struct sock_filter no_chmod[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_chmod, 1, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fchmodat, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static void with_filter(Nexus__ContainerSpec *spec)
{
    spec->seccomp.data = (uint8_t *)no_chmod; /* borrowed by the message */
    spec->seccomp.len = sizeof(no_chmod);
}

/* A user without any right and without no_new_privs: the filter is loaded by what is then given up. */
static void with_filter_as_user(Nexus__ContainerSpec *spec)
{
    with_filter(spec);
    spec->process->has_capabilities = true;
    spec->process->user->has_uid = true;
    spec->process->user->uid = 1000;
}

static void with_filter_without_privileges(Nexus__ContainerSpec *spec)
{
    with_filter_as_user(spec);
    spec->process->no_new_privs = true;
}

static void a_filter_forbids_what_it_says(struct drive *d)
{
    static void (*const ways[])(Nexus__ContainerSpec *) = {with_filter, with_filter_as_user,
                                                           with_filter_without_privileges};

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        const struct outcome *o = run_container(
            d, "filter-1",
            "cd /dev/shm; : > x$$; chmod 600 x$$ 2>/dev/null || echo no; rm x$$; "
            "grep -c '^Seccomp:.2' /proc/self/status; grep -E '^Cap(Prm|Eff):' /proc/self/status | "
            "grep -c 200000 || true",
            ways[i]);

        CHECK(buf_is(&o->out, "no\n1\n0\n"), "%zu: %s%s%s", i, o->out.data, o->err.data,
              o->error_text);
    }
}

static void with_nonsense(Nexus__ContainerSpec *spec)
{
    static uint8_t nonsense[80];

    memset(nonsense, 0xee, sizeof(nonsense));
    spec->seccomp.data = nonsense;
    spec->seccomp.len = sizeof(nonsense);
}

static void the_kernel_refuses_a_filter_that_is_none(struct drive *d)
{
    struct drive_stream *s;

    create_container(d, "filter-2", "true", with_nonsense);
    s = stream_start_container(d, "filter-2");
    stream_until_closed(s);
    CHECK(s->got.has_error && strstr(s->got.error_text, "system call filter"), "%s",
          s->got.error_text);
    stream_close(s);
    remove_container(d, "filter-2");
}

static void with_odd_filter(Nexus__ContainerSpec *spec)
{
    with_nonsense(spec);
    spec->seccomp.len = 13;
}

static void with_long_filter(Nexus__ContainerSpec *spec)
{
    static uint8_t bytes[4097 * 8];

    spec->seccomp.data = bytes;
    spec->seccomp.len = sizeof(bytes);
}

static void with_device(Nexus__ContainerSpec *spec, const char *name, const char *path)
{
    static Nexus__DeviceNode node;
    static Nexus__DeviceNode *nodes[] = {&node};

    nexus__device_node__init(&node);
    node.name = text(name);
    node.path = text(path);
    spec->devices = nodes;
    spec->n_devices = 1;
}

static void with_disk(Nexus__ContainerSpec *spec)
{
    with_device(spec, "pmem0", "/dev/x");
}

static void with_path(Nexus__ContainerSpec *spec)
{
    with_device(spec, "../etc/passwd", "/dev/x");
}

static void with_relative_device(Nexus__ContainerSpec *spec)
{
    with_device(spec, "null", "x");
}

static void refuses_what_no_host_of_ours_says(struct drive *d)
{
    static void (*const ways[])(Nexus__ContainerSpec *) = {
        with_odd_filter, with_long_filter, with_disk, with_path, with_relative_device};

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        Nexus__Reply *r = try_create_container(d, "odd-1", "true", ways[i]);

        CHECK(strcmp(r->error_class, "invalid") == 0, "%zu: class \"%s\"", i, r->error_class);
        message_free(&r->base);
    }
}

static void with_zero(Nexus__ContainerSpec *spec)
{
    with_device(spec, "zero", "/dev/deep/er");
}

static void a_device_can_be_elsewhere(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "device-1", "head -c 3 /dev/deep/er | wc -c", with_zero);

    CHECK(buf_is(&o->out, "3\n"), "%s%s%s", o->out.data, o->err.data, o->error_text);
}

static void in_pids_of_target(Nexus__ContainerSpec *spec)
{
    spec->pids_of = text("target-1");
}

static void joins_the_processes_of_another(struct drive *d)
{
    struct drive_stream *s;
    const struct outcome *o;

    create_container(d, "target-1", "echo up; exec sleep 4242", NULL);
    create_container(d, "early-1", "true", in_pids_of_target);
    s = stream_start_container(d, "early-1"); /* nothing runs there yet */
    stream_until_closed(s);
    CHECK(s->got.has_error && strcmp(s->got.error_class, "precondition") == 0, "%s %s",
          s->got.error_class, s->got.error_text);
    stream_close(s);
    remove_container(d, "early-1");
    s = stream_start_container(d, "target-1");
    stream_until_output(s, "up");
    o = run_container(d, "debug-1", "tr '\\0' ' ' < /proc/1/cmdline; [ $$ != 1 ] && echo joined",
                      in_pids_of_target);
    CHECK(buf_is(&o->out, "sleep 4242 joined\n"), "%s%s%s", o->out.data, o->err.data,
          o->error_text);
    remove_container(d, "target-1");
    stream_close(s);
}

/* The namespace ends with the first process in it, for both. */
static void ends_with_the_one_it_joined(struct drive *d)
{
    struct drive_stream *target, *debug;

    create_container(d, "target-1", "echo up; exec sleep 4242", NULL);
    target = stream_start_container(d, "target-1");
    stream_until_output(target, "up");
    create_container(d, "debug-1", "echo up; exec sleep 4243", in_pids_of_target);
    debug = stream_start_container(d, "debug-1");
    stream_until_output(debug, "up");
    remove_container(d, "target-1");
    stream_until_closed(debug);
    CHECK(debug->got.code == 137, "code %d", debug->got.code);
    stream_until_closed(target);
    CHECK(target->got.code == 137, "code %d", target->got.code);
    stream_close(target);
    stream_close(debug);
    remove_container(d, "debug-1");
}

const struct drive_case security_cases[] = {
    {"a_filter_forbids_what_it_says", a_filter_forbids_what_it_says, false},
    {"the_kernel_refuses_a_filter_that_is_none", the_kernel_refuses_a_filter_that_is_none, false},
    {"refuses_what_no_host_of_ours_says", refuses_what_no_host_of_ours_says, false},
    {"a_device_can_be_elsewhere", a_device_can_be_elsewhere, false},
    {"joins_the_processes_of_another", joins_the_processes_of_another, false},
    {"ends_with_the_one_it_joined", ends_with_the_one_it_joined, false},
};
const size_t n_security_cases = sizeof(security_cases) / sizeof(security_cases[0]);
