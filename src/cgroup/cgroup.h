/* SPDX-License-Identifier: Apache-2.0 */
/* Cgroups of the host: one leaf per nexus-vmm below the pod cgroup that kubelet names.
 *
 * cgroup v2 only. Where the host has none (v1, hybrid, nothing) every pod runs without host limits,
 * cgroup_fs_mode() says so for Status and doctor, and the functions below succeed without effect:
 * the guest's RAM is bounded by its VM all the same. Paths are relative to the mount, begin with '/'
 * and are what is saved with a sandbox. Source: kernel Documentation/admin-guide/cgroup-v2.rst.
 * Thread: any one. No function waits, except cgroup_remove as told. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct cgroup_fs;

enum cgroup_mode {
    CGROUP_MODE_NONE,   /* no cgroup file system */
    CGROUP_MODE_V1,     /* v1 hierarchies only */
    CGROUP_MODE_HYBRID, /* v1 controllers, v2 for process tracking only */
    CGROUP_MODE_V2,     /* the unified hierarchy, controllers in it */
};
#define CGROUP_MODE_COUNT 4

enum cgroup_controller { CGROUP_CPU = 1, CGROUP_MEMORY = 2, CGROUP_PIDS = 4 };

/* root: the mount, "/sys/fs/cgroup". Never fails for want of cgroups, only of memory or rights. */
int cgroup_fs_open(const char *root, struct cgroup_fs **ret, struct error **err);
void cgroup_fs_free(struct cgroup_fs *fs);
DEFINE_CLEANUP(struct cgroup_fs *, cgroup_fs_free);

enum cgroup_mode cgroup_fs_mode(const struct cgroup_fs *fs);
/* "none", "v1", "hybrid", "v2". */
const char *cgroup_mode_name(enum cgroup_mode mode);
/* enum cgroup_controller bits that the root offers. */
unsigned cgroup_fs_controllers(const struct cgroup_fs *fs);
/* One sentence for Status and doctor: what is the case and, unless all is well, what to do. Borrowed. */
const char *cgroup_fs_describe(const struct cgroup_fs *fs);

/* kubelet's cgroup_parent as a path: "" → "/nexus.slice" (ours), "a-b.slice" → "/a.slice/a-b.slice"
 * (systemd's naming), "/kubepods/pod1" stays. -EINVAL: "..", an empty component, control bytes, more
 * than 4096 bytes, an odd slice name. ret: owned by the caller. */
int cgroup_parent_path(const char *cgroup_parent, char **ret, struct error **err);

/* 0: no limit. */
struct cgroup_limits {
    uint64_t
        memory_max_bytes; /* guest RAM + overhead; oom.group is set and swap forbidden with it */
    uint64_t pids_max;    /* threads */
    uint64_t cpu_quota_us, cpu_period_us; /* both or none */
    uint64_t cpu_weight;                  /* 1-10000 */
};
/* The weight for v1 shares (2-262144) by the usual formula; 0 stays 0. */
uint64_t cgroup_weight_from_shares(uint64_t shares);

/* Makes parent/name (name: "vmm-<id>"), missing parents included, switches cpu, memory and pids on
 * for it as far as the host has them, and sets the limits. An existing leaf is taken over.
 * ret_path: owned by the caller, for all that follows. ret_missing (may be NULL): controllers that
 * limits asked for and that are not to be had; they are not enforced and the caller says so.
 * -EBUSY: the parent has processes of its own (v2's rule: no processes in inner nodes). */
int cgroup_create(struct cgroup_fs *fs, const char *parent, const char *name,
                  const struct cgroup_limits *limits, char **ret_path, unsigned *ret_missing,
                  struct error **err);
int cgroup_set_limits(struct cgroup_fs *fs, const char *path, const struct cgroup_limits *limits,
                      unsigned *ret_missing, struct error **err);

/* An fd of the directory (owned) for clone3(CLONE_INTO_CGROUP). -EOPNOTSUPP without cgroup v2. */
int cgroup_open(struct cgroup_fs *fs, const char *path, int *ret_fd, struct error **err);
int cgroup_add_pid(struct cgroup_fs *fs, const char *path, pid_t pid, struct error **err);

/* SIGKILL to all of it, children included (cgroup.kill, or process by process on kernels before
 * 5.14). Does not wait. A missing cgroup is no error. */
int cgroup_kill(struct cgroup_fs *fs, const char *path, struct error **err);
/* Kills, waits up to timeout_ms for the last process to go (event-driven, by cgroup.events), removes
 * the leaf. Missing: no error. -EBUSY: still populated; call again when something ended. */
int cgroup_remove(struct cgroup_fs *fs, const char *path, unsigned timeout_ms, struct error **err);

struct cgroup_usage {
    uint64_t memory_current_bytes, memory_peak_bytes; /* 0: not told */
    uint64_t oom_kills;                               /* memory.events oom_kill */
    uint64_t memory_anon_bytes, memory_shmem_bytes, memory_inactive_file_bytes;
    uint64_t page_faults, major_page_faults;
    uint64_t pids_current;
    uint64_t cpu_usage_us;
};
/* Files that are not there leave zeros. -ENOENT: no such cgroup. */
int cgroup_read_usage(struct cgroup_fs *fs, const char *path, struct cgroup_usage *ret,
                      struct error **err);

/* Calls fn with the path of each cgroup named prefix* at or below parent (8 levels, parents first):
 * the census of recovery and tests. fn returning non-zero ends it with that value. */
typedef int (*cgroup_found_fn)(const char *path, void *userdata);
int cgroup_find(struct cgroup_fs *fs, const char *parent, const char *prefix, cgroup_found_fn fn,
                void *userdata, struct error **err);
