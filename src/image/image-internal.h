/* SPDX-License-Identifier: Apache-2.0 */
/* The store's body, for the files of this folder and their tests. */
#pragma once

#include "base/hashmap.h"
#include "base/list.h"
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
    unsigned refs; /* of users */
};

struct image_store {
    sd_event *event;                   /* owned reference */
    char *root;                        /* owned */
    char *helper;                      /* owned */
    struct image_registry *registries; /* owned, deep */
    size_t n_registries;
    uint32_t stall_ms, retry_base_ms, low_speed_s;
    int root_fd, layers_fd, meta_fd; /* owned */
    struct store *records;           /* owned */
    struct image_entry **entries;    /* owned; sorted by id */
    size_t n_entries;
    struct list pulls; /* running processes */
    char **dead;       /* owned: hex digests of files to delete when no pull runs */
    uint64_t used_bytes, inodes_used;
};

/* ---- image-record.c: entry ⇄ JSON ---- */
json_t *image_entry_to_json(const struct image_entry *e);
/* From a record or from nexus-pull's result (then without names). -EBADMSG with the reason. */
int image_entry_from_json(const json_t *doc, struct image_entry **ret, struct error **err);
void image_entry_free(struct image_entry *e);
DEFINE_CLEANUP(struct image_entry *, image_entry_free);

/* ---- image-files.c: what lies in the directory ---- */
/* 0 if all files of the entry are there in their sizes; -ENOENT or -EBADMSG with the reason. */
int image_files_check(const struct image_store *s, const struct image_entry *e, struct error **err);
/* Temporaries of one pull, or with NULL of all. */
void image_files_sweep(const struct image_store *s, const char *tag);
/* Files of the entry that no other entry names go: at once, or when the last pull has ended. */
void image_files_drop(struct image_store *s, const struct image_entry *e);
/* What waits for the end of pulls, and files that no record names: metadata at once, layers after a day
 * (a pull that failed has use for them when it is tried again) or, with fresh_orphans, at once. Nothing
 * while a pull runs. */
void image_files_collect(struct image_store *s, bool fresh_orphans);
/* Counts what is on disk into used_bytes and inodes_used. */
void image_files_count(struct image_store *s);

/* ---- image-store.c ---- */
struct image_entry *image_find(const struct image_store *s, const char *hex);
/* A pull has brought new (consumed), under this reference; top is what the reference meant. Makes it durable;
 * *ret is the entry in the store. */
int image_store_add(struct image_store *s, struct image_entry *new_entry,
                    const struct oci_reference *ref, const struct oci_digest *top,
                    struct image_entry **ret, struct error **err);

/* ---- image-pull.c ---- */
bool image_pulls_running(const struct image_store *s);
void image_pulls_end(struct image_store *s);

/* ---- image-request.c ---- */
/* The request for nexus-pull, without the tag. The caller's. -EINVAL, errors of reading a CA file. */
int image_request_build(const struct image_store *s, const struct oci_reference *ref,
                        const struct image_auth *auth, json_t **ret, struct error **err);
