/* SPDX-License-Identifier: Apache-2.0 */
/* From the layers' indexes to one image's EROFS metadata. */
#pragma once

#include "base/error.h"
#include "oci/digest.h"

struct merged {
    uint64_t meta_bytes; /* a multiple of 4 KiB */
    uint64_t inodes;
    struct oci_digest digest; /* sha256 of the metadata file */
};

/* layers_fd: the directory with the index files; diff_ids base first. Writes the metadata to the empty
 * file out_fd (not synced). uuid is taken from id. -EBADMSG: an index is damaged; -E2BIG: too much for
 * one image; -EINVAL …: the layers do not fit together (the text names the member). */
int merge_layers(int layers_fd, const struct oci_digest *diff_ids, size_t n,
                 const struct oci_digest *id, int out_fd, struct merged *ret, struct error **err);
