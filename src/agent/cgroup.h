/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's cgroup v2 tree: <mount>/pod/<container>[/exec-N]. A container's processes live in its
 * own directory, those of an exec in a child of it, so that limits cover both and each can be killed
 * whole. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/agent-internal.h"

struct cgroup {
    char *path; /* owned */
    int fd;     /* owned; the directory */
    int events; /* owned; its cgroup.events once that was looked at, else -EBADF */
    bool killed;
};

/* Enables the controllers that exist and makes the pod's cgroup. */
int cgroup_start(struct agent *a, struct error **err);
/* Makes <parent>/<name>; parent NULL is the pod's. */
int cgroup_new(struct agent *a, const struct cgroup *parent, const char *name, struct cgroup **ret,
               struct error **err);
/* Forgets it; the directory stays. */
void cgroup_free(struct cgroup *cg);
DEFINE_CLEANUP(struct cgroup *, cgroup_free);

int cgroup_limit(const struct cgroup *cg, const Nexus__Resources *r, struct error **err);
/* Kills every process in it and below. 0 or errno. */
int cgroup_kill(struct cgroup *cg);
/* Sends signal to each process in it and below (one level); those that come meanwhile are missed. */
int cgroup_signal(struct cgroup *cg, int signal);
/* True if a process is alive in it or below. */
bool cgroup_is_populated(const struct cgroup *cg);
/* True if it is as good as new: nothing lives in it, was killed in it, or was made below it. */
bool cgroup_is_clean(struct cgroup *cg);
/* Removes one that is clean, and forgets it. NULL is allowed. */
void cgroup_discard(struct cgroup *cg);
/* How often the kernel killed for memory in it and below. */
uint64_t cgroup_oom_kills(const struct cgroup *cg);

/* At the end: forgets the removals under way. */
void cgroups_free(struct agent *a);
/* Kills what is in cg and removes the directory as soon as it is empty, then calls done (may be
 * NULL), from the loop or before it returns. Takes cg. NULL: it is done; else what goes on. */
struct cgroup_reaper;
struct cgroup_reaper *cgroup_reap(struct agent *a, struct cgroup *cg, void (*done)(void *userdata),
                                  void *userdata);
/* done is not called any more; NULL is allowed. */
void cgroup_reaper_forget(struct cgroup_reaper *r);
