/* SPDX-License-Identifier: Apache-2.0 */
/* From a layer's tar to its two files: data (block-aligned contents of regular files, holes kept) and index
 * (the members in order, src/erofs/layer-index.h). Nothing is unpacked: no path of the tar is ever used
 * on the host. libarchive reads the tar format and nothing else, no filters. */
#pragma once

#include "erofs/layer-index.h"
#include "pull/source.h"

/* Reads plain (the tar) to its very end, past the end marker, and writes to the two open, empty files at
 * their starts. ret: everything but diff_id and compressed_bytes, which the caller knows. Neither file
 * is synced. -EBADMSG: not a tar, or damaged; -E2BIG: a limit; -EINVAL: a member we refuse; errors of
 * plain and of the files. */
int layer_convert(struct source *plain, int data_fd, int index_fd, struct layer_info *ret,
                  struct error **err);
/* Writes the header that completes the index. */
int layer_finish_index(int index_fd, const struct layer_info *info, struct error **err);
