/* SPDX-License-Identifier: Apache-2.0 */
/* What store.c and store-queue.c share. */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "store/store.h"

#define NAME_LIMIT 200 /* with ".json" and the tags of temporaries it fits NAME_MAX */

struct store {
    unsigned refs;             /* the owner's, and one per job */
    struct store_queue *queue; /* borrowed; NULL: nothing is written */
    int dirfd;
    bool readonly;
    /* the writing thread's, once it runs */
    bool has_reserve;
    bool reserve_given_up; /* make it again when there is space */
};
void store_unref(struct store *s);

/* In the writing thread: nothing is allocated. */
int store_write_file(struct store *s, const char *name, const struct buf *text, bool owed);
int store_delete_file(struct store *s, const char *name);

/* text NULL: delete; else moved from. */
int store_queue_add(struct store_queue *q, struct store *s, const char *name, struct buf *text,
                    bool owed, store_done_fn done, void *userdata, struct store_op **ret,
                    struct error **err);
