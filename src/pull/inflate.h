/* SPDX-License-Identifier: Apache-2.0 */
/* A layer's blob as its plain tar: gzip (any number of members), zstd (any number of frames) or plain, told
 * apart by the first bytes. The plain bytes are hashed on the way (they must give the diff_id).
 *
 * Bombs: no more than limit bytes in all, and no more than LIMIT_LAYER_RATIO times what was read once
 * 64 MiB are out; zstd windows up to 128 MiB. A stream that is cut, or followed by something else, is
 * refused. */
#pragma once

#include "oci/digest.h"
#include "pull/source.h"

/* Owns inner. limit: bytes. NULL: out of memory (inner is freed). */
struct source *source_inflate(struct source *inner, uint64_t limit);
/* After the end was read: the digest of, and the number of, the plain bytes. */
void source_inflate_result(struct source *s, struct oci_digest *ret_diff_id, uint64_t *ret_bytes);
