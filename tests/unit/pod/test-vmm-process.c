/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-process: nothing is executed before its identity is recorded, exactly the given descriptors are
 * inherited, a reused pid and another boot are told apart. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/str.h"
#include "lib/test.h"
#include "pod/vmm-process.h"

static const char boot[] = "11111111-2222-4333-8444-555555555555";
static char dir[64];
static int dirfd_;

static int set_up(void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/nexus-process-XXXXXX");
    assert_non_null(mkdtemp(dir));
    dirfd_ = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dirfd_ < 0;
}

static int tear_down(void **state)
{
    (void)unlinkat(dirfd_, "out", 0);
    (void)unlinkat(dirfd_, "x.pid", 0);
    (void)close(dirfd_);
    return rmdir(dir);
}

static void wait_end(const struct vmm_process *p)
{
    struct pollfd f = {.fd = p->pidfd, .events = POLLIN};

    assert_int_equal(poll(&f, 1, 20000), 1);
}

/* A shell that writes what it was given into descriptor 3. */
static int spawn_shell(const char *script, struct vmm_process *p, int *go)
{
    char *args[] = {(char *)(uintptr_t) "-c", (char *)(uintptr_t)script, NULL};
    int out = openat(dirfd_, "out", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int extra = dup(out); /* without close-on-exec, and not in the list */
    struct vmm_fd fds[] = {{NULL, out}, {"--absent", -1}, {NULL, out}};
    const struct vmm_spawn s = {.path = "/bin/sh",
                                .args = args,
                                .fds = fds,
                                .n_fds = ARRAY_SIZE(fds),
                                .cgroup_fd = -1,
                                .log_level = "debug"};
    int r = vmm_spawn(&s, p, go, NULL);

    (void)close(out);
    (void)close(extra);
    return r;
}

static char *output(void)
{
    char *text = NULL;

    assert_int_equal(file_read_all(dirfd_, "out", 65536, &text, NULL), 0);
    return text;
}

static void inherits_exactly_what_it_is_given(void **state)
{
    struct vmm_process p = VMM_PROCESS_NONE;
    _cleanup_(freep) char *text = NULL;
    int go = -1, status = -1;

    assert_int_equal(spawn_shell("exec >&3; ls /proc/$$/fd; env; exit 7", &p, &go), 0);
    assert_int_equal(vmm_process_reap(&p, &status), -EAGAIN);
    assert_int_equal(vmm_spawn_go(go), 0);
    (void)close(go);
    wait_end(&p);
    assert_int_equal(vmm_process_reap(&p, &status), 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    text = output();
    if (!str_starts(text, "0\n1\n2\n3\n4\n"))
        print_error("%s\n", text);
    assert_true(str_starts(text, "0\n1\n2\n3\n4\n"));
    for (char digit = '5'; digit <= '9'; digit++) {
        char line[] = {'\n', digit, '\n', '\0'};
        assert_null(strstr(text, line));
    }
    assert_non_null(strstr(text, "NEXUS_LOG=debug"));
    assert_null(strstr(text, "HOME="));
    vmm_process_close(&p);
}

static void without_a_go_it_never_executes(void **state)
{
    struct vmm_process p = VMM_PROCESS_NONE;
    _cleanup_(freep) char *text = NULL;
    int go = -1, status = -1;

    assert_int_equal(spawn_shell("echo ran >&3", &p, &go), 0);
    (void)close(go); /* as our death would */
    wait_end(&p);
    assert_int_equal(vmm_process_reap(&p, &status), 0);
    assert_int_equal(status, 0);
    text = output();
    assert_string_equal(text, "");
    vmm_process_close(&p);
}

static void a_signal_is_told_as_one(void **state)
{
    struct vmm_process p = VMM_PROCESS_NONE;
    int go = -1, status = -1;

    assert_int_equal(spawn_shell("sleep 100", &p, &go), 0);
    assert_int_equal(vmm_spawn_go(go), 0);
    (void)close(go);
    assert_int_equal(vmm_process_kill(&p), 0);
    wait_end(&p);
    assert_int_equal(vmm_process_reap(&p, &status), 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(vmm_process_kill(&p), 0); /* gone is fine */
    vmm_process_close(&p);
}

static void missing_program_is_told_before_anything(void **state)
{
    struct vmm_process p = VMM_PROCESS_NONE;
    const struct vmm_spawn s = {.path = "/no/such/program", .cgroup_fd = -1};
    _cleanup_(error_freep) struct error *err = NULL;
    int go = -1;

    assert_int_equal(vmm_spawn(&s, &p, &go, &err), -ENOENT);
    assert_non_null(strstr(err->message, "/no/such/program"));
}

static void identity_is_pid_start_and_boot(void **state)
{
    struct vmm_process me = VMM_PROCESS_NONE, found = VMM_PROCESS_NONE;
    static const struct {
        const char *text;
        int r;
    } rows[] = {
        {"", -EBADMSG},
        {"{}", -EBADMSG},
        {"[1]", -EBADMSG},
        {"{\"pid\": 0, \"start_ticks\": 1, \"boot_id\": \"x\"}", -EBADMSG},
        {"{\"pid\": -5, \"start_ticks\": 1, \"boot_id\": \"x\"}", -EBADMSG},
        {"{\"pid\": 99999999999, \"start_ticks\": 1, \"boot_id\": \"x\"}", -EBADMSG},
        {"{\"pid\": \"1\", \"start_ticks\": 1, \"boot_id\": \"x\"}", -EBADMSG},
    };
    int go = -1, status;

    assert_int_equal(vmm_process_load(dirfd_, "x.pid", boot, &found, NULL), -ENOENT);
    assert_int_equal(spawn_shell("sleep 100", &me, &go), 0);
    assert_int_equal(vmm_process_save(dirfd_, "x.pid", &me, boot, NULL), 0);
    assert_int_equal(vmm_process_load(dirfd_, "x.pid", boot, &found, NULL), 0);
    assert_int_equal(found.pid, me.pid);
    vmm_process_close(&found);
    assert_int_equal(
        vmm_process_load(dirfd_, "x.pid", "99999999-2222-4333-8444-555555555555", &found, NULL),
        -ESRCH);
    me.start_ticks++; /* the pid came back with another process */
    assert_int_equal(vmm_process_save(dirfd_, "x.pid", &me, boot, NULL), 0);
    assert_int_equal(vmm_process_load(dirfd_, "x.pid", boot, &found, NULL), -ESRCH);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(
            file_write_atomic(dirfd_, "x.pid", rows[i].text, strlen(rows[i].text), 0600, false), 0);
        assert_int_equal(vmm_process_load(dirfd_, "x.pid", boot, &found, NULL), rows[i].r);
    }
    (void)close(go);
    wait_end(&me);
    (void)vmm_process_reap(&me, &status);
    vmm_process_close(&me);
}

static void boot_id_is_checked(void **state)
{
    char id[BOOT_ID_SIZE];

    assert_int_equal(boot_id_read("/proc/sys/kernel/random/boot_id", id, NULL), 0);
    assert_int_equal(strlen(id), 36);
    assert_int_equal(boot_id_read("/proc/version", id, NULL), -EINVAL);
    assert_int_equal(boot_id_read("/nonexistent", id, NULL), -ENOENT);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(inherits_exactly_what_it_is_given), T(without_a_go_it_never_executes),
        T(a_signal_is_told_as_one),           T(missing_program_is_told_before_anything),
        T(identity_is_pid_start_and_boot),    T(boot_id_is_checked),
    };
    return cmocka_run_group_tests_name("vmm-process", tests, NULL, NULL) != 0;
}
