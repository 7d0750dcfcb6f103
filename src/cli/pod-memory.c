/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/pod-memory.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"

#define GUEST_MEMORY "/memfd:nexus-ram"
#define PROC_BYTES (64U << 10)

uint64_t pod_memory_total(const struct pod_memory *m)
{
    return m->guest_rss + m->vmm_private + m->virtiofsd + m->region_share;
}

void pod_memory_add(struct pod_memory *sum, const struct pod_memory *m)
{
    sum->guest_rss += m->guest_rss;
    sum->vmm_private += m->vmm_private;
    sum->virtiofsd += m->virtiofsd;
    sum->region_mapped += m->region_mapped;
    sum->region_resident += m->region_resident;
    sum->region_share += m->region_share;
}

/* ---- smaps */

/* "7f12-7f34 rw-s 00000000 00:01 1043 /memfd:nexus-ram (deleted)": RAM is the memfd of that name, regions are
 * the only files that are mapped shared and never writable. */
static void begin_mapping(struct smaps_reader *r, const char *line)
{
    const char *permissions = strchr(line, ' ');
    const char *name = strchr(line, '/');

    r->kind = SMAPS_OTHER;
    if (!permissions || !name)
        return;
    permissions++;
    if (str_starts(permissions, "rw-s ") && str_starts(name, GUEST_MEMORY))
        r->kind = SMAPS_GUEST;
    else if (str_starts(permissions, "r--s "))
        r->kind = SMAPS_REGION;
}

/* "Rss:                1024 kB" in bytes; 0 if it is another field. */
static uint64_t field(const char *line, const char *name)
{
    size_t n = strlen(name);

    if (strncmp(line, name, n) != 0 || line[n] != ':')
        return 0;
    return (uint64_t)strtoull(line + n + 1, NULL, 10) * 1024;
}

void smaps_line(struct smaps_reader *r, const char *line)
{
    struct pod_memory *sum = &r->sum;

    if (isdigit((unsigned char)line[0]) || islower((unsigned char)line[0])) {
        begin_mapping(r, line);
        return;
    }
    switch (r->kind) {
    case SMAPS_GUEST:
        sum->guest_rss += field(line, "Rss");
        break;
    case SMAPS_REGION:
        sum->region_mapped += field(line, "Size");
        sum->region_resident += field(line, "Rss");
        sum->region_share += field(line, "Pss");
        break;
    case SMAPS_OTHER:
    default:
        sum->vmm_private += field(line, "Private_Clean") + field(line, "Private_Dirty");
        break;
    }
}

/* ---- processes */

/* A small file of /proc/<pid>, NUL-terminated. -ESRCH: the process has ended. */
static int read_proc(pid_t pid, const char *name, char **ret, size_t *ret_len, struct error **err)
{
    _cleanup_(freep) char *path = str_printf("/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r = fd < 0 ? -errno : fd_read_all(fd, PROC_BYTES, ret, ret_len);

    (void)close_fd(fd);
    if (r == -ENOENT)
        r = -ESRCH;
    return r < 0 ? error_set(err, r, "process %d: %s", (int)pid, strerror(-r)) : 0;
}

/* Is it that process? A pid may be another's by now. sandbox_id: one of its words; NULL: it is a virtiofsd. */
static int check_process(pid_t pid, const char *sandbox_id, struct error **err)
{
    _cleanup_(freep) char *text = NULL;
    size_t len = 0;
    int r = read_proc(pid, "cmdline", &text, &len, err);

    if (r < 0)
        return r;
    if (!sandbox_id && len > 0 && str_ends(text, "virtiofsd"))
        return 0;
    for (size_t at = 0; sandbox_id && at < len; at += strlen(text + at) + 1)
        if (strcmp(text + at, sandbox_id) == 0)
            return 0;
    return error_set(err, -ESRCH, "process %d is not the pod's any more", (int)pid);
}

static int read_smaps(pid_t pid, struct pod_memory *ret, struct error **err)
{
    _cleanup_(freep) char *path = str_printf("/proc/%d/smaps", (int)pid);
    _cleanup_(freep) char *line = NULL;
    struct smaps_reader reader = {0};
    size_t room = 0;
    FILE *f = fopen(path, "re");
    int r;

    if (!f) {
        r = errno == ENOENT ? -ESRCH : -errno;
        return error_set(err, r, "process %d: %s", (int)pid, strerror(-r));
    }
    while (getline(&line, &room, f) >= 0)
        smaps_line(&reader, line);
    r = ferror(f) ? error_set(err, -EIO, "process %d: its memory cannot be read", (int)pid) : 0;
    (void)fclose(f);
    *ret = reader.sum;
    return r;
}

int pod_memory_read(pid_t pid, const char *sandbox_id, struct pod_memory *ret, struct error **err)
{
    int r = check_process(pid, sandbox_id, err);

    return r < 0 ? r : read_smaps(pid, ret, err);
}

/* ---- virtiofsd */

/* What one process has for itself; the guest's RAM that it maps is counted already. */
static int add_process(pid_t pid, struct pod_memory *m, struct error **err)
{
    struct pod_memory own = {0};
    int r = check_process(pid, NULL, err);

    if (r == 0)
        r = read_smaps(pid, &own, err);
    m->virtiofsd += own.vmm_private;
    return r;
}

int pod_memory_add_virtiofsd(pid_t pid, struct pod_memory *m, struct error **err)
{
    _cleanup_(freep) char *children = NULL;
    _cleanup_(freep) char *name = str_printf("task/%d/children", (int)pid);
    _cleanup_(error_freep) struct error *why = NULL;
    size_t len = 0;
    int r = add_process(pid, m, &why);

    if (r == 0)
        r = read_proc(pid, name, &children, &len, &why);
    for (char *at = children; r == 0 && at && *at; at += *at == ' ')
        r = add_process((pid_t)strtol(at, &at, 10), m, &why);
    if (r == -ESRCH) /* ended meanwhile */
        return 0;
    return r < 0 ? error_set(err, r, "%s", error_text(why, r)) : 0;
}
