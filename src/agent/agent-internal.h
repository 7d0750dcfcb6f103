/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent's own files share: the one struct agent and where its parts live. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "event/loop.h"
#include "gen/msg/nexus.pb-c.h"

struct control;
struct shutdown;

struct settings {
    bool guest;             /* PID 1 of a guest; false: a test under namespaces, unix sockets */
    uint64_t boot_ns;       /* CLOCK_BOOTTIME when the program began … */
    uint64_t early_ns;      /* … when file systems were mounted and modules loaded */
    const char *run_dir;    /* state: sandbox files, containers, regions, scratch */
    const char *cgroup_dir; /* where cgroup2 is mounted */
    const char *socket_dir; /* not guest: agent_1024, agent_1025, region-<gpa> directories */
};

/* A block device with regions behind it, by its number modulo this: more than a VM has. */
#define REGION_DEVICES 64
struct region_device {
    char name[32]; /* "pmem0"; "": not known */
    bool has_dax;
};

struct agent {
    struct settings set;
    struct loop *loop;

    struct control *control;
    struct shutdown *shutdown; /* NULL until asked for */
    struct list processes;     /* struct process: children of ours */
    struct list containers;    /* struct container */
    struct list creating;      /* struct creation: wait for their region */
    struct list regions;       /* struct region */
    struct region_device devices[REGION_DEVICES];
    struct list releases;             /* struct release: regions on their way out */
    bool share_ready;                 /* the pod's share is mounted */
    char **module_lists;              /* owned; those of a region that were loaded */
    struct list volumes;              /* struct volume */
    struct list layers;               /* struct layer: what live volumes are seen through */
    struct loop_source *show_volumes; /* those that no start was in a hurry for */
    struct list updates;              /* struct update: volumes that wait for their region */
    struct list streams;              /* struct stream */
    struct list watches;              /* struct watch */
    struct list dying_cgroups;        /* struct cgroup_reaper */
    struct list waiters;              /* struct uevent_waiter */
    unsigned n_containers, n_creating, n_streams;
    unsigned n_idle_streams;              /* of n_streams: opened by nobody yet */
    bool filtered;                        /* vsock is out of the containers' reach */
    int vsock_guard;                      /* by this link; -EBADF: by a filter of system calls */
    int watch_noter;                      /* the link that sets … */
    const _Atomic uint32_t *others_watch; /* NULL: nobody sees who watches files */
    bool noter_tried;
    unsigned n_entering;  /* children that are making their mounts */
    unsigned last_number; /* of layers and generations */

    struct loop_source *signal_source, *reap_again, *watch_source, *uevent_source, *listen_source;
    int signal_fd, watch_fd, uevent_fd, listen_fd;
    int null_fd;    /* /dev/null, read and write */
    int self_pidns; /* the agent's own PID namespace, to come back to */
    int pod_cgroup; /* directory of the pod's cgroup, above the containers' */
    bool scratch_ready;
    bool facades_ready;
    bool sandbox_ready; /* resolv.conf, hosts and shm are there */
};

/* "<run_dir>/<rest>" in memory of the caller. */
char *agent_path(const struct agent *a, const char *rest);
