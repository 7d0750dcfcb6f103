/* SPDX-License-Identifier: Apache-2.0 */
/* A table says which word of which file is which number; start there. */
#include "vmm/guest-stats.h"

#include <stdbool.h>
#include <string.h>

#include "base/checked.h"
#include "base/numparse.h"

#define LINE_MAX_BYTES 256

#define KIND(name) NEXUS__CGROUP_STATS__KIND__##name

/* key "": a file that holds one number. */
static const struct {
    const char *file, *key;
    unsigned kind;
} words[] = {
    {"cpu.stat", "usage_usec", KIND(CPU_US)},
    {"cpu.stat", "user_usec", KIND(CPU_USER_US)},
    {"cpu.stat", "system_usec", KIND(CPU_SYSTEM_US)},
    {"cpu.stat", "nr_periods", KIND(CPU_PERIODS)},
    {"cpu.stat", "nr_throttled", KIND(CPU_THROTTLED_PERIODS)},
    {"cpu.stat", "throttled_usec", KIND(CPU_THROTTLED_US)},
    {"memory.current", "", KIND(MEMORY)},
    {"memory.peak", "", KIND(MEMORY_PEAK)},
    {"memory.stat", "anon", KIND(MEMORY_ANON)},
    {"memory.stat", "file", KIND(MEMORY_FILE)},
    {"memory.stat", "kernel", KIND(MEMORY_KERNEL)},
    {"memory.stat", "file_mapped", KIND(MEMORY_FILE_MAPPED)},
    {"memory.stat", "inactive_file", KIND(MEMORY_INACTIVE_FILE)},
    {"memory.stat", "pgfault", KIND(PAGE_FAULTS)},
    {"memory.stat", "pgmajfault", KIND(MAJOR_PAGE_FAULTS)},
    {"memory.events", "max", KIND(MEMORY_LIMIT_HITS)},
    {"memory.events", "oom_kill", KIND(OOM_KILLS)},
    {"memory.swap.current", "", KIND(SWAP)},
    {"pids.current", "", KIND(TASKS)},
    {"pids.max", "", KIND(TASKS_MAX)},
    {"disk", "bytes", KIND(DISK_BYTES)},
    {"disk", "inodes", KIND(DISK_INODES)},
    {"disk", "limit", KIND(DISK_LIMIT_BYTES)},
    {"disk", "all_inodes", KIND(DISK_ALL_INODES)},
    {"disk", "free_inodes", KIND(DISK_FREE_INODES)},
    {"files", "processes", KIND(PROCESSES)},
    {"files", "all", KIND(OPEN_FILES)},
    {"files", "sockets", KIND(OPEN_SOCKETS)},
};

/* io.stat: "MAJ:MIN rbytes=1 wbytes=2 …", a line for each device; their sum. */
static const struct {
    const char *key;
    unsigned kind;
} io_words[] = {
    {"rbytes=", KIND(IO_READ_BYTES)},
    {"wbytes=", KIND(IO_WRITE_BYTES)},
    {"rios=", KIND(IO_READS)},
    {"wios=", KIND(IO_WRITES)},
};

static void set(struct guest_stats *s, unsigned kind, const char *text)
{
    uint64_t bit = UINT64_C(1) << kind, v;

    if ((s->known & bit) || parse_u64(text, UINT64_MAX, &v) < 0)
        return;
    s->values[kind] = v;
    s->known |= bit;
}

static void add(struct guest_stats *s, unsigned kind, const char *text)
{
    uint64_t v;

    if (parse_u64(text, UINT64_MAX, &v) < 0 || !checked_add(s->values[kind], v, &v))
        return;
    s->values[kind] = v;
    s->known |= UINT64_C(1) << kind;
}

static void read_io(struct guest_stats *s, char *line)
{
    char *save = NULL;

    for (char *w = strtok_r(line, " ", &save); w; w = strtok_r(NULL, " ", &save))
        for (size_t i = 0; i < sizeof(io_words) / sizeof(io_words[0]); i++)
            if (strncmp(w, io_words[i].key, strlen(io_words[i].key)) == 0)
                add(s, io_words[i].kind, w + strlen(io_words[i].key));
}

static void read_line(struct guest_stats *s, const char *file, char *line)
{
    char *space = strchr(line, ' ');

    if (strcmp(file, "io.stat") == 0) {
        read_io(s, line);
        return;
    }
    if (space)
        *space = '\0';
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(words[i].file, file) != 0)
            continue;
        if (!words[i].key[0] && !space)
            set(s, words[i].kind, line);
        else if (space && strcmp(words[i].key, line) == 0)
            set(s, words[i].kind, space + 1);
    }
}

void guest_stats_parse(const char *text, size_t len, struct guest_stats *ret)
{
    char file[LINE_MAX_BYTES] = "", line[LINE_MAX_BYTES];

    *ret = (struct guest_stats){0};
    for (const char *at = text, *end = text + len; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at);

        if (n < sizeof(line) && !memchr(at, '\0', n)) {
            memcpy(line, at, n);
            line[n] = '\0';
            if (line[0] == '#')
                memcpy(file, line + 1, n); /* its end, too */
            else
                read_line(ret, file, line);
        }
        at += n + 1;
    }
}
