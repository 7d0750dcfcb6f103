/* SPDX-License-Identifier: Apache-2.0 */
/* inotify's watch descriptors and who uses them. One inode has one watch, whoever asks: two containers may
 * have the same volume, and volumes share the directory above them. So every directory has the same mask
 * and a list of users. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct volume_watched;

enum watch_role {
    WATCH_PARENT, /* the directory above a live volume */
    WATCH_ROOT,   /* a live volume's own */
    WATCH_DATA,   /* of the generation in force, or any below the root if there is none */
    WATCH_FIXED,  /* of a volume that does not update, or its single file */
};

struct watch_node {
    int wd;
    struct watch_node *chain; /* in the bucket */
    struct list users;        /* watch_use.in_node; never empty but for a moment */
};

struct watch_use {
    struct watch_node *node;
    struct list in_node, in_owner;
    struct volume_watched *owner;
    enum watch_role role;
    uint64_t round; /* of the owner's last follow that wanted it */
    char *text; /* owned; PARENT: the volume's name there; else the directory below the volume */
};

struct watch_table {
    int fd;                      /* borrowed; inotify */
    struct watch_node **buckets; /* owned */
    size_t n_buckets, count;
};

void watch_table_init(struct watch_table *t, int inotify_fd);
void watch_table_done(struct watch_table *t); /* after all uses were dropped */

/* Watches what fd (O_PATH will do) is. uses: the owner's list. A use that is there already only gets the
 * new round. 0 or errno: -ENOSPC. */
int watch_table_use(struct watch_table *t, int fd, enum watch_role role, const char *text,
                    uint64_t round, struct volume_watched *owner, struct list *uses);
/* Drops a use, and the watch with its last one. */
void watch_table_drop(struct watch_table *t, struct watch_use *u);
struct watch_node *watch_table_get(const struct watch_table *t, int wd);
