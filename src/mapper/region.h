/* SPDX-License-Identifier: Apache-2.0 */
/* Read-only regions: files composed into one contiguous range of host memory that the guest will see
 * as pmem: [segment 0][segment 1]… padded with zeros to 2 MiB. The only module that builds them.
 *
 * Read-only stands on three legs (DESIGN section 1, promise 4), and a region exists only with all:
 *   fd       O_RDONLY, or a memfd sealed against writing, shrinking and growing
 *   mapping  PROT_READ and MAP_SHARED
 *   slot     ro_region_slot() hands out what a slot needs together with KVM_MEM_READONLY, and nothing
 *            else hands it out
 * Files that cannot be sealed may be truncated by their owner; the pages lost become zeros
 * (ro_region_repair, and fault.h for reads by this process), and nobody else notices.
 * Threads: new and free on one thread; ro_region_repair from any thread meanwhile. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ro_region;

#define RO_REGION_ALIGN (2ULL << 20)
#define RO_REGION_PAGE 4096ULL
#define RO_REGION_SEGMENTS_MAX 257U /* metadata and 256 layers */
#define RO_REGION_BYTES_MAX (1ULL << 40)

struct ro_region_segment {
    int fd; /* of a regular file; duplicated */
    uint64_t
        bytes; /* multiple of RO_REGION_PAGE, > 0; the file has at least so many, less a part page */
};

/* High tier. -EACCES: a file could be written through its fd; -EINVAL: sizes, or not a regular
 * file; -E2BIG: over a limit above. */
int ro_region_new(const struct ro_region_segment *segments, size_t n, struct ro_region **ret,
                  struct error **err);
/* Unmaps; no slot may refer to it any more. */
void ro_region_free(struct ro_region *region);
DEFINE_CLEANUP(struct ro_region *, ro_region_free);

struct ro_region_slot {
    const void *hva;    /* borrowed, valid until ro_region_free */
    uint64_t bytes;     /* multiple of RO_REGION_ALIGN */
    uint32_t kvm_flags; /* KVM_MEM_READONLY; a slot without it must not be made */
};
void ro_region_slot(const struct ro_region *region, struct ro_region_slot *ret);

/* Replaces mapped pages that their file does not have any more by zero pages. Number of segments
 * mended (0: nothing was missing), or a negative errno. */
int ro_region_repair(struct ro_region *region);
