/* SPDX-License-Identifier: Apache-2.0 */
/* Regions: the EROFS of a hot-added pmem device, found by its guest-physical address, mounted read-only
 * with DAX once and shared by all containers and volumes that use it. */
#pragma once

#include "agent/agent-internal.h"

struct region {
    struct list link;
    uint64_t gpa;
    unsigned users; /* root file systems and volumes */
    char *path;     /* owned: where it is mounted */
};

/* The mounted region at gpa with one more user. -EAGAIN: its device is not there (yet); err is not
 * set then. */
int region_get(struct agent *a, uint64_t gpa, struct region **ret, struct error **err);
void region_put(struct region *r); /* NULL is allowed; stays mounted */
/* Unmounts, waits for the last reader however long that takes, and takes the device from its driver, so
 * that the host may take it away; then answers request id. A region that is not there is no error; one
 * that containers or volumes use is -EBUSY. */
void region_release(struct agent *a, uint64_t gpa, uint64_t request);
/* At the end: frees the records; what is mounted stays. */
void regions_free(struct agent *a);
/* Offers empty virtio-mmio slots to the driver again: one that was released and filled anew is not
 * announced by the hardware. */
void region_rescan(struct agent *a);
