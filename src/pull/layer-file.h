/* SPDX-License-Identifier: Apache-2.0 */
/* The files of a layer in the image directory: are they there, and putting them there whole. */
#pragma once

#include <stdbool.h>

#include "erofs/layer-index.h"
#include "oci/digest.h"
#include "pull/converter.h"
#include "pull/source.h"

/* True if both files of the layer are there, whole and of one piece; then *ret says what they are. doubtful:
 * the data is read as well and must be what was written. */
bool layer_file_check(int layers_fd, const struct oci_digest *diff_id, bool doubtful,
                      struct layer_info *ret);

/* Has the converter convert the blob (which verifies itself) and publishes both files, durable, index last. tag names the
 * temporaries, which are gone on error. Owns blob. -EBADMSG: the content is not diff_id, or not a layer. */
int layer_file_make(int layers_fd, const char *tag, const struct oci_digest *diff_id,
                    struct converter *converter, struct source *blob, uint64_t compressed_bytes,
                    struct layer_info *ret, struct error **err);

/* A file being written in dir under a temporary name, then published under its own. */
struct new_file {
    int dir; /* borrowed */
    int fd;  /* owned */
    char tmp[128];
};
int new_file_open(struct new_file *f, int dir, const char *tag, const char *what,
                  struct error **err);
/* fsync, mode 0400, rename to name. The directory is not synced. */
int new_file_publish(struct new_file *f, const char *name, struct error **err);
/* Removes it unless it was published; closes. */
void new_file_done(struct new_file *f);
