/* SPDX-License-Identifier: Apache-2.0 */
/* From a tree to the metadata of an EROFS image whose file data lies in segments behind it:
 *
 *   [metadata][segment 0][segment 1]…       one contiguous range of 4 KiB blocks
 *
 * Each segment is a file of its own on the host. Regular files are FLAT_PLAIN runs of blocks (so that
 * DAX works) and no two inodes share a block. Deterministic: the same tree gives the same bytes. */
#pragma once

#include "erofs/tree.h"

/* Lays out the tree.
 *   segment_bytes  n sizes, each a multiple of 4 KiB (0 is allowed), one per layer begun
 *   ret_bytes      of the metadata, a multiple of 4 KiB
 * -EINVAL: n or a size does not fit the tree; -ERANGE: a file lies outside its segment; -EFBIG: more
 * than 2^32 blocks; -ENOMEM. */
int erofs_plan(struct erofs_tree *t, const uint64_t *segment_bytes, size_t n, uint64_t *ret_bytes);

/* Takes metadata bytes in order; 0 or an errno, which ends the writing. */
typedef int (*erofs_sink_fn)(void *userdata, const void *bytes, size_t len);

/* Writes what was planned. uuid: 16 bytes. 0, or the sink's errno, or -ENOMEM. */
int erofs_write(struct erofs_tree *t, const uint8_t uuid[16], erofs_sink_fn sink, void *userdata);
