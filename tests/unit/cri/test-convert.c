/* SPDX-License-Identifier: Apache-2.0 */
/* cri conversion: what was asked is what is told back, signals map both ways, checks on single fields hold
 * at their limits. Whole requests, good and wrong, are tested through the socket. */
#include <stdio.h>
#include <string.h>

#include "base/limit.h"
#include "base/str.h"
#include "cri/convert.h"
#include "cri/validate.h"
#include "lib/test.h"

static void sandbox_is_told_back(void **state)
{
    Runtime__V1__RunPodSandboxRequest req = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
    Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
    Runtime__V1__PodSandboxMetadata meta = RUNTIME__V1__POD_SANDBOX_METADATA__INIT;
    Runtime__V1__PodSandboxConfig__LabelsEntry
        b = RUNTIME__V1__POD_SANDBOX_CONFIG__LABELS_ENTRY__INIT,
        a = b;
    Runtime__V1__PodSandboxConfig__LabelsEntry *labels[] = {&b, &a};
    struct sandbox s = {.state = SANDBOX_READY};
    struct arena *arena = arena_new(1 << 20);
    Runtime__V1__PodSandboxStatus *status;

    meta.name = (char *)(uintptr_t) "n";
    meta.namespace_ = (char *)(uintptr_t) "ns";
    meta.uid = (char *)(uintptr_t) "u";
    meta.attempt = UINT32_MAX;
    b.key = (char *)(uintptr_t) "b";
    b.value = (char *)(uintptr_t) "2";
    a.key = (char *)(uintptr_t) "a";
    a.value = (char *)(uintptr_t) "";
    config.metadata = &meta;
    config.labels = labels;
    config.n_labels = 2;
    req.config = &config;
    assert_int_equal(sandbox_spec_from_cri(&req, &s.spec, NULL), 0);
    s.status.created_at_ns = 5;
    strv_push(&s.status.ips, "10.0.0.1");
    strv_push(&s.status.ips, "fd00::1");
    status = sandbox_status_to_cri(arena, &s);
    assert_non_null(status);
    assert_string_equal(status->metadata->namespace_, "ns");
    assert_int_equal(status->metadata->attempt, UINT32_MAX);
    assert_int_equal(status->n_labels, 2);
    assert_string_equal(status->labels[0]->key, "a");
    assert_string_equal(status->labels[1]->value, "2");
    assert_string_equal(status->network->ip, "10.0.0.1");
    assert_string_equal(status->network->additional_ips[0]->ip, "fd00::1");
    assert_int_equal(status->state, RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY);
    s.state = SANDBOX_STOPPING;
    assert_int_equal(sandbox_to_cri(arena, &s)->state,
                     RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY);
    sandbox_spec_clear(&s.spec);
    strv_free(s.status.ips);
    arena_free(arena);
}

static void who_a_container_runs_as_is_told_once_known(void **state)
{
    uint32_t groups[] = {9, 100, 10};
    char name[] = "c", image[] = "sha256:0";
    struct container c = {.state = CONTAINER_RUNNING,
                          .spec = {.name = name, .image = image},
                          .status = {.image_id = image, .image_ref = image, .stop_signal = 15}};
    struct arena *arena = arena_new(1 << 20);
    Runtime__V1__ContainerStatus *m = container_status_to_cri(arena, &c);
    const Runtime__V1__LinuxContainerUser *l;

    assert_non_null(m);
    assert_null(m->user);
    c.status.has_user = true;
    c.status.uid = UINT32_MAX - 1;
    c.status.gid = 100;
    c.status.groups.items = groups;
    c.status.groups.count = ARRAY_SIZE(groups);
    m = container_status_to_cri(arena, &c);
    assert_non_null(m);
    l = m->user->linux;
    assert_int_equal(l->uid, UINT32_MAX - 1);
    assert_int_equal(l->gid, 100);
    assert_int_equal(l->n_supplemental_groups, 3); /* the primary one first, and once */
    assert_int_equal(l->supplemental_groups[0], 100);
    assert_int_equal(l->supplemental_groups[1], 9);
    assert_int_equal(l->supplemental_groups[2], 10);
    for (size_t max = 1; max < 4096; max += 64) {
        struct arena *small = arena_new(max);

        (void)container_status_to_cri(small, &c);
        arena_free(small);
    }
    arena_free(arena);
}

static void full_arena_is_a_clean_no(void **state)
{
    struct sandbox s = {.state = SANDBOX_READY};

    for (size_t max = 1; max < 4096; max += 64) {
        struct arena *arena = arena_new(max);
        (void)sandbox_to_cri(arena, &s);
        (void)sandbox_status_to_cri(arena, &s);
        arena_free(arena);
    }
}

static void map_keys_are_unique_and_bounded(void **state)
{
    struct map_entry e[2] = {{.key = (char *)(uintptr_t) "k", .value = (char *)(uintptr_t) "1"},
                             {.key = (char *)(uintptr_t) "k", .value = (char *)(uintptr_t) "2"}};
    void *entries[] = {&e[0], &e[1]};
    struct resources_spec r = {0};

    assert_int_equal(map_from_cri("labels", entries, 2, &r.unified, NULL), -EINVAL);
    for (size_t i = 0; i < r.unified.count; i++) {
        free(r.unified.items[i].key);
        free(r.unified.items[i].value);
    }
    free(r.unified.items);
    memset(&r, 0, sizeof(r));
    e[0].key = (char *)(uintptr_t) "";
    assert_int_equal(map_from_cri("labels", entries, 1, &r.unified, NULL), -EINVAL);
    assert_null(r.unified.items);
}

static void signals_map_both_ways(void **state)
{
    assert_int_equal(signal_from_cri(RUNTIME__V1__SIGNAL__SIGNAL_RUNTIME_DEFAULT), 0);
    assert_int_equal(signal_from_cri(RUNTIME__V1__SIGNAL__SIGNAL_SIGTERM), 15);
    assert_int_equal(signal_from_cri(RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMINPLUS1), 35);
    assert_int_equal(signal_from_cri(RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMAX), 64);
    assert_int_equal(signal_from_cri(66), -EINVAL);
    assert_int_equal(signal_from_cri(-1), -EINVAL);
    for (int i = 1; i <= 65; i++) { /* every name of the interface is known */
        int signal = signal_from_cri(i);
        assert_true(signal > 0 && signal <= 64);
        assert_int_equal(signal_from_cri(signal_to_cri(signal)), signal);
    }
    assert_int_equal(signal_to_cri(0), 0);
    assert_int_equal(signal_to_cri(32), 0);
}

static void seccomp_profiles_have_two_ways_to_be_asked_for(void **state)
{
    static const struct {
        int type;         /* -1: no message, the path counts */
        const char *path; /* or localhost_ref */
        int r;
        int32_t mode;
        const char *want;
    } rows[] = {
        {-1, "", 0, SECCOMP_UNCONFINED, NULL},
        {-1, "unconfined", 0, SECCOMP_UNCONFINED, NULL},
        {-1, "runtime/default", 0, SECCOMP_DEFAULT, NULL},
        {-1, "docker/default", 0, SECCOMP_DEFAULT, NULL},
        {-1, "localhost//a/b.json", 0, SECCOMP_LOCALHOST, "/a/b.json"},
        {-1, "localhost/b.json", -EINVAL, 0, NULL},
        {-1, "other", -EINVAL, 0, NULL},
        {0, "", 0, SECCOMP_DEFAULT, NULL},
        {1, "", 0, SECCOMP_UNCONFINED, NULL},
        {2, "/a", 0, SECCOMP_LOCALHOST, "/a"},
        {2, "localhost//a", 0, SECCOMP_LOCALHOST, "/a"},
        {2, "", -EINVAL, 0, NULL},
        {2, "a", -EINVAL, 0, NULL},
        {2, "/a/../b", -EINVAL, 0, NULL},
        {3, "", -EINVAL, 0, NULL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        Runtime__V1__SecurityProfile m = RUNTIME__V1__SECURITY_PROFILE__INIT;
        _cleanup_(freep) char *path = NULL;
        int32_t mode = -1;
        int r;

        m.profile_type = (Runtime__V1__SecurityProfile__ProfileType)rows[i].type;
        m.localhost_ref = (char *)(uintptr_t)rows[i].path;
        print_message("# %d %s\n", rows[i].type, rows[i].path);
        r = seccomp_from_cri(rows[i].type < 0 ? NULL : &m, rows[i].type < 0 ? rows[i].path : "x",
                             &mode, &path, NULL);
        assert_int_equal(r, rows[i].r);
        if (r < 0)
            continue;
        assert_int_equal(mode, rows[i].mode);
        assert_true(str_equal(path, rows[i].want));
    }
}

static void only_an_unconfined_apparmor_profile_is_taken(void **state)
{
    Runtime__V1__SecurityProfile m = RUNTIME__V1__SECURITY_PROFILE__INIT;
    _cleanup_(error_freep) struct error *err = NULL;

    assert_int_equal(apparmor_check(NULL, "", NULL), 0);
    assert_int_equal(apparmor_check(NULL, "unconfined", NULL), 0);
    assert_int_equal(apparmor_check(NULL, "runtime/default", NULL), -EOPNOTSUPP);
    assert_int_equal(apparmor_check(NULL, "localhost/p", NULL), -EOPNOTSUPP);
    assert_int_equal(apparmor_check(&m, "", &err), -EOPNOTSUPP);
    assert_non_null(strstr(err->message, "runtime/default: AppArmor is not supported"));
    m.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
    assert_int_equal(apparmor_check(&m, "localhost/p", NULL), 0);
    m.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
    assert_int_equal(apparmor_check(&m, "", NULL), -EOPNOTSUPP);
}

static void fill(char *out, size_t n)
{
    memset(out, 'x', n);
    out[n] = '\0';
}

static void fields_hold_at_their_limits(void **state)
{
    static char text[8192];
    static const struct {
        const char *path;
        int absolute, relative;
    } paths[] = {
        {"/a/b", 0, -EINVAL},     {"a/b", -EINVAL, 0},         {"/", 0, -EINVAL},
        {"", -EINVAL, -EINVAL},   {"/a/..", -EINVAL, -EINVAL}, {"../a", -EINVAL, -EINVAL},
        {"..", -EINVAL, -EINVAL}, {"/a/..b", 0, -EINVAL},      {"a..b/c", -EINVAL, 0},
        {"a/", -EINVAL, -EINVAL}, {"/a\n", -EINVAL, -EINVAL},  {"./a", -EINVAL, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        print_message("# %s\n", paths[i].path);
        assert_int_equal(check_absolute_path("x", paths[i].path, NULL), paths[i].absolute);
        assert_int_equal(check_relative_path("x", paths[i].path, NULL), paths[i].relative);
    }
    fill(text, LIMIT_NAME_MAX);
    assert_int_equal(check_name("x", text, LIMIT_NAME_MAX, NULL), 0);
    fill(text, LIMIT_NAME_MAX + 1);
    assert_int_equal(check_name("x", text, LIMIT_NAME_MAX, NULL), -EINVAL);
    fill(text, LIMIT_HOSTNAME_MAX);
    assert_int_equal(check_hostname("x", text, NULL), 0);
    fill(text, LIMIT_HOSTNAME_MAX + 1);
    assert_int_equal(check_hostname("x", text, NULL), -EINVAL);
    fill(text, 4095);
    text[0] = '/';
    assert_int_equal(check_absolute_path("x", text, NULL), 0);
    fill(text, 4096);
    text[0] = '/';
    assert_int_equal(check_absolute_path("x", text, NULL), -EINVAL);
    assert_int_equal(check_ip("x", "10.0.0.1", NULL), 0);
    assert_int_equal(check_ip("x", "::1", NULL), 0);
    assert_int_equal(check_ip("x", "10.0.0.1 ", NULL), -EINVAL);
    assert_int_equal(check_ip("x", "", NULL), -EINVAL);
    assert_int_equal(check_sysctl_name("net.ipv4.ip_forward", NULL), 0);
    assert_int_equal(check_sysctl_name("net/ipv4/x", NULL), 0);
    assert_int_equal(check_sysctl_name("a..b", NULL), -EINVAL);
    assert_int_equal(check_sysctl_name("a+b", NULL), -EINVAL);
    assert_int_equal(check_sysctl_namespaced("net.core.somaxconn", NULL), 0);
    assert_int_equal(check_sysctl_namespaced("kernel.shm_rmid_forced", NULL), 0);
    assert_int_equal(check_sysctl_namespaced("kernel.sem", NULL), 0);
    assert_int_equal(check_sysctl_namespaced("fs.mqueue.msg_max", NULL), 0);
    assert_int_equal(check_sysctl_namespaced("kernel.panic", NULL), -EINVAL);
    assert_int_equal(check_sysctl_namespaced("vm.swappiness", NULL), -EINVAL);
    assert_int_equal(check_sysctl_namespaced("kernel.semx", NULL), -EINVAL);
    assert_int_equal(check_cpu_list("x", "0-3,5", NULL), 0);
    assert_int_equal(check_cpu_list("x", "0;1", NULL), -EINVAL);
    assert_int_equal(check_word("x", "a b", 10, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sandbox_is_told_back),
        cmocka_unit_test(who_a_container_runs_as_is_told_once_known),
        cmocka_unit_test(full_arena_is_a_clean_no),
        cmocka_unit_test(map_keys_are_unique_and_bounded),
        cmocka_unit_test(signals_map_both_ways),
        cmocka_unit_test(seccomp_profiles_have_two_ways_to_be_asked_for),
        cmocka_unit_test(only_an_unconfined_apparmor_profile_is_taken),
        cmocka_unit_test(fields_hold_at_their_limits),
    };
    return cmocka_run_group_tests_name("convert", tests, NULL, NULL) != 0;
}
