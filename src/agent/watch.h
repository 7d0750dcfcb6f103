/* SPDX-License-Identifier: Apache-2.0 */
/* Tells when a cgroup file (memory.events, cgroup.events) changed or a file system is gone, through one
 * inotify. */
#pragma once

#include "agent/agent-internal.h"

struct watch {
    struct list link;
    struct agent *agent;
    int wd;
    void (*fn)(struct watch *w, void *userdata);
    void *userdata;
};

int watch_start(struct agent *a); /* 0 or errno */
/* Calls fn from the loop after each change of path. 0 or errno. */
int watch_new(struct agent *a, const char *path, void (*fn)(struct watch *, void *), void *userdata,
              struct watch **ret);
/* Calls fn from the loop when the file system of the directory path has no user any more (IN_UNMOUNT: the
 * last reader of what was unmounted lazily has gone). 0 or errno. */
int watch_new_end(struct agent *a, const char *path, void (*fn)(struct watch *, void *),
                  void *userdata, struct watch **ret);
/* Notes from now on who else watches files, where the kernel can. Costs a look through its type information. */
void watch_note_others(struct agent *a);
bool watch_others_are_noted(const struct agent *a);
/* Nobody but the agent has watched anything since they are noted: false. */
bool watch_others_exist(const struct agent *a);
void watch_free(struct watch *w); /* NULL is allowed; also from within fn */
