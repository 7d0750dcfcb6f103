/* SPDX-License-Identifier: Apache-2.0 */
/* From specs to plans: processes, cgroup values, module list lines, sysctl paths, and the pump. */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "agent/cgroup-value.h"
#include "agent/module.h"
#include "agent/plan.h"
#include "agent/pump.h"
#include "agent/sandbox.h"
#include "base/limit.h"
#include "lib/test.h"

struct fixture {
    Nexus__ContainerSpec spec;
    Nexus__ProcessSpec process, exec;
    Nexus__User user, exec_user;
    Nexus__Rlimit limit;
    Nexus__Rlimit *limits[1];
    char args_text[8], env_text[3][16], cwd_text[8], user_text[8], name_text[16];
    char *args[1], *env[3];
};

static void fill(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    nexus__container_spec__init(&f->spec);
    nexus__process_spec__init(&f->process);
    nexus__process_spec__init(&f->exec);
    nexus__user__init(&f->user);
    nexus__user__init(&f->exec_user);
    nexus__rlimit__init(&f->limit);
    memcpy(f->args_text, "run", 4);
    memcpy(f->env_text[0], "A=1", 4);
    memcpy(f->env_text[1], "AB=2", 5);
    memcpy(f->env_text[2], "A=3", 4);
    memcpy(f->cwd_text, "/w", 3);
    memcpy(f->user_text, "app", 4);
    memcpy(f->name_text, "RLIMIT_NOFILE", 14);
    f->args[0] = f->args_text;
    for (size_t i = 0; i < 3; i++)
        f->env[i] = f->env_text[i];
    f->process.args = f->args;
    f->process.n_args = 1;
    f->process.user = &f->user;
    f->user.image_user = f->user_text;
    f->exec.args = f->args;
    f->exec.n_args = 1;
    f->limits[0] = &f->limit;
    f->limit.name = f->name_text;
    f->spec.process = &f->process;
}

static void a_container_gets_defaults(void **state)
{
    struct fixture f;
    struct process_plan p;

    fill(&f);
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), 0);
    assert_string_equal(p.args[0], "run");
    assert_null(p.args[1]);
    assert_string_equal(p.cwd, "/");
    assert_true(p.capabilities == PLAN_CAPABILITIES_DEFAULT);
    assert_true(p.ambient == 0);
    assert_string_equal(p.user.image_user, "app");
    assert_false(p.no_new_privs);
    plan_done(&p);
    f.spec.privileged = true;
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), 0);
    assert_true(p.capabilities == UINT64_MAX);
    plan_done(&p);
}

static void ambient_is_never_more_than_permitted(void **state)
{
    struct fixture f;
    struct process_plan p;

    fill(&f);
    f.process.has_capabilities = true;
    f.process.capabilities = 6;
    f.process.ambient_capabilities = 3;
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), 0);
    assert_true(p.capabilities == 6 && p.ambient == 2);
    plan_done(&p);
}

static void the_later_setting_of_a_variable_counts(void **state)
{
    struct fixture f;
    struct process_plan p;

    fill(&f);
    f.process.env = f.env;
    f.process.n_env = 3;
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), 0);
    assert_int_equal(p.n_env, 2);
    assert_string_equal(plan_env_get(&p, "A"), "3");
    assert_string_equal(plan_env_get(&p, "AB"), "2");
    assert_null(plan_env_get(&p, "B"));
    plan_done(&p);
    /* an exec's come after the container's */
    f.process.n_env = 2;
    f.exec.env = &f.env[2];
    f.exec.n_env = 1;
    assert_int_equal(plan_for_exec(&f.spec, &f.exec, NULL, &p, NULL), 0);
    assert_string_equal(plan_env_get(&p, "A"), "3");
    plan_done(&p);
    memcpy(f.env_text[0], "=1", 3);
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), -EINVAL);
    memcpy(f.env_text[0], "A", 2);
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), -EINVAL);
}

static void defaults_fill_only_what_is_unset(void **state)
{
    struct fixture f;
    struct process_plan p;
    char key[8];

    fill(&f);
    f.process.env = f.env;
    f.process.n_env = 1;
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), 0);
    plan_env_default(&p, "A", "no");
    plan_env_default(&p, "PATH", "/bin");
    assert_string_equal(plan_env_get(&p, "A"), "1");
    assert_string_equal(plan_env_get(&p, "PATH"), "/bin");
    for (int i = 0; i < 20; i++) { /* more than there is room for: the vector stays terminated */
        (void)snprintf(key, sizeof(key), "K%d", i);
        plan_env_default(&p, key, "v");
    }
    assert_null(p.env[p.n_env]);
    for (size_t i = 1; i < p.n_env; i++)
        free(p.env[i]); /* normally the process ends by exec */
    plan_done(&p);
}

static void an_exec_takes_the_containers_ways_where_it_says_nothing(void **state)
{
    const struct user_identity known = {.uid = 5};
    struct fixture f;
    struct process_plan p;

    fill(&f);
    f.process.cwd = f.cwd_text;
    f.process.no_new_privs = true;
    f.process.oom_score_adj = 7;
    f.process.has_capabilities = true;
    f.process.capabilities = 5;
    f.process.rlimits = f.limits;
    f.process.n_rlimits = 1;
    f.limit.soft = 1;
    f.limit.hard = 2;
    f.exec.user = &f.exec_user;
    assert_int_equal(plan_for_exec(&f.spec, &f.exec, NULL, &p, NULL), 0);
    assert_string_equal(p.cwd, "/w");
    assert_true(p.no_new_privs && p.oom_score_adj == 7 && p.capabilities == 5);
    assert_string_equal(p.user.image_user, "app");
    assert_int_equal(p.rlimits[0].resource, RLIMIT_NOFILE);
    assert_int_equal(p.rlimits[0].soft, 1);
    plan_done(&p);
    f.exec_user.has_uid = true;
    f.exec_user.uid = 9;
    assert_int_equal(plan_for_exec(&f.spec, &f.exec, &known, &p, NULL), 0);
    assert_true(p.user.has_uid && p.user.uid == 9);
    assert_null(p.identity); /* it is another user's */
    plan_done(&p);
    f.exec.user = NULL;
    assert_int_equal(plan_for_exec(&f.spec, &f.exec, &known, &p, NULL), 0);
    assert_ptr_equal(p.identity, &known); /* nothing is looked up again */
    plan_done(&p);
    assert_int_equal(plan_for_exec(&f.spec, &f.exec, NULL, &p, NULL), 0);
    assert_null(p.identity);
    plan_done(&p);
}

static void a_filter_is_whole_instructions_and_no_more_than_the_kernel_takes(void **state)
{
    static uint8_t code[32776];
    static const struct {
        size_t len;
        int r;
    } lengths[] = {{0, 0}, {8, 0}, {32768, 0}, {7, -EINVAL}, {9, -EINVAL}, {32776, -EINVAL}};

    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        struct fixture f;
        struct process_plan p;

        fill(&f);
        f.spec.seccomp.data = code;
        f.spec.seccomp.len = lengths[i].len;
        assert_int_equal(plan_for_container(&f.spec, &p, NULL), lengths[i].r);
        if (lengths[i].r == 0) {
            assert_int_equal(p.n_seccomp, lengths[i].len / 8);
            plan_done(&p);
            assert_int_equal(plan_for_exec(&f.spec, &f.exec, NULL, &p, NULL), 0);
            assert_int_equal(p.n_seccomp, lengths[i].len / 8); /* an exec has it, too */
            plan_done(&p);
        } else {
            assert_int_equal(plan_for_exec(&f.spec, &f.exec, NULL, &p, NULL), -EINVAL);
        }
    }
}

static void refuses_what_makes_no_sense(void **state)
{
    struct fixture f;
    struct process_plan p;
    struct error *err = NULL;

    fill(&f);
    f.process.n_args = 0;
    assert_int_equal(plan_for_container(&f.spec, &p, &err), -EINVAL);
    assert_int_equal(err->class, ERROR_INVALID);
    error_free(err);
    fill(&f);
    f.process.cwd = f.user_text; /* relative */
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), -EINVAL);
    fill(&f);
    f.process.oom_score_adj = 1001;
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), -EINVAL);
    fill(&f);
    f.process.rlimits = f.limits;
    f.process.n_rlimits = 1;
    f.limit.soft = 3;
    f.limit.hard = 2;
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), -EINVAL);
    f.limit.soft = 2;
    memcpy(f.name_text, "RLIMIT_NONE", 12);
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), -EINVAL);
    f.spec.process = NULL;
    assert_int_equal(plan_for_container(&f.spec, &p, NULL), -EINVAL);
    assert_int_equal(plan_rlimit_parse("STACK"), RLIMIT_STACK);
    assert_int_equal(plan_rlimit_parse("stack"), -EINVAL);
}

static void cgroup_values(void **state)
{
    Nexus__Resources r;
    struct cgroup_setting s[CGROUP_SETTINGS_MAX];
    char cpus[] = "0-1";
    size_t n = 9;

    nexus__resources__init(&r);
    assert_int_equal(cgroup_settings(NULL, s, &n, NULL), 0);
    assert_int_equal(n, 0);
    assert_int_equal(cgroup_settings(&r, s, &n, NULL), 0);
    assert_int_equal(n, 0);
    r.memory_limit_bytes = 1000;
    r.memory_swap_limit_bytes = 1500;
    r.cpu_quota_us = 20000;
    r.cpu_shares = 1024;
    r.pids_limit = 10;
    r.cpuset_cpus = cpus;
    assert_int_equal(cgroup_settings(&r, s, &n, NULL), 0);
    assert_int_equal(n, 7);
    assert_string_equal(s[0].file, "memory.max");
    assert_string_equal(s[0].value, "1000");
    assert_string_equal(s[2].file, "memory.swap.max");
    assert_string_equal(s[2].value, "500");
    assert_string_equal(s[3].value, "20000 100000");
    assert_string_equal(s[4].value, "39");
    assert_string_equal(s[6].value, "0-1");
    r.memory_swap_limit_bytes = 999;
    assert_int_equal(cgroup_settings(&r, s, &n, NULL), -EINVAL);
    r.memory_limit_bytes = -1;
    assert_int_equal(cgroup_settings(&r, s, &n, NULL), -EINVAL);
    r.memory_limit_bytes = 0;
    r.cpu_period_us = 10;
    assert_int_equal(cgroup_settings(&r, s, &n, NULL), -EINVAL);
    assert_int_equal(cgroup_weight_from_shares(0), 1);
    assert_int_equal(cgroup_weight_from_shares(2), 1);
    assert_int_equal(cgroup_weight_from_shares(262144), 10000);
    assert_int_equal(cgroup_weight_from_shares(UINT64_MAX), 10000);
}

static void reads_flat_files(void **state)
{
    static const char text[] = "low 1\noom 2\noom_kill 34\noom_group_kill 5\n";

    assert_int_equal(cgroup_flat_value(text, "oom_kill"), 34);
    assert_int_equal(cgroup_flat_value(text, "oom"), 2);
    assert_int_equal(cgroup_flat_value(text, "kill"), 0);
    assert_int_equal(cgroup_flat_value("", "oom"), 0);
}

static const struct {
    const char *line, *file, *params;
} modules[] = {
    {"virtio.ko", "virtio.ko", ""},
    {"  a.ko  x=1 y=2 # why", "a.ko", "x=1 y=2 "},
    {"a.ko\r", "a.ko", ""},
    {"a.ko ?console=hvc0", "a.ko", "?console=hvc0"},
    {"# a comment", NULL, NULL},
    {"", NULL, NULL},
    {"   ", NULL, NULL},
};

static void parses_module_lines(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(modules); i++) {
        const char *file = NULL, *params = NULL;
        char line[64];

        (void)snprintf(line, sizeof(line), "%s", modules[i].line);
        assert_int_equal(module_parse(line, &file, &params), modules[i].file != NULL);
        if (!modules[i].file)
            continue;
        assert_string_equal(file, modules[i].file);
        assert_string_equal(params, modules[i].params);
    }
}

static const struct {
    const char *params, *cmdline;
    bool wanted;
} conditions[] = {
    {"", "", true},
    {"x=?", "", true},
    {"?console=hvc0", "quiet console=hvc0 panic=-1\n", true},
    {"?console=hvc0", "console=hvc0", true},
    {"?console=hvc0 ", "a\tconsole=hvc0\n", true},
    {"?console=hvc0", "console=hvc01 xconsole=hvc0 console=hvc", false},
    {"?console=hvc0", "", false},
    {"?", "quiet", false},
};

static void loads_modules_where_they_are_wanted(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(conditions); i++) {
        print_message("# %s in %s\n", conditions[i].params, conditions[i].cmdline);
        assert_int_equal(module_is_wanted(conditions[i].params, conditions[i].cmdline),
                         conditions[i].wanted);
    }
}

static const struct {
    const char *name, *path; /* NULL: refused */
} sysctls[] = {
    {"net.core.somaxconn", "/proc/sys/net/core/somaxconn"},
    {"net/core/somaxconn", "/proc/sys/net/core/somaxconn"},
    {"net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"},
    {"net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"},
    {"", NULL},
    {"..", NULL},
    {"net/../../x", NULL},
    {"net/..", NULL},
    {"a..b", NULL},
    {"a.//.b", NULL},
    {"/etc/passwd", NULL},
    {"net/", NULL},
    {"net/./x", NULL},
};

static void sysctl_names_stay_below_proc_sys(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(sysctls); i++) {
        char path[128];
        int r = sandbox_sysctl_path(sysctls[i].name, path, sizeof(path));

        print_message("# %s\n", sysctls[i].name);
        assert_int_equal(r, sysctls[i].path ? 0 : -EINVAL);
        if (r == 0)
            assert_string_equal(path, sysctls[i].path);
    }
    char tiny[12];
    assert_int_equal(sandbox_sysctl_path("net.core", tiny, sizeof(tiny)), -EINVAL);
}

static void sysctls_of_the_whole_kernel_are_no_pods(void **state)
{
    static const struct {
        const char *name;
        bool yes;
    } names[] = {
        {"net.core.somaxconn", true},
        {"fs.mqueue.msg_max", true},
        {"kernel.shm_rmid_forced", true},
        {"kernel.sem", true},
        {"kernel.msgmax", true},
        {"kernel.domainname", true},
        {"vm.overcommit_memory", false},
        {"kernel.panic", false},
        {"kernel.core_pattern", false},
        {"fs.file-max", false},
        {"netx.y", false},
        {"kernel.modprobe", false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char path[128];

        print_message("# %s\n", names[i].name);
        assert_int_equal(sandbox_sysctl_path(names[i].name, path, sizeof(path)), 0);
        assert_int_equal(sandbox_sysctl_is_namespaced(path), names[i].yes);
    }
}

static void the_pump_holds_64_frames_and_no_more(void **state)
{
    struct pump p;
    unsigned frames = 0;

    pump_init(&p);
    while (pump_space(&p)) {
        pump_commit(&p, 2, LIMIT_TLV_DATA_BYTES);
        frames++;
    }
    assert_int_equal(frames, LIMIT_TLV_QUEUE_FRAMES);
    assert_false(pump_has_room(&p));
    assert_int_equal(p.out.data[0], 2);
    assert_int_equal(p.out.data[3], 0x10);
    buf_consume(&p.out, 5 + LIMIT_TLV_DATA_BYTES);
    assert_true(pump_has_room(&p));
    assert_non_null(pump_space(&p));
    pump_commit(&p, 3, 0);
    assert_int_equal(p.out.data[p.out.used - 5], 3);
    pump_done(&p);
}

static void the_pump_bounds_input(void **state)
{
    static const uint8_t block[LIMIT_TLV_DATA_BYTES];
    struct pump p;
    unsigned frames = 0;

    pump_init(&p);
    while (pump_wants_input(&p)) {
        assert_int_equal(pump_input(&p, block, sizeof(block)), 0);
        frames++;
    }
    assert_int_equal(frames, LIMIT_TLV_QUEUE_FRAMES + 1);
    assert_int_equal(pump_input(&p, NULL, 0), 0);
    assert_true(p.input_eof);
    assert_int_equal(pump_input(&p, block, 1), -EPIPE);
    assert_int_equal(pump_input(&p, NULL, 0), -EPIPE);
    pump_done(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_container_gets_defaults),
        cmocka_unit_test(ambient_is_never_more_than_permitted),
        cmocka_unit_test(the_later_setting_of_a_variable_counts),
        cmocka_unit_test(defaults_fill_only_what_is_unset),
        cmocka_unit_test(an_exec_takes_the_containers_ways_where_it_says_nothing),
        cmocka_unit_test(a_filter_is_whole_instructions_and_no_more_than_the_kernel_takes),
        cmocka_unit_test(refuses_what_makes_no_sense),
        cmocka_unit_test(cgroup_values),
        cmocka_unit_test(reads_flat_files),
        cmocka_unit_test(parses_module_lines),
        cmocka_unit_test(loads_modules_where_they_are_wanted),
        cmocka_unit_test(sysctl_names_stay_below_proc_sys),
        cmocka_unit_test(sysctls_of_the_whole_kernel_are_no_pods),
        cmocka_unit_test(the_pump_holds_64_frames_and_no_more),
        cmocka_unit_test(the_pump_bounds_input),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
