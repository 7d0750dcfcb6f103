/* SPDX-License-Identifier: Apache-2.0 */
/* The process that takes a layer apart. nexus-pull has the network and the credentials; inflating and reading
 * tars, where memory bugs live, happens in children that have neither, nor any file but the ones handed
 * over with a layer: bytes come in over a pipe, {data, index} are two descriptors, the answer is one struct.
 *
 * A child serves one layer at a time and ends when its nexus-pull does. What it answers is checked like
 * anybody's. */
#pragma once

#include "erofs/layer-index.h"
#include "oci/digest.h"
#include "pull/source.h"

struct converter {
    int sock; /* owned; -EBADF: not started */
};

/* Forks one; before threads, before the sandbox of nexus-pull. In the child `forget` runs first: it wipes
 * what the child must not know. */
int converter_start(struct converter *c, void (*forget)(void *userdata), void *userdata,
                    struct error **err);
/* The child ends by itself. */
void converter_stop(struct converter *c);

/* Pumps blob (which verifies itself) through the child into the two empty files. ret: all but diff_id and
 * compressed_bytes; ret_diff_id: of what came out. Errors: of blob, of the child's work, or -EIO: the child
 * died, and serves no more. */
int converter_run(struct converter *c, struct source *blob, int data_fd, int index_fd,
                  struct layer_info *ret, struct oci_digest *ret_diff_id, struct error **err);
