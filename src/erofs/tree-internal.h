/* SPDX-License-Identifier: Apache-2.0 */
/* The tree's body, for tree.c and writer.c. References are indices into arrays (0 is none), so that a
 * million entries cost some 130 bytes each. */
#pragma once

#include <sys/stat.h>

#include "erofs/tree.h"

struct tree_inode {
    uint32_t mode; /* 0: free, next_free in nlink */
    uint32_t uid, gid;
    uint32_t nlink; /* of names; directories are counted when written */
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint32_t rdev;
    uint64_t size;
    uint64_t block;      /* regular: in its segment; directory, symlink: in the block area */
    uint32_t segment;    /* regular */
    uint32_t xattrs;     /* pool offset */
    uint32_t xattrs_len; /* bytes */
    uint32_t link;       /* symlink: pool offset of the target */
    uint32_t dentry;     /* directory: its one name */
    uint32_t children;   /* directory: first child */
    uint64_t offset;     /* planned place in the metadata, bytes; 0: not planned */
    bool is_inline;      /* planned */
};

struct tree_dentry {
    uint32_t dir;        /* inode of the parent directory; the root's own is its own */
    uint32_t inode;      /* 0: free, next_free in hash_next */
    uint32_t name;       /* pool offset */
    uint32_t hash_next;  /* chain in the bucket */
    uint32_t next, prev; /* siblings */
    uint16_t layer;      /* that brought (or renewed) it */
    uint8_t name_len;
};

#define WORK_BYTES (2 * (EROFS_PATH_MAX + 2)) /* a path with a symlink target before it */

struct erofs_tree {
    struct tree_inode *inodes; /* owned; [1] is the root */
    uint32_t inodes_used, inodes_room, inodes_free, inodes_alive;
    struct tree_dentry *dentries; /* owned; [1] is the root's */
    uint32_t dentries_used, dentries_room, dentries_free;
    uint8_t *pool; /* owned; names, targets, xattrs */
    uint32_t pool_used, pool_room;
    uint32_t *buckets; /* owned */
    uint32_t n_buckets;
    uint64_t seed;
    size_t max_bytes;
    uint32_t max_inodes;
    uint32_t layers; /* begun */
    bool ignore_whiteouts;
    char work[WORK_BYTES]; /* the path in hand */

    /* planned */
    uint32_t *order; /* owned; inodes in the order of their places */
    uint32_t n_order;
    uint64_t inode_bytes; /* end of the inode area */
    uint64_t meta_blocks;
    uint64_t total_blocks;
    uint64_t segment_base[EROFS_TREE_SEGMENTS]; /* block of each segment */
};

#define TREE_ROOT 1U

static inline bool tree_is_dir(const struct tree_inode *i)
{
    return S_ISDIR(i->mode);
}
