/* SPDX-License-Identifier: Apache-2.0 */
/* The volumes of a pod: parts of regions, mounted read-only into containers. A live one is a facade
 * (facade.h) that all its mounts share and that goes from region to region; the others, and what is
 * mounted of a live one by a path below it, are a part of one region for as long as the container is. */
#pragma once

#include "agent/facade.h"
#include "agent/region.h"

struct container;
struct rootfs_plan;

#define VOLUMES_MAX 256

struct volume {
    struct list link;
    char *name;            /* owned */
    char *part;            /* owned */
    struct region *region; /* one user of it */
    bool is_shown;         /* the facade is there, with: */
    struct generation generation;
    unsigned users; /* mounts of containers */
};

/* What a container holds for one of its VolumeMounts. */
struct volume_hold {
    struct volume *volume; /* one user, or NULL: */
    struct region *region; /* one user */
};

int volumes_check(const Nexus__ContainerSpec *spec, struct error **err);
/* Offers the devices of their regions to the driver (region_want). */
void volumes_want(struct agent *a, const Nexus__ContainerSpec *spec);
/* Everything spec mounts, in its order. The facades are made when the loop has time, or with the first start that
 * needs them: whoever waits for the container to be created does not wait for them. -EAGAIN without err: a device is not
 * there (yet). *ret: n_volumes of them, the caller's until volumes_put; NULL if there are none. */
int volumes_get(struct agent *a, const Nexus__ContainerSpec *spec, struct volume_hold **ret,
                struct error **err);
/* holds: freed; NULL is allowed. */
void volumes_put(struct agent *a, struct volume_hold *holds, size_t n);
/* Adds them to what rootfs_enter does, by the depth of their places; the facades are there then. */
int volumes_plan(const struct container *k, struct rootfs_plan *p, struct error **err);

/* Answers request id: perhaps later, when the region's device is there and no container is being started
 * (its copy of the mounts would miss the new one). */
void volume_update(struct agent *a, const Nexus__UpdateVolume *m, uint64_t id);
/* Those that wait for containers being started try again. */
void volume_updates_run(struct agent *a);
/* At the end: frees the records; what is mounted stays. */
void volumes_free(struct agent *a);
