/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-vmm as a process: started, found again after our own death, watched and killed. Its identity
 * is pid + start time + boot id, kept in a small file; a reused pid is never mistaken for it. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define BOOT_ID_SIZE 37

struct vmm_process {
    pid_t pid;
    uint64_t start_ticks; /* /proc/PID/stat, field 22 */
    int pidfd;            /* owned; -EBADF: none */
};
#define VMM_PROCESS_NONE          \
    (struct vmm_process)          \
    {                             \
        .pid = 0, .pidfd = -EBADF \
    }

/* This boot's id, 36 characters. path: "/proc/sys/kernel/random/boot_id"; tests have their own. */
int boot_id_read(const char *path, char ret[BOOT_ID_SIZE], struct error **err);

struct vmm_fd {
    const char *option; /* "--kvm"; NULL: passed without a name */
    int fd;             /* borrowed; < 0: left out */
};
struct vmm_spawn {
    const char *path;  /* of nexus-vmm */
    char *const *args; /* options and values, NULL-terminated, after argv[0] */
    const struct vmm_fd *fds;
    size_t n_fds;
    int cgroup_fd;         /* directory for CLONE_INTO_CGROUP, or < 0 */
    const char *log_level; /* NEXUS_LOG of the child */
};

/* Starts it in a session of its own with exactly the descriptors given (numbered from 3 in their
 * order, "--kvm fd:3"), stdin from /dev/null, stdout and stderr ours, signals reset, environment
 * clean. The new process waits before it executes until *ret_go (owned) gets a byte; if we die or
 * close it first, it exits without a trace. So its identity can be recorded before it exists. */
int vmm_spawn(const struct vmm_spawn *s, struct vmm_process *ret, int *ret_go, struct error **err);
int vmm_spawn_go(int go);

/* Writes and reads <name> in dirfd. vmm_process_load: 0 with a pidfd when that very process runs;
 * -ESRCH: it does not (ended, pid reused, other boot); -ENOENT: no file; -EBADMSG: damaged. */
int vmm_process_save(int dirfd, const char *name, const struct vmm_process *p, const char *boot_id,
                     struct error **err);
int vmm_process_load(int dirfd, const char *name, const char *boot_id, struct vmm_process *ret,
                     struct error **err);

/* SIGKILL. 0 also when it has ended. */
int vmm_process_kill(const struct vmm_process *p);
/* After its pidfd became readable: how it ended, as wait status, or -ECHILD if it is not our child
 * (nexusd was restarted meanwhile), or -EAGAIN: it still runs. */
int vmm_process_reap(const struct vmm_process *p, int *ret_status);
void vmm_process_close(struct vmm_process *p);
