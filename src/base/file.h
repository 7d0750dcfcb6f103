/* SPDX-License-Identifier: Apache-2.0 */
/* Files and directories, safely: atomic durable writes, bounded reads, opening beneath a directory
 * without following links out of it. Paths that come from outside go through file_open_beneath. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

/* Opens path below dirfd with openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS),
 * O_CLOEXEC added. An fd or a negative errno (-EXDEV, -ELOOP: the path tried to leave). */
int file_open_beneath(int dirfd, const char *path, int flags, mode_t mode);

/* The whole regular file as a NUL-terminated buffer of the caller. -EFBIG: larger than max bytes.
 * -EINVAL: no regular file (a FIFO or device is never waited for). ret_len may be NULL. */
int file_read_all(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len);
/* The same from an open fd of any kind, to EOF. */
int fd_read_all(int fd, size_t max, char **ret, size_t *ret_len);

/* Writes a file so that after a crash it has the old or the new content, whole: temporary name in the
 * same directory, fsync, rename, fsync of the directory. name has no '/'. On error nothing changed.
 * durable false skips the fsyncs (for /run, where only our own crash must be survived). */
int file_write_atomic(int dirfd, const char *name, const void *bytes, size_t len, mode_t mode,
                      bool durable);

/* unlinkat, then fsync of the directory. A missing file is no error. */
int file_unlink_durable(int dirfd, const char *name);

/* mkdir -p with mode for what is created; existing parts must be directories. 0 or errno. */
int dir_make(const char *path, mode_t mode);
/* Opens (creating it if needed) a directory as an O_PATH-free, O_DIRECTORY fd. */
int dir_open_or_make(const char *path, mode_t mode);
/* Removes a tree below dirfd without following links, depth-limited. A missing name is no error. */
int dir_remove_tree(int dirfd, const char *name);

/* All of it, restarting on EINTR and short counts. write_full: 0 or errno; read_full: bytes read
 * (less only at EOF) or errno. */
int write_full(int fd, const void *bytes, size_t len);
ssize_t read_full(int fd, void *bytes, size_t len);
ssize_t pread_full(int fd, void *bytes, size_t len, uint64_t offset);
