/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>

#include "lib/test.h"
#include "vmm/guest-stats.h"

#define KIND(name) NEXUS__CGROUP_STATS__KIND__##name

static struct guest_stats parse(const char *text)
{
    struct guest_stats s;

    guest_stats_parse(text, strlen(text), &s);
    return s;
}

static bool has(const struct guest_stats *s, unsigned kind, uint64_t value)
{
    return (s->known >> kind & 1) && s->values[kind] == value;
}

static void reads_what_the_kernel_writes(void **state)
{
    struct guest_stats s = parse("#cpu.stat\nusage_usec 4000001\nuser_usec 3\nsystem_usec 1\n"
                                 "core_sched.force_idle_usec 0\nnr_periods 7\nnr_throttled 2\n"
                                 "throttled_usec 90\n#memory.current\n8192\n#memory.stat\n"
                                 "anon 4096\nfile 100\nfile_mapped 50\ninactive_file 20\n"
                                 "inactive_anon 9\npgfault 5\npgmajfault 1\n#pids.max\nmax\n"
                                 "#io.stat\n254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0\n"
                                 "254:16 rbytes=5 wbytes=6 rios=1 wios=1\n#disk\nbytes 40960\n"
                                 "inodes 3\n#files\nprocesses 2\nall 9\nsockets 1\n");

    assert_true(has(&s, KIND(CPU_US), 4000001));
    assert_true(has(&s, KIND(CPU_THROTTLED_US), 90));
    assert_true(has(&s, KIND(MEMORY), 8192));
    assert_true(has(&s, KIND(MEMORY_ANON), 4096));
    assert_true(has(&s, KIND(MEMORY_FILE), 100));
    assert_true(has(&s, KIND(MEMORY_FILE_MAPPED), 50));
    assert_true(has(&s, KIND(MEMORY_INACTIVE_FILE), 20));
    assert_true(has(&s, KIND(MAJOR_PAGE_FAULTS), 1));
    assert_true(has(&s, KIND(IO_READ_BYTES), 15));
    assert_true(has(&s, KIND(IO_WRITES), 3));
    assert_true(has(&s, KIND(DISK_BYTES), 40960));
    assert_true(has(&s, KIND(DISK_INODES), 3));
    assert_true(has(&s, KIND(OPEN_SOCKETS), 1));
    assert_false(s.known >> KIND(TASKS_MAX) & 1);
    assert_false(s.known >> KIND(SWAP) & 1);
}

/* Nothing of it is a number, or it is not where it belongs. */
static void skips_garbage(void **state)
{
    static const char *const rows[] = {
        "",
        "#",
        "\n\n\n",
        "usage_usec 5\n",
        "#cpu.stat",
        "#cpu.stat\nusage_usec",
        "#cpu.stat\nusage_usec \n",
        "#cpu.stat\nusage_usec -1\n",
        "#cpu.stat\nusage_usec 18446744073709551616\n",
        "#cpu.stat\nusage_usec 1e9\n",
        "#cpu.stat\nusage_usec 0x10\n",
        "#cpu.stat\nusage_usec 1 2\n",
        "#cpu.stat\n5\n",
        "#memory.current\nx\n",
        "#memory.current\n1 2\n",
        "#memory.stat\nusage_usec 5\n",
        "#io.stat\nrbytes=-1 wbytes= rios=x wios\n",
        "#../cpu.stat\nusage_usec 5\n",
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(parse(rows[i]).known, 0);
}

static void takes_the_first_of_two_and_the_largest_there_is(void **state)
{
    struct guest_stats s = parse("#cpu.stat\nusage_usec 18446744073709551615\nusage_usec 5\n"
                                 "#io.stat\n1:1 rbytes=18446744073709551615\n1:2 rbytes=1\n");

    assert_true(has(&s, KIND(CPU_US), UINT64_MAX));
    assert_true(has(&s, KIND(IO_READ_BYTES), UINT64_MAX)); /* a sum that wraps is not made */
}

static void survives_long_lines_and_nul_bytes(void **state)
{
    static char text[20000];
    struct guest_stats s;

    memset(text, 'x', sizeof(text));
    memcpy(text, "#cpu.stat\n", 10);
    guest_stats_parse(text, sizeof(text), &s);
    assert_int_equal(s.known, 0);
    memcpy(text + 15000, "\nusage_usec 7\n", 14);
    guest_stats_parse(text, sizeof(text), &s);
    assert_true(has(&s, KIND(CPU_US), 7));
    guest_stats_parse("#cpu.stat\nusage\0usec 7\n\0\0", 25, &s);
    assert_int_equal(s.known, 0);
    guest_stats_parse(NULL, 0, &s);
    assert_int_equal(s.known, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_the_kernel_writes),
        cmocka_unit_test(skips_garbage),
        cmocka_unit_test(takes_the_first_of_two_and_the_largest_there_is),
        cmocka_unit_test(survives_long_lines_and_nul_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
