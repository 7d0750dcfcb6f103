/* SPDX-License-Identifier: Apache-2.0 */
/* A container's file system as its first process finds it: root, /proc, /sys, /dev, the pod's files,
 * masked and read-only paths. Runs in the child, in its own mount (and PID) namespace. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

#define ROOTFS_FILES_MAX 256

struct rootfs_file {
    char *source;       /* owned: path in the agent's root */
    const char *target; /* borrowed: absolute, in the container */
    bool readonly;
};

#define ROOTFS_VOLUMES_MAX 256

struct rootfs_volume {
    char *source;         /* owned: directory or file in the agent's root */
    const char *sub_path; /* borrowed: below source, links stay inside it; "" */
    const char *target;   /* borrowed: absolute, in the container */
    bool shared;          /* its place is a mount, or is to become one when it is looked at */
    bool writable;
    bool live; /* with the mounts in it, those that come later too */
};

struct rootfs_plan {
    char *root;      /* owned: where the overlay is mounted, in the agent's root */
    bool readonly;   /* the root file system; /dev and the files are not */
    bool privileged; /* rw /sys, all device nodes */
    char *shm;       /* owned: directory the pod shares as /dev/shm */
    int devpts;      /* detached mount, taken from the agent */
    int console;     /* number of the terminal in devpts; -1: none */
    struct rootfs_file files[ROOTFS_FILES_MAX];
    size_t n_files;
    struct rootfs_volume volumes[ROOTFS_VOLUMES_MAX]; /* in the order of mounting */
    size_t n_volumes;
    Nexus__DeviceNode **devices; /* borrowed; checked */
    size_t n_devices;
    char **masked; /* borrowed */
    size_t n_masked;
    char **readonly_paths; /* borrowed */
    size_t n_readonly_paths;
};

/* Whether the devices asked for are among those that a container gets anyway. 0; -EINVAL. */
int rootfs_check_devices(Nexus__DeviceNode *const *devices, size_t n, struct error **err);
/* 0; or errno with the path that made trouble: the child then ends. On success / is the container's
 * root and nothing of the agent's is mounted any more. */
int rootfs_enter(const struct rootfs_plan *plan, struct error **err);
