/* SPDX-License-Identifier: Apache-2.0 */
/* EROFS on disk, the part we write: 4 KiB blocks, extended inodes, FLAT_PLAIN and (for directories and
 * symlinks) FLAT_INLINE data, inline xattrs. Source: Linux fs/erofs/erofs_fs.h, 5.4 and later. */
#pragma once

#include <assert.h>
#include <stdint.h>

#include "base/le.h"

#define EROFS_BLOCK_BITS 12
#define EROFS_BLOCK (1U << EROFS_BLOCK_BITS)
#define EROFS_SUPER_OFFSET 1024
#define EROFS_MAGIC 0xe0f5e1e2U
#define EROFS_COMPAT_SB_CHKSUM 0x1U
#define EROFS_COMPAT_MTIME 0x2U
#define EROFS_SLOT 32 /* bytes; a nid counts them */
#define EROFS_NULL_ADDR 0xffffffffU
#define EROFS_NAME_MAX 255

struct erofs_super {
    le32 magic;
    le32 checksum; /* crc32c, seed ~0, of the rest of the block from here with this field 0 */
    le32 feature_compat;
    uint8_t blkszbits;
    uint8_t sb_extslots;
    le16 root_nid;
    le64 inos;
    le64 build_time;
    le32 build_time_nsec;
    le32 blocks;
    le32 meta_blkaddr;
    le32 xattr_blkaddr;
    uint8_t uuid[16];
    uint8_t volume_name[16];
    le32 feature_incompat;
    uint8_t rest[44];
};
static_assert(sizeof(struct erofs_super) == 128, "superblock");

#define EROFS_INODE_EXTENDED 1U /* bit 0 of i_format; bits 1…3 are the data layout */
#define EROFS_LAYOUT_PLAIN 0U
#define EROFS_LAYOUT_INLINE 2U

struct erofs_inode {
    le16 format;
    le16 xattr_icount; /* 0, or 1 + (bytes of the body - 12) / 4 */
    le16 mode;
    le16 reserved;
    le64 size;
    le32 u; /* block address, or device number */
    le32 ino;
    le32 uid;
    le32 gid;
    le64 mtime;
    le32 mtime_nsec;
    le32 nlink;
    uint8_t reserved2[16];
};
static_assert(sizeof(struct erofs_inode) == 64, "extended inode");

/* Unpadded on disk: 12 bytes each. */
struct erofs_dirent {
    uint8_t nid[8];
    uint8_t nameoff[2];
    uint8_t file_type;
    uint8_t reserved;
};
static_assert(sizeof(struct erofs_dirent) == 12, "dirent");

#define EROFS_XATTR_BODY_HEADER 12
struct erofs_xattr_entry {
    uint8_t name_len;
    uint8_t name_index;
    uint8_t value_size[2];
};
static_assert(sizeof(struct erofs_xattr_entry) == 4, "xattr entry");
enum erofs_xattr_index {
    EROFS_XATTR_USER = 1,
    EROFS_XATTR_ACL_ACCESS = 2,
    EROFS_XATTR_ACL_DEFAULT = 3,
    EROFS_XATTR_TRUSTED = 4,
    EROFS_XATTR_SECURITY = 6,
};
