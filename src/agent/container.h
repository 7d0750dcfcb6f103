/* SPDX-License-Identifier: Apache-2.0 */
/* Containers: created (root file system mounted, cgroup made), started once, exited, removed. */
#pragma once

#include "agent/cgroup.h"
#include "agent/plan.h"
#include "agent/process.h"
#include "agent/region.h"
#include "agent/volume.h"
#include "agent/watch.h"

struct stream;
struct container;
struct termination;

enum container_state {
    CONTAINER_CREATED,  /* may be started */
    CONTAINER_RUNNING,  /* its first process was made (and may still fail to become the program) */
    CONTAINER_EXITED,   /* or failed to start */
    CONTAINER_REMOVING, /* waits for its cgroup to be empty */
};

struct user_identity;

#define CONTAINER_REMOVERS_MAX 8

struct container {
    struct list link;
    struct agent *agent;
    enum container_state state;
    Nexus__ContainerSpec *spec; /* owned */
    struct region *region;
    struct volume_hold *volumes;     /* owned; one per spec->volumes, or NULL */
    struct termination *termination; /* owned; NULL: it has none that comes back */
    int entering; /* owned: its child closes the other end when its mounts are made */
    struct loop_source *entering_source; /* owned; NULL: no child is making them */
    struct cgroup *cgroup;               /* owned */
    struct cgroup *exec_cgroup;          /* owned: the next exec's, clean; NULL: none is left */
    struct watch *oom_watch;             /* owned */
    uint64_t oom_kills;                  /* seen so far */
    bool oom_untold;                     /* an event is owed to the host */
    struct process *process;             /* the first process while it lives */
    struct user_identity *told; /* owned; shared with the child that starts it; NULL: not started */
    const struct user_identity *identity; /* told, once it is the program that runs; else NULL */
    int devpts;          /* owned: the instance it has as /dev/pts, for terminals of execs */
    struct list streams; /* struct stream, by container_link: its start and its execs */
    unsigned exec_count;
    uint32_t project; /* of its part of the scratch disk; 0: not counted */
    bool cgroup_gone;
    struct loop_source *finish;                /* owned: runs the last step of the removal */
    uint64_t removers[CONTAINER_REMOVERS_MAX]; /* requests to answer when it is gone */
    size_t n_removers;
};

/* container-create.c: takes spec; answers request id, perhaps later (its region may still be on the way). */
void container_create(struct agent *a, Nexus__ContainerSpec *spec, uint64_t id);
struct container *container_find(struct agent *a, const char *id);

/* Drops a creation that still waits for its region. */
void creation_cancel(struct agent *a, const char *id);

/* Makes cgroup, filters and terminals of k, whose spec is set. */
int container_prepare(struct container *k, struct error **err);
void container_on_finish(struct loop_source *s, void *userdata);
/* Unmounts and frees; no process of it is left. */
void container_forget(struct container *k);
/* Frees a container that is in no list. */
void container_free(struct container *k);

/* stdio of a process of the container: the child's ends, closed by the caller afterwards. */
struct container_io {
    int in, out, err;
    bool terminal;
    int console; /* number of the terminal in the container's devpts, -1: none */
};

/* Starts the container's first process; on_exit as for process_spawn. On success it is RUNNING. */
int container_spawn_first(struct container *k, const struct container_io *io,
                          void (*on_exit)(struct process *, int, void *), void *userdata,
                          struct process **ret, int *ret_status_fd, struct error **err);
/* Who it was started as: not before its program runs. Borrowed; as long as the container. */
const struct user_identity *container_identity(struct container *k);
/* Starts a further process in cg (a child of the container's). */
int container_spawn_exec(struct container *k, const Nexus__ProcessSpec *spec,
                         const struct cgroup *cg, const struct container_io *io,
                         void (*on_exit)(struct process *, int, void *), void *userdata,
                         struct process **ret, int *ret_status_fd, struct error **err);
/* A pair of terminal ends in the container's devpts; both owned by the caller. */
int container_new_terminal(struct container *k, int *ret_master, int *ret_slave, int *ret_number,
                           struct error **err);

/* The first process ended: reads the OOM count, kills what it left behind. True: its memory limit
 * killed in it. */
bool container_ended(struct container *k);

/* New limits in place of those it has, or none of them. */
int container_limit(struct agent *a, Nexus__UpdateResources *update, struct error **err);
int container_signal(struct container *k, uint32_t signal, bool all, struct error **err);
/* Kills, unmounts, forgets; then answers request id. A container that is not there is no error. */
void container_remove(struct agent *a, const char *id, uint64_t request);

/* Tries again to tell what is owed to the host. */
void containers_flush_events(struct agent *a);
bool containers_any_running(struct agent *a);
/* At the end: frees what is there; mounts and cgroups stay. */
void containers_free(struct agent *a);
void creations_free(struct agent *a);
