/* SPDX-License-Identifier: Apache-2.0 */
/* One consistent reading of a volume: names, attributes, symlinks as they are, and an open descriptor of
 * every file that has bytes. No symlink is followed, nothing outside the volume is opened.
 *
 * A live volume is what kubelet's AtomicWriter makes (kubernetes pkg/volume/util/atomic_writer.go):
 *   ..2026_11_24_16_08_54.1234567/ key        the files of one generation
 *   ..data -> ..2026_11_24_16_08_54.1234567   renamed over the old one: the moment of an update
 *   key -> ..data/key                         made after that moment; stale ones go after it, too
 * Its other names that begin with ".." belong to the writer (a generation half written, or half removed)
 * and are left out. A volume without "..data" and one that is not live is read as the tree it is.
 *
 * What changes while it is read is read again, a bounded number of times. It is noticed by "..data" naming
 * another directory, by names that vanish, and by inode number, size, mtime and ctime of every file and
 * directory before and after. ctime has the resolution of a kernel tick before Linux 6.13: whoever must
 * know of a write in that very tick watches (watch.h) before he reads.
 *
 * High tier. Any thread; blocks for as long as the host's file system does. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/limit.h"

struct volume_limits {
    uint32_t nodes; /* files and directories */
    uint32_t links; /* symlinks */
    uint32_t depth; /* directories below each other, the volume itself not counted */
    uint32_t name_bytes;
    uint32_t path_bytes; /* of a path below the volume */
    uint64_t bytes;      /* of all files */
    uint64_t xattr_bytes;
    unsigned tries; /* readings; > 0 */
};
extern const struct volume_limits volume_limits_default; /* LIMIT_VOLUME_* */

#define VOLUME_ENTRY_FIRST UINT32_MAX

struct volume_entry {
    const char *path; /* below the volume; "" is the volume itself */
    const char *link; /* symlink: its target */
    uint32_t mode;    /* regular, directory or symlink, with S_IFMT */
    uint32_t uid, gid;
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint64_t size; /* regular: bytes */
    /* encoded (erofs/entry.h), or NULL. Not kept: what EROFS has no place for, trusted.*, and
     * security.selinux, .ima and .evm, which speak to the host's policy only */
    const uint8_t *xattrs;
    size_t xattrs_len;
    int fd;           /* owned; O_RDONLY: regular with size > 0 and same_as FIRST; else -EBADF */
    uint32_t same_as; /* index of an earlier entry that is the same file (hard link), or FIRST */
    /* how it was found: what the second look is compared with */
    dev_t dev;
    ino_t ino;
    nlink_t nlink;
    int64_t ctime_s;
    uint32_t ctime_ns;
};

/* A text to keep and compare: equal means that nothing was changed between two readings, as far as
 * "..data", the names, and mode, owner, size, inode, mtime and ctime of each tell. Good for a restart of
 * the process, not for a reboot. */
#define VOLUME_IDENTITY_SIZE 384
struct volume_identity {
    char text[VOLUME_IDENTITY_SIZE];
};
bool volume_identity_equal(const struct volume_identity *a, const struct volume_identity *b);

struct volume_scan {
    /* owned; entries[0] is the volume, or the single file; parents before children, siblings in byte order */
    struct volume_entry *entries;
    size_t n;
    uint64_t bytes; /* of all files, a hard-linked one once */
    uint64_t pages; /* of 4 KiB that they take */
    size_t n_fds;   /* open: one per file with bytes; RLIMIT_NOFILE must allow it */
    /* live: each name of the generation has its visible link and no link is stale. False after the last
     * try: the writer died between renaming "..data" and the links */
    bool is_settled;
    char target[NAME_MAX + 1]; /* of "..data"; "": none */
    struct volume_identity identity;
    uint64_t
        links; /* of the names beside "..data", what they are and whose: equal if they are; never 0 */
    struct arena *arena; /* owned */
};

/* Reads a volume. fd: of a directory (O_PATH will do) or of a regular file open for reading; borrowed.
 * -EAGAIN (class unavailable): it changed at each try; -ENOENT: the volume was removed, or "..data" names
 * nothing; -EINVAL: "..data" is no link or no name in the volume; a FIFO, socket or device; -E2BIG: over
 * a limit; -EACCES; -EMFILE; -EIO and others: a file could not be opened or read. The text names the path
 * below the volume. */
int volume_scan(int fd, bool live, const struct volume_limits *limits, struct volume_scan **ret,
                struct error **err);
void volume_scan_free(struct volume_scan *s); /* closes what is left of the descriptors */
DEFINE_CLEANUP(struct volume_scan *, volume_scan_free);

/* The identity alone: as volume_scan, with no file opened. */
int volume_identity_of(int fd, bool live, const struct volume_limits *limits,
                       struct volume_identity *ret, struct error **err);
