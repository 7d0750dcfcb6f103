/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the files of all images are what was written when they were pulled. Reads the image directory and
 * changes nothing; nexusd may run or not, and containers may use the images meanwhile. Data comes from the
 * disk and not from the page cache where the file system can do that. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct image_damage {
    const char *file;   /* below the image directory */
    const char *reason; /* "its content is not what was written" */
    char *const *
        images; /* names of those that have the file, NULL-terminated; ids where there is no name */
};

struct image_verify_ops {
    /* NULL is allowed. After each piece. */
    void (*progress)(uint64_t done_bytes, uint64_t total_bytes, void *userdata);
    void (*damaged)(const struct image_damage *damage, void *userdata);
};

struct image_verified {
    size_t images, layers; /* looked at; a layer of several images once */
    size_t damaged;        /* files */
    uint64_t bytes;
};

/* root: the image directory, /var/lib/nexus/images. 0, however much is damaged; errno: it could not be looked
 * at (-ENOENT: there is no such directory). */
int image_verify(const char *root, const struct image_verify_ops *ops, void *userdata,
                 struct image_verified *ret, struct error **err);
