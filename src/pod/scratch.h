/* SPDX-License-Identifier: Apache-2.0 */
/* Scratch disks: sparse files copied from a template. Paths are below a directory given as fd. All of it
 * waits for the disk: at the start of nexusd, and from then on in one thread beside the loop. */
#pragma once

#include <stdint.h>

#include "base/error.h"

/* Makes the template of that size unless it is there. Waits for mkfs (some 50 ms, once). */
int scratch_make_template(int dirfd, const char *mkfs, uint64_t bytes, struct error **err);
/* Copies the data of a sparse file, not its holes. 0 or errno. */
int scratch_copy_sparse(int from, int to, uint64_t bytes);
/* The disk of a sandbox, from the template, which is made if it is not there. A leftover goes. */
int scratch_create(int dirfd, const char *mkfs, uint64_t bytes, const char *id, int *ret_fd,
                   struct error **err);
/* A missing one is no error. */
int scratch_remove(int dirfd, const char *id, struct error **err);
