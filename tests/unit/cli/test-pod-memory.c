/* SPDX-License-Identifier: Apache-2.0 */
/* cli: a pod's memory out of smaps: what is RAM, what is a region, what is the monitor's. */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/pod-memory.h"
#include "lib/test.h"

/* As Linux 6.1 writes it, shortened to some of its fields. */
static const char *const lines[] = {
    "5580aaaa0000-5580aaab0000 r-xp 00001000 fd:00 1234                       "
    "/usr/libexec/nexus-vmm\n",
    "Size:                 64 kB\n",
    "Rss:                  60 kB\n",
    "Pss:                  30 kB\n",
    "Shared_Clean:         56 kB\n",
    "Private_Clean:         4 kB\n",
    "Private_Dirty:         0 kB\n",
    "7f0000000000-7f0010000000 rw-s 00000000 00:01 1043                       /memfd:nexus-ram "
    "(deleted)\n",
    "Size:             262144 kB\n",
    "Rss:               70000 kB\n",
    "Pss:               70000 kB\n",
    "Pss_Dirty:         70000 kB\n",
    "Private_Dirty:     70000 kB\n",
    "VmFlags: rd wr sh mr mw me ms sd\n",
    "7f0020000000-7f0020400000 r--s 00000000 fd:00 99                         "
    "/var/lib/nexus/images/layers/aa.2.data\n",
    "Size:               4096 kB\n",
    "Rss:                2000 kB\n",
    "Pss:                1000 kB\n",
    "Private_Clean:       500 kB\n",
    "7f0030000000-7f0030001000 r--s 00000000 00:01 77                         /memfd:volume "
    "(deleted)\n",
    "Size:                  4 kB\n",
    "Rss:                   4 kB\n",
    "Pss:                   4 kB\n",
    "7f0040000000-7f0040010000 rw-p 00000000 00:00 0\n", /* no name */
    "Private_Clean:         0 kB\n",
    "Private_Dirty:        36 kB\n",
    "7f0050000000-7f0050003000 rw-s 00000000 00:0e 14                         "
    "anon_inode:kvm-vcpu:0\n",
    "Private_Dirty:         8 kB\n",
    "7f0060000000-7f0060003000 rw-s 00000000 00:01 15                         /memfd:other "
    "(deleted)\n",
    "Private_Dirty:        12 kB\n",
};

static void each_mapping_counts_where_it_belongs(void **state)
{
    struct smaps_reader r = {0};

    for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
        smaps_line(&r, lines[i]);
    assert_int_equal(r.sum.guest_rss, 70000 << 10);
    assert_int_equal(r.sum.vmm_private, (4 + 36 + 8 + 12) << 10);
    assert_int_equal(r.sum.region_mapped, 4100 << 10);
    assert_int_equal(r.sum.region_resident, 2004 << 10);
    assert_int_equal(r.sum.region_share, 1004 << 10);
    assert_int_equal(pod_memory_total(&r.sum), (70000 + 60 + 1004) << 10);
}

static void odd_lines_count_for_nothing(void **state)
{
    static const char *const odd[] = {"",    "\n",   "7f00-7f01", "7f00-7f01 r--s",
                                      "Rss", "Rss:", "Rss: x kB"};
    struct smaps_reader r = {0};

    for (size_t i = 0; i < ARRAY_SIZE(odd); i++)
        smaps_line(&r, odd[i]);
    assert_int_equal(pod_memory_total(&r.sum), 0);
}

static void own_process_is_read_and_another_is_not(void **state)
{
    struct pod_memory m = {0};
    _cleanup_(error_freep) struct error *err = NULL;

    /* the first word of our own command line */
    assert_int_equal(pod_memory_read(getpid(), program_invocation_name, &m, &err), 0);
    assert_true(m.vmm_private > 0);
    assert_int_equal(m.guest_rss, 0);
    assert_int_equal(pod_memory_read(getpid(), "no-such-sandbox", &m, NULL), -ESRCH);
    assert_int_equal(pod_memory_read(INT32_MAX, "x", &m, NULL), -ESRCH);
}

/* A program of that name, with a child of the same: both count. Another program does not. */
static void virtiofsd_counts_with_its_children(void **state)
{
    struct pod_memory one = {0}, both = {0};
    int ready[2], end[2];
    char word;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(end), 0);
    pid = fork();
    if (pid == 0) {
        (void)dup2(end[0], STDIN_FILENO);
        (void)dup2(ready[1], STDOUT_FILENO);
        for (int i = 0; i < 2; i++) {
            (void)close(ready[i]);
            (void)close(end[i]);
        }
        (void)execl("/bin/bash", "virtiofsd", "-c",
                    "(echo; read) <&0 & exec 3<&0; echo; read <&3; wait", NULL);
        _exit(1);
    }
    (void)close(ready[1]);
    (void)close(end[0]);
    for (int i = 0; i < 2; i++)
        assert_int_equal(read(ready[0], &word, 1), 1);
    assert_int_equal(pod_memory_add_virtiofsd(pid, &both, NULL), 0);
    assert_int_equal(pod_memory_read(pid, "virtiofsd", &one, NULL), 0);
    assert_true(one.vmm_private > 0);
    assert_true(both.virtiofsd > one.vmm_private);
    assert_int_equal(pod_memory_total(&both), both.virtiofsd);
    (void)close(end[1]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    both = (struct pod_memory){0};
    assert_int_equal(pod_memory_add_virtiofsd(pid, &both, NULL), 0);
    assert_int_equal(pod_memory_add_virtiofsd(getpid(), &both, NULL), 0);
    assert_int_equal(both.virtiofsd, 0);
    (void)close(ready[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_mapping_counts_where_it_belongs),
        cmocka_unit_test(odd_lines_count_for_nothing),
        cmocka_unit_test(own_process_is_read_and_another_is_not),
        cmocka_unit_test(virtiofsd_counts_with_its_children),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
