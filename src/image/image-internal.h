/* SPDX-License-Identifier: Apache-2.0 */
/* The store's body, for the files of this folder and their tests. */
#pragma once

#include <stdatomic.h>

#include "base/hashmap.h"
#include "base/list.h"
#include "event/side-job.h"
#include "image/image-store.h"
#include "oci/digest.h"
#include "oci/reference.h"
#include "store/store.h"

struct image_layer {
    struct oci_digest diff_id;
    uint64_t data_bytes, index_bytes;
};

struct image_entry {
    struct image pub;           /* what users see; first */
    struct oci_digest digest;   /* of the config: the id without its prefix */
    struct image_layer *layers; /* owned; base first */
    size_t n_layers;
    uint64_t meta_bytes;
    struct oci_digest meta_digest; /* sha256 of the metadata file */
    unsigned refs;                 /* of users */
};

#define IMAGE_JOB_MS 60000 /* what waits for the disk is given up then */

struct image_store {
    sd_event *event;                   /* owned reference */
    struct store_queue *queue;         /* borrowed */
    char *root;                        /* owned */
    char *helper;                      /* owned */
    struct image_registry *registries; /* owned, deep */
    size_t n_registries;
    uint32_t stall_ms, retry_base_ms, low_speed_s;
    struct worker *worker;        /* owned; the images' thread: what waits for the disk */
    int root_fd;                  /* owned */
    struct image_dirs dirs;       /* owned */
    struct store *records;        /* owned */
    struct image_entry **entries; /* owned; sorted by id */
    size_t n_entries;
    struct list pulls;  /* running processes */
    struct list writes; /* struct image_write: records being written */
    char **dead;        /* owned: hex digests of files to delete when no pull runs */
    bool fresh_orphans; /* the next walk deletes what a pull that failed has left, however new */
    uint64_t used_bytes, inodes_used;
    struct side_job *walk_job; /* NULL: no walk is under way */
    struct image_walk *walk;   /* borrowed from it, the thread's but for stop */
    unsigned walk_number;      /* of the last that began */
    bool walk_again;           /* when it has ended */
};

/* ---- image-record.c: entry ⇄ JSON ---- */
json_t *image_entry_to_json(const struct image_entry *e);
/* From a record or from nexus-pull's result (then without names). -EBADMSG with the reason. */
int image_entry_from_json(const json_t *doc, struct image_entry **ret, struct error **err);
void image_entry_free(struct image_entry *e);
DEFINE_CLEANUP(struct image_entry *, image_entry_free);

/* ---- image-files.c: what lies in the directory. Waits for the disk; any thread ---- */
/* 0 if all files of the entry are there in their sizes; -ENOENT or -EBADMSG with the reason. */
int image_files_check(const struct image_dirs *d, const struct image_entry *e, struct error **err);
/* The record of the image with these layers (hex digests) is about to go. Should nexusd end before their
 * files went too, then the next start is to know that they are not a failed pull's: it takes them for a
 * day old. */
void image_files_age(const struct image_dirs *d, char *const *layers);
int image_dirs_dup(const struct image_dirs *d, struct image_dirs *ret, struct error **err);
void image_dirs_done(struct image_dirs *d);

/* One walk: counts what is there, and deletes. */
struct image_walk {
    struct image_dirs dirs; /* owned */
    char *temporaries;      /* owned: files with this prefix go. NULL: none do */
    /* Files go that are neither of images nor of layers: metadata at once, layers if they are dead, or old,
     * or with fresh_orphans (a pull that failed has use for them when it is tried again). Cleared by the
     * walk when a pull runs. */
    bool collects, fresh_orphans;
    char **images, **layers, **dead; /* owned: hex digests */
    atomic_bool stop;                /* from any thread: the walk ends soon, its counts are wrong */
    uint64_t used_bytes, inodes;     /* out: what is left */
};
void image_walk_run(struct image_walk *w);

/* ---- image-walk.c ---- */
/* tag: temporaries of that pull go. The caller's. -EMFILE. */
int image_walk_new(const struct image_store *s, const char *tag, struct image_walk **ret,
                   struct error **err);
void image_walk_free(struct image_walk *w);
DEFINE_CLEANUP(struct image_walk *, image_walk_free);
/* It also deletes what nobody names as the store is now. */
void image_walk_collects(struct image_store *s, struct image_walk *w);
void image_walk_counted(struct image_store *s, const struct image_walk *w);
/* Soon a walk collects, in the thread. Its number, which image_writes_walked() hears of; 0: there is none,
 * for a pull runs (and asks when it ends), or for want of memory or descriptors. */
unsigned image_collect(struct image_store *s);
/* A pull begins: it may use what would be deleted. */
void image_collect_stop(struct image_store *s);
void image_collect_end(struct image_store *s);
/* Files of the entry that no other entry names may be deleted, however new. */
void image_drop_files(struct image_store *s, const struct image_entry *e);

/* ---- image-store.c ---- */
struct image_entry *image_find(const struct image_store *s, const char *hex);
/* A pull has brought new (consumed), under this reference; top is what the reference meant. done tells
 * when that is durable, with the entry in the store, or why not. Negative: done is not called. */
typedef void (*image_added_fn)(int r, const struct error *err, struct image_entry *e,
                               void *userdata);
int image_store_add(struct image_store *s, struct image_entry *new_entry,
                    const struct oci_reference *ref, const struct oci_digest *top,
                    image_added_fn done, void *userdata, struct error **err);

/* ---- image-write.c: changes of records, on their way to the disk ---- */
/* What goes back if it does not get there. */
struct image_write {
    struct list node; /* in the store's */
    struct image_store *store;
    struct image_entry *entry; /* counted as a use, so that it stays; not while it is purged */
    struct side_job *job;      /* of a purge: its layers are aged */
    struct store_op *op;
    unsigned walk;            /* of a purge that waits for this one only; entry is gone */
    image_added_fn added;     /* of an add */
    image_removed_fn removed; /* of a removal; NULL: nobody waits */
    void *userdata;
    char *new_tag, *new_digest;     /* owned; of an add: names it did not have */
    char **old_tags, **old_digests; /* owned; of a removal: names it had */
    bool is_purge;
    bool is_new, was_removed; /* of an add; was_removed also of a purge */
    uint64_t was_pulled_ns;
};
/* Writes the entry's record as it is now, for what an older record leads to as well. */
void image_save_soon(struct image_store *s, const struct image_entry *e);
/* Deletes the record, then the files. The entry is not listed meanwhile; who uses or adds it before that
 * keeps it. done may be NULL. */
int image_purge(struct image_store *s, struct image_entry *e, image_removed_fn done, void *userdata,
                struct image_write **ret, struct error **err);
/* The image is not listed any more, and goes when nobody uses it. */
int image_hide(struct image_store *s, struct image_entry *e, image_removed_fn done, void *userdata,
               struct image_write **ret, struct error **err);
/* e has just got these names; those it had before are NULL. Consumes w. */
int image_write_added(struct image_write *w, struct error **err);
struct image_write *image_write_new(struct image_store *s, struct image_entry *e);
/* The walk with the number walk_number is over: who waited for its files is told. */
void image_writes_walked(struct image_store *s);
/* Nobody is told. For the end of the store. */
void image_writes_end(struct image_store *s);
void image_names_remove(char **v, const char *name);
/* A tag names one image: the newer pull has it. */
void image_take_tag_from_others(struct image_store *s, const struct image_entry *owner,
                                const char *tag);
void image_take_out(struct image_store *s, const struct image_entry *e);

/* ---- image-pull.c ---- */
bool image_pulls_running(const struct image_store *s);
void image_pulls_end(struct image_store *s);

/* ---- image-request.c ---- */
/* The request for nexus-pull, without the tag. The caller's. -EINVAL, errors of reading a CA file. */
int image_request_build(const struct image_store *s, const struct oci_reference *ref,
                        const struct image_auth *auth, json_t **ret, struct error **err);
