/* SPDX-License-Identifier: Apache-2.0 */
/* Read-only regions: files composed into one contiguous range of host memory that the guest will see
 * as pmem: [segment 0][segment 1]… padded with zeros to 2 MiB. The only module that builds them.
 *
 * Read-only stands on three legs (DESIGN section 1, promise 4), and a region exists only with all:
 *   fd       O_RDONLY, or a memfd sealed against writing, shrinking and growing
 *   mapping  PROT_READ and MAP_SHARED
 *   slot     ro_region_slot() hands out what a slot needs together with KVM_MEM_READONLY, and nothing
 *            else hands it out
 * Files that cannot be sealed may be truncated by their owner, and a disk may fail; the pages lost become
 * zeros (ro_region_repair, and fault.h for reads by this process), and nobody else notices.
 * Threads: new and free on one thread; ro_region_repair from any thread meanwhile. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ro_region;

#define RO_REGION_ALIGN (2ULL << 20)
#define RO_REGION_PAGE 4096ULL
/* metadata and 256 layers, or metadata and the files of a pod's volumes */
#define RO_REGION_SEGMENTS_MAX 4400U
#define RO_REGION_BYTES_MAX (1ULL << 40)
/* A file below it is mapped without a descriptor being kept; what it loses is found by reading alone. */
#define RO_REGION_PROBED_BYTES (4ULL << 20)
#define RO_REGION_NAME_MAX 255U

struct ro_region_segment {
    int fd; /* of a regular file; borrowed for the call */
    uint64_t
        bytes; /* multiple of RO_REGION_PAGE, > 0; the file has at least so many, less a part page */
    /* for messages; NULL: none; borrowed for the call. RO_REGION_NAME_MAX bytes of it are kept */
    const char *name;
};

/* A region made at once, or begun, appended to as files come, and finished. Between begin and finish it
 * has no slot. A file is mapped when it is appended: nothing but the mapping holds it then, unless it has
 * RO_REGION_PROBED_BYTES and is not sealed (its descriptor is kept). High tier. -EACCES: a file could be
 * written through its fd; -EINVAL: sizes, not a regular file, or nothing was appended; -E2BIG: over a
 * limit above; -ENODEV: its file system maps nothing. After an error only ro_region_free is allowed. */
int ro_region_new(const struct ro_region_segment *segments, size_t n, struct ro_region **ret,
                  struct error **err);
int ro_region_begin(struct ro_region **ret, struct error **err);
int ro_region_append(struct ro_region *region, const struct ro_region_segment *segments, size_t n,
                     struct error **err);
int ro_region_finish(struct ro_region *region, struct error **err);
/* Unmaps; no slot may refer to it any more. */
void ro_region_free(struct ro_region *region);
DEFINE_CLEANUP(struct ro_region *, ro_region_free);

/* Lets go of all files: the region is zeros from now on, at the same place, so that its slot may stay. 0 or
 * errno: it is as it was. */
int ro_region_vacate(struct ro_region *region);
/* New files in a vacated region, whose place and size it keeps: as ro_region_new. -EXDEV: they take another
 * size. After an error it is vacated. */
int ro_region_refill(struct ro_region *region, const struct ro_region_segment *segments, size_t n,
                     struct error **err);

struct ro_region_slot {
    const void *hva;    /* borrowed, valid until ro_region_free */
    uint64_t bytes;     /* multiple of RO_REGION_ALIGN */
    uint32_t kvm_flags; /* KVM_MEM_READONLY; a slot without it must not be made */
};
void ro_region_slot(const struct ro_region *region, struct ro_region_slot *ret);

/* What is zeros now because its file cannot give it any more. */
struct ro_region_loss {
    uint64_t pages;
    uint64_t files;                    /* that they are of */
    uint64_t offset;                   /* of the first page in the region, bytes */
    uint64_t file_offset;              /* of the same page in its file */
    char file[RO_REGION_NAME_MAX + 1]; /* its name; "": it has none */
};

/* Replaces mapped pages that their file cannot give any more, because it was cut short or because of an
 * I/O error, by zero pages. First the sizes of large files are looked at; if that explains nothing, files
 * are read, a byte per page, by the kernel: from the disk, so it is done in turns of a fifth of a second.
 * How many pages (*ret, which may be NULL, tells more); 0: all can be had; -EAGAIN: nothing so far, and
 * there is more to look at in another call; other errnos. */
int64_t ro_region_repair(struct ro_region *region, struct ro_region_loss *ret);
/* Pages replaced since it was made, also those of fault.h. Any thread. */
uint64_t ro_region_repaired(const struct ro_region *region);
/* True: this process read lost pages (fault.h) since the last call; *ret has all of them, and the place of
 * the last one. */
bool ro_region_take_faults(struct ro_region *region, struct ro_region_loss *ret);
