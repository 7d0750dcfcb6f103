/* SPDX-License-Identifier: Apache-2.0 */
/* Thin forms of the kernel's descriptor-based mount calls (fsopen … move_mount, openat2): a mount is
 * an fd until it is attached to another fd, so no path is looked up twice. All return an fd or 0, or
 * a negative errno; descriptors are close-on-exec and the caller's. Needs Linux 5.12. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Attributes, as the kernel's MOUNT_ATTR_…. */
#define MNT_RDONLY UINT64_C(0x01)
#define MNT_NOSUID UINT64_C(0x02)
#define MNT_NODEV UINT64_C(0x04)
#define MNT_NOEXEC UINT64_C(0x08)
#define MNT_NOATIME UINT64_C(0x10)

/* A new, detached instance of a file system. options: {key, value, key, value, …, NULL}; an empty
 * value sets a flag; "source" is the device. options may be NULL. */
int mnt_new(const char *type, const char *const *options, uint64_t attrs);
/* A detached copy of what is mounted at path ("" is dirfd itself); all: with the mounts below. */
int mnt_clone(int dirfd, const char *path, bool all);
/* Sets attributes on the mount fd stands on; all: and on the mounts below. */
int mnt_set_attrs(int fd, uint64_t attrs, bool all);
/* Puts a detached mount over the directory or file target is (an O_PATH fd). */
int mnt_attach(int mount_fd, int target_fd);
/* The same over name in the directory dirfd, which is not followed if it is a link. */
int mnt_attach_at(int mount_fd, int dirfd, const char *name);
/* O_PATH|O_DIRECTORY and the like: path looked up as if root_fd were /. Never follows magic links;
 * symlinks false: no links at all. */
int open_in_root(int root_fd, const char *path, int flags, bool symlinks);
/* An O_PATH fd of path below root_fd, made if it is missing (parents too, mode 0755): a directory or
 * an empty file. path: absolute, without "..". -ENOTDIR, -EISDIR: it is there and of the other kind. */
int open_or_make_in_root(int root_fd, const char *path, bool directory);
