/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup: names of parents, the probe's verdict, what is written where. The tree is a directory of
 * plain files; the kernel's own side is tested in tests/integration/net. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "cgroup/cgroup-internal.h"
#include "cgroup/cgroup.h"
#include "lib/test.h"

static const struct {
    const char *name, *in, *out; /* out NULL: refused */
} parents[] = {
    {"empty_is_ours", "", "/nexus.slice"},
    {"slice_is_expanded", "kubepods-burstable-pod1_2.slice",
     "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"},
    {"plain_slice", "system.slice", "/system.slice"},
    {"root_slice", "-.slice", "/"},
    {"path_stays", "/kubepods/burstable/pod1", "/kubepods/burstable/pod1"},
    {"path_gets_its_slash", "kubepods/pod1", "/kubepods/pod1"},
    {"trailing_slash_goes", "/a/b/", "/a/b"},
    {"root_path", "/", "/"},
    {"expanded_slices_as_a_path", "/a.slice/a-b.slice", "/a.slice/a-b.slice"},
    {"dot_dot", "/a/../b", NULL},
    {"dot", "/a/./b", NULL},
    {"empty_component", "/a//b", NULL},
    {"control_byte", "/a\nb", NULL},
    {"leading_dash", "-a.slice", NULL},
    {"double_dash", "a--b.slice", NULL},
    {"trailing_dash", "a-.slice", NULL},
    {"no_stem", ".slice", NULL},
};

static void parent_is_a_clean_path_or_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(parents); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        _cleanup_(freep) char *path = NULL;
        int r = cgroup_parent_path(parents[i].in, &path, &err);

        print_message("# %s\n", parents[i].name);
        if (parents[i].out) {
            assert_int_equal(r, 0);
            assert_string_equal(path, parents[i].out);
        } else {
            assert_int_equal(r, -EINVAL);
            assert_non_null(err);
        }
    }
}

static void parent_longer_than_the_limit_is_refused(void **state)
{
    char text[4098];

    memset(text, 'a', sizeof(text));
    text[0] = '/';
    text[4097] = '\0';
    _cleanup_(freep) char *path = NULL;
    assert_int_equal(cgroup_parent_path(text, &path, NULL), -EINVAL);
}

static void shares_become_weight_at_both_ends(void **state)
{
    assert_int_equal(cgroup_weight_from_shares(0), 0);
    assert_int_equal(cgroup_weight_from_shares(1), 1);
    assert_int_equal(cgroup_weight_from_shares(2), 1);
    assert_int_equal(cgroup_weight_from_shares(1024), 39);
    assert_int_equal(cgroup_weight_from_shares(262144), 10000);
    assert_int_equal(cgroup_weight_from_shares(UINT64_MAX), 10000);
}

static void keyed_value_matches_whole_keys_only(void **state)
{
    const char *text = "low 1\noom 2\noom_kill 3\nbad x\nhuge 99999999999999999999999";

    assert_int_equal(cgroup_keyed_value(text, "oom_kill"), 3);
    assert_int_equal(cgroup_keyed_value(text, "oom"), 2);
    assert_int_equal(cgroup_keyed_value(text, "kill"), 0);
    assert_int_equal(cgroup_keyed_value(text, "bad"), 0);
    assert_int_equal(cgroup_keyed_value(text, "huge"), 0);
    assert_int_equal(cgroup_keyed_value("", "x"), 0);
}

/* ---------------------------------------------------------------- a tree of plain files */

struct tree {
    char dir[64];
    int fd;
};

static void put(const struct tree *t, const char *path, const char *text)
{
    int fd = openat(t->fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, text, strlen(text)), 0);
    close(fd);
}

static void assert_file(const struct tree *t, const char *path, const char *want)
{
    char *got = NULL;

    assert_int_equal(file_read_all(t->fd, path, 4096, &got, NULL), 0);
    assert_string_equal(got, want);
    free(got);
}

static int tree_set_up(void **state)
{
    struct tree *t = xcalloc(1, sizeof(*t));

    (void)snprintf(t->dir, sizeof(t->dir), "/tmp/nexus-cgroup-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    t->fd = open(t->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(t->fd >= 0);
    *state = t;
    return 0;
}

static int tree_tear_down(void **state)
{
    struct tree *t = *state;

    close(t->fd);
    (void)dir_remove_tree(AT_FDCWD, t->dir);
    free(t);
    return 0;
}

/* The files the kernel would show. */
static void make_cgroup(const struct tree *t, const char *path, const char *controllers)
{
    static const char *const files[] = {"memory.max", "memory.oom.group", "pids.max",   "cpu.max",
                                        "cpu.weight", "cgroup.procs",     "cgroup.kill"};
    char name[256];

    if (*path)
        assert_int_equal(mkdirat(t->fd, path, 0755), 0);
    (void)snprintf(name, sizeof(name), "%s%scgroup.controllers", path, *path ? "/" : "");
    put(t, name, controllers);
    (void)snprintf(name, sizeof(name), "%s%scgroup.subtree_control", path, *path ? "/" : "");
    put(t, name, "");
    (void)snprintf(name, sizeof(name), "%s%scgroup.events", path, *path ? "/" : "");
    put(t, name, "populated 0\nfrozen 0\n");
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        (void)snprintf(name, sizeof(name), "%s%s%s", path, *path ? "/" : "", files[i]);
        put(t, name, "");
    }
}

static void probe_tells_what_the_host_has(void **state)
{
    struct tree *t = *state;
    struct cgroup_fs *fs = NULL;

    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_fs_mode(fs), CGROUP_MODE_NONE);
    cgroup_fs_free(fs);

    assert_int_equal(mkdirat(t->fd, "memory", 0755), 0);
    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_fs_mode(fs), CGROUP_MODE_V1);
    assert_non_null(strstr(cgroup_fs_describe(fs), "systemd.unified_cgroup_hierarchy"));
    cgroup_fs_free(fs);

    assert_int_equal(mkdirat(t->fd, "unified", 0755), 0);
    put(t, "unified/cgroup.controllers", "");
    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_string_equal(cgroup_mode_name(cgroup_fs_mode(fs)), "hybrid");
    cgroup_fs_free(fs);

    put(t, "cgroup.controllers", "cpuset cpu io pids\n");
    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_fs_mode(fs), CGROUP_MODE_V2);
    assert_int_equal(cgroup_fs_controllers(fs), CGROUP_CPU | CGROUP_PIDS);
    assert_non_null(strstr(cgroup_fs_describe(fs), "lacks memory"));
    cgroup_fs_free(fs);

    assert_int_equal(cgroup_fs_open("/nonexistent/cgroup", &fs, NULL), 0);
    assert_int_equal(cgroup_fs_mode(fs), CGROUP_MODE_NONE);
    cgroup_fs_free(fs);
}

static const struct cgroup_limits limits = {.memory_max_bytes = 268435456,
                                            .pids_max = 20,
                                            .cpu_quota_us = 50000,
                                            .cpu_period_us = 100000,
                                            .cpu_weight = 39};

static void create_enables_controllers_and_writes_limits(void **state)
{
    struct tree *t = *state;
    _cleanup_(cgroup_fs_freep) struct cgroup_fs *fs = NULL;
    _cleanup_(freep) char *path = NULL;
    unsigned missing = 99;

    make_cgroup(t, "", "cpu memory pids");
    make_cgroup(t, "pods", "cpu memory pids");
    make_cgroup(t, "pods/vmm-1", "cpu memory pids");
    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_create(fs, "/pods", "vmm-1", &limits, &path, &missing, NULL), 0);
    assert_string_equal(path, "/pods/vmm-1");
    assert_int_equal(missing, 0);
    assert_file(t, "cgroup.subtree_control", "+cpu +memory +pids");
    assert_file(t, "pods/cgroup.subtree_control", "+cpu +memory +pids");
    assert_file(t, "pods/vmm-1/memory.max", "268435456");
    assert_file(t, "pods/vmm-1/memory.oom.group", "1");
    assert_file(t, "pods/vmm-1/pids.max", "20");
    assert_file(t, "pods/vmm-1/cpu.max", "50000 100000");
    assert_file(t, "pods/vmm-1/cpu.weight", "39");
    assert_int_equal(cgroup_add_pid(fs, path, 4711, NULL), 0);
    assert_file(t, "pods/vmm-1/cgroup.procs", "4711");
    assert_int_equal(cgroup_kill(fs, path, NULL), 0);
    assert_file(t, "pods/vmm-1/cgroup.kill", "1");
}

static void controllers_that_are_missing_are_reported(void **state)
{
    struct tree *t = *state;
    _cleanup_(cgroup_fs_freep) struct cgroup_fs *fs = NULL;
    _cleanup_(freep) char *path = NULL;
    unsigned missing = 0;

    make_cgroup(t, "", "pids");
    make_cgroup(t, "vmm-1", "pids");
    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_create(fs, "/", "vmm-1", &limits, &path, &missing, NULL), 0);
    assert_string_equal(path, "/vmm-1");
    assert_int_equal(missing, CGROUP_CPU | CGROUP_MEMORY);
    assert_file(t, "vmm-1/memory.max", "");
    assert_file(t, "vmm-1/pids.max", "20");
    assert_file(t, "cgroup.subtree_control", "+pids");
}

static void without_cgroup_v2_everything_succeeds_and_says_so(void **state)
{
    struct tree *t = *state;
    _cleanup_(cgroup_fs_freep) struct cgroup_fs *fs = NULL;
    _cleanup_(freep) char *path = NULL;
    _cleanup_(error_freep) struct error *err = NULL;
    struct cgroup_usage u;
    unsigned missing = 0;
    int fd = -EBADF;

    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_create(fs, "/pods", "vmm-1", &limits, &path, &missing, NULL), 0);
    assert_string_equal(path, "/pods/vmm-1");
    assert_int_equal(missing, CGROUP_CPU | CGROUP_MEMORY | CGROUP_PIDS);
    assert_int_equal(cgroup_add_pid(fs, path, 1, NULL), 0);
    assert_int_equal(cgroup_kill(fs, path, NULL), 0);
    assert_int_equal(cgroup_remove(fs, path, 0, NULL), 0);
    assert_int_equal(cgroup_read_usage(fs, path, &u, NULL), 0);
    assert_int_equal(u.oom_kills, 0);
    assert_int_equal(cgroup_open(fs, path, &fd, &err), -EOPNOTSUPP);
    assert_int_equal(faccessat(t->fd, "pods", F_OK, 0), -1);
}

static void missing_and_hostile_paths(void **state)
{
    struct tree *t = *state;
    _cleanup_(cgroup_fs_freep) struct cgroup_fs *fs = NULL;
    _cleanup_(error_freep) struct error *e1 = NULL, *e2 = NULL, *e3 = NULL, *e4 = NULL;
    _cleanup_(freep) char *path = NULL;
    int fd = -EBADF;

    make_cgroup(t, "", "cpu memory pids");
    assert_int_equal(symlinkat("/etc", t->fd, "link"), 0);
    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_kill(fs, "/gone", NULL), 0);
    assert_int_equal(cgroup_remove(fs, "/gone", 0, NULL), 0);
    assert_int_equal(cgroup_open(fs, "/link", &fd, &e1), -ELOOP);
    assert_int_equal(cgroup_open(fs, "/../etc", &fd, &e2), -EXDEV);
    assert_int_equal(cgroup_create(fs, "/", "a/b", NULL, &path, NULL, &e3), -EINVAL);
    assert_int_equal(cgroup_remove(fs, "/", 0, &e4), -EINVAL);
}

static void remove_of_a_populated_cgroup_is_busy(void **state)
{
    struct tree *t = *state;
    _cleanup_(cgroup_fs_freep) struct cgroup_fs *fs = NULL;
    _cleanup_(error_freep) struct error *err = NULL;

    make_cgroup(t, "", "");
    make_cgroup(t, "vmm-1", "");
    put(t, "vmm-1/cgroup.events", "populated 1\nfrozen 0\n");
    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_remove(fs, "/vmm-1", 0, &err), -EBUSY);
    assert_int_equal(error_class_of(err, -EBUSY), ERROR_PRECONDITION);
}

static int count_found(const char *path, void *userdata)
{
    assert_non_null(strstr(path, "/vmm-"));
    ++*(int *)userdata;
    return 0;
}

static void find_lists_by_prefix_at_any_depth(void **state)
{
    struct tree *t = *state;
    _cleanup_(cgroup_fs_freep) struct cgroup_fs *fs = NULL;
    int n = 0;

    make_cgroup(t, "", "");
    make_cgroup(t, "a", "");
    make_cgroup(t, "a/vmm-1", "");
    make_cgroup(t, "vmm-2", "");
    make_cgroup(t, "other", "");
    assert_int_equal(cgroup_fs_open(t->dir, &fs, NULL), 0);
    assert_int_equal(cgroup_find(fs, "/", "vmm-", count_found, &n, NULL), 0);
    assert_int_equal(n, 2);
    assert_int_equal(cgroup_find(fs, "/gone", "vmm-", count_found, &n, NULL), 0);
    assert_int_equal(n, 2);
}

#define WITH_TREE(f) cmocka_unit_test_setup_teardown(f, tree_set_up, tree_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parent_is_a_clean_path_or_refused),
        cmocka_unit_test(parent_longer_than_the_limit_is_refused),
        cmocka_unit_test(shares_become_weight_at_both_ends),
        cmocka_unit_test(keyed_value_matches_whole_keys_only),
        WITH_TREE(probe_tells_what_the_host_has),
        WITH_TREE(create_enables_controllers_and_writes_limits),
        WITH_TREE(controllers_that_are_missing_are_reported),
        WITH_TREE(without_cgroup_v2_everything_succeeds_and_says_so),
        WITH_TREE(missing_and_hostile_paths),
        WITH_TREE(remove_of_a_populated_cgroup_is_busy),
        WITH_TREE(find_lists_by_prefix_at_any_depth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
