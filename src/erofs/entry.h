/* SPDX-License-Identifier: Apache-2.0 */
/* One member of a layer, as the tar said it: an operation on the tree of the layers below. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define EROFS_PATH_MAX 4095          /* bytes of a path or symlink target */
#define EROFS_XATTRS_MAX (64U << 10) /* bytes of the encoded xattrs of one inode */

struct erofs_entry {
    const char *path; /* as written: may be absolute, may contain ".."; never a host path */
    const char
        *link;     /* symlink target or, with hardlink, the path of the link's target; else NULL */
    bool hardlink; /* the fields below mean nothing then */
    uint32_t mode; /* with S_IFMT */
    uint32_t uid, gid;
    int64_t mtime_s;
    uint32_t mtime_ns;     /* < 1e9 */
    uint32_t rdev;         /* of devices, erofs_rdev() */
    uint64_t size;         /* of regular files, bytes */
    uint64_t block;        /* of regular files with size: first 4 KiB block in the layer's data */
    const uint8_t *xattrs; /* encoded by erofs_xattr_append, or NULL */
    size_t xattrs_len;     /* bytes */
};

/* The kernel's 32-bit form of a device number. */
static inline uint32_t erofs_rdev(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | (major << 8) | ((minor & ~0xffU) << 12);
}

/* Adds one xattr to an encoded list (which starts empty). 1: added; 0: not kept, because no guest may
 * take it from an image (trusted.overlay.*) or EROFS has no place for it, or it is there already;
 * -E2BIG: EROFS_XATTRS_MAX; -EINVAL: no name; -ENOMEM. */
int erofs_xattr_append(struct buf *list, const char *name, const void *value, size_t len);
/* True if an encoded list from outside is well-formed. */
bool erofs_xattrs_are_valid(const uint8_t *list, size_t len);
