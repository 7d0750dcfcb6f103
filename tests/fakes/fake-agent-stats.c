/* SPDX-License-Identifier: Apache-2.0 */
/* GetStats of the fake agent: half a CPU since the beginning, 10 MiB, of which 2 MiB are inactive files; or what
 * the script's "stats=" says. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "fakes/fake-agent-internal.h"

static size_t usual(char *out, size_t size)
{
    return (size_t)snprintf(
        out, size,
        "#cpu.stat\nusage_usec %llu\nuser_usec 3000000\nsystem_usec 1000000\nnr_periods 4\n"
        "nr_throttled 1\nthrottled_usec 2000000\n#memory.current\n10485760\n#memory.peak\n"
        "20971520\n#memory.stat\nanon 7340032\nfile 3145728\nkernel 4096\nfile_mapped 8192\n"
        "inactive_file 2097152\npgfault 100\npgmajfault 5\n#memory.events\nmax 3\noom_kill 0\n"
        "#pids.current\n3\n#pids.max\nmax\n#io.stat\n254:0 rbytes=4096 wbytes=8192 rios=1 wios=2\n"
        "#disk\nbytes 40960\ninodes 5\nlimit 1000000\nall_inodes 1000\nfree_inodes 995\n"
        "#files\nprocesses 2\nall 9\nsockets 1\n",
        (unsigned long long)(clock_mono_ns() / 2000));
}

size_t fake_agent_stats(struct fake_agent *a, char *out, size_t size)
{
    static const char overflow[] =
        "#cpu.stat\nusage_usec 18446744073709551615\n#memory.current\n18446744073709551615\n"
        "#memory.stat\ninactive_file 18446744073709551615\nanon 18446744073709551615\n"
        "pgfault 18446744073709551615\n#pids.current\n18446744073709551615\n"
        "#disk\nbytes 18446744073709551615\ninodes 18446744073709551615\n";
    static const char garbage[] = "#cpu.stat\nusage_usec -1\nuser_usec 99999999999999999999\n"
                                  "\xff\xfe%s%n\n#memory.current\nlots\n#memory.stat\nanon\n";
    const struct fake_rule *rule = fake_script_setting(&a->script, "stats");

    if (!rule)
        return usual(out, size);
    if (strcmp(rule->kind, "overflow") == 0)
        return (size_t)snprintf(out, size, "%s", overflow);
    if (strcmp(rule->kind, "garbage") == 0)
        return (size_t)snprintf(out, size, "%s", garbage);
    if (strcmp(rule->kind, "backwards") == 0)
        return (size_t)snprintf(out, size, "#cpu.stat\nusage_usec %llu\n",
                                (unsigned long long)(1ULL << 50) -
                                    (unsigned long long)(clock_mono_ns() / 1000));
    memset(out, 'x', size); /* noise */
    return size;
}
