/* SPDX-License-Identifier: Apache-2.0 */
/* From scans to what a region is made of: [EROFS metadata][file][file]…, each a descriptor that shows its
 * bytes from offset 0 on and takes whole 4 KiB pages. All volumes of a container go into one region, each
 * under a top directory named by the caller, so that twenty of them cost one device.
 *
 * The metadata is a sealed memfd; files are what the scan opened, mapped by others without a copy. In the
 * part of its last page behind its end a file shows zeros: the kernel zeroes it when it reads the page in
 * (on tmpfs: when it makes it). It does not where somebody with write access maps that page shared and
 * writes behind the end of the file: then his own bytes are seen there, up to the next write-back on disk
 * file systems, for good on tmpfs. kubelet never maps. A file that grows within its last page shows there
 * what it grew by, behind the size that the metadata has. With VOLUME_DATA_COPY neither can happen.
 *
 * File systems that do not map files shared (some of FUSE, /proc) are found out by who maps: the error
 * comes from there, and the piece has the path for it.
 *
 * High tier. Any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "volume/scan.h"

enum volume_data {
    VOLUME_DATA_MAP,  /* the files themselves */
    VOLUME_DATA_COPY, /* one sealed memfd with the bytes of all: mapper.data: copy */
};
/* "map", "copy". The value, or -EINVAL. */
int volume_data_parse(const char *name);

struct volume_part {
    /* its top directory (or file) in the region: one name of at most 255 bytes, not "." or ".."; unique */
    const char *name;
    struct volume_scan *scan; /* borrowed; its descriptors move to the layout */
};

struct volume_piece {
    int fd;         /* owned; O_RDONLY or sealed */
    uint64_t bytes; /* > 0; from offset 0 of fd */
    uint64_t pages; /* of 4 KiB: what it takes in the region */
    char *path;     /* owned; "name/path below the volume"; "" for metadata and copies */
};

struct volume_layout {
    struct volume_piece *pieces; /* owned; [0] is the metadata, then none to one per file */
    size_t n;
    size_t passed;  /* pieces whose descriptors were given away, see volume_layout_drop */
    uint64_t pages; /* of all pieces: the bytes of the region are 4096 times that */
    uint32_t inodes;
};

/* Lays out parts. On error the scans keep what was not taken yet and are of no further use.
 * -EINVAL: a name; -E2BIG: more parts, inodes, bytes or paths than LIMIT_VOLUME_BUNDLE_* allow; -ENOMEM,
 * -ENOSPC: memory for the metadata or the copy is out; -EAGAIN: COPY: a file changed since its scan;
 * -EIO …: COPY: a file could not be read. */
int volume_layout_new(const struct volume_part *parts, size_t n, enum volume_data data,
                      struct volume_layout **ret, struct error **err);
/* Closes what was not dropped. */
void volume_layout_free(struct volume_layout *l);
DEFINE_CLEANUP(struct volume_layout *, volume_layout_free);

/* A batch for one message: descriptors (borrowed) and sizes in bytes, multiples of 4 KiB, of the next
 * pieces, at most max (SCM_RIGHTS takes 253, base/fdpass.h FDPASS_MAX). How many; 0: all were dropped. */
size_t volume_layout_batch(const struct volume_layout *l, size_t max, int *fds,
                           uint64_t *segment_bytes);
/* Closes the descriptors of the next n pieces (at most what is left): they have been sent. */
void volume_layout_drop(struct volume_layout *l, size_t n);
