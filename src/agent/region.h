/* SPDX-License-Identifier: Apache-2.0 */
/* Regions: the EROFS of a hot-added pmem device, mounted read-only
 * with DAX once and shared by all containers and volumes that use it. */
#pragma once

#include "agent/agent-internal.h"

/* Where a region is: the start of its memory, and the _UID of the virtio-mmio device that leads there.
 * Either alone would find what was there before, on its way out. */
struct region_place {
    uint64_t gpa;
    uint32_t device;
};

struct region {
    struct list link;
    struct region_place place;
    unsigned users; /* root file systems and volumes */
    char *path;     /* owned: where it is mounted */
};

/* The mounted region there with one more user. -EAGAIN: its device is not there (yet); err is not
 * set then. */
int region_get(struct agent *a, struct region_place place, struct region **ret, struct error **err);
void region_put(struct region *r); /* NULL is allowed; stays mounted */
/* Unmounts, waits for the last reader however long that takes, and takes the device from its driver, so
 * that the host may take it away (keep: forgets what was read of it, so that the host may put another region
 * there); then answers request id. A region that is not there is no error; one
 * that containers or volumes use is -EBUSY. */
void region_release(struct agent *a, struct region_place place, bool keep, uint64_t request);
/* At the end: frees the records; what is mounted stays. */
void regions_free(struct agent *a);
/* Offers its device to the driver, if it has none: a slot that was released and filled anew is not announced
 * by the hardware. No other device is touched: one that was let go is the host's, until it is filled anew. */
void region_want(struct agent *a, struct region_place place);
