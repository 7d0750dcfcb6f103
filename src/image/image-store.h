/* SPDX-License-Identifier: Apache-2.0 */
/* The node's images, as nexusd sees them: records, names, use counts; no image byte is parsed here. The
 * work of a pull is done by the helper nexus-pull, one process per pull.
 *
 * An image is named by the digest of its config ("sha256:…", CRI's Image.id). Its files are immutable:
 * one metadata file of its own, one data file per layer shared by content. A record is written after
 * the files it names are durable.
 *
 * Single thread (that of the loop). Callbacks run from the loop, never from inside a call here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "oci/config.h"
#include "store/store.h"

struct image_store;

/* How to reach the registry that a reference names. Hosts that are not listed: https://host, with
 * docker.io at registry-1.docker.io. */
struct image_registry {
    const char *host; /* as in references: "docker.io", "localhost:5000" */
    const char *const
        *endpoints;          /* NULL-terminated URLs tried in order before the host itself, e.g.
                                     "http://127.0.0.1:5000"; the stored name keeps the host. NULL: none */
    bool only_endpoints;     /* never ask the host itself */
    bool plain_http;         /* the host itself speaks http */
    bool mirror_credentials; /* the pull's credentials go to the endpoints, too */
    const char *ca_file;     /* PEM for all of these, or NULL: the system's */
};

struct image_config {
    struct store_queue *queue; /* writes the records; outlives the store */
    const char *root;          /* e.g. /var/lib/nexus/images; made 0700 */
    const char *pull_helper;   /* path of nexus-pull */
    const struct image_registry *registries;
    size_t n_registries;
    uint32_t stall_ms;      /* a pull without progress for so long is ended; 0: 300,000 */
    uint32_t retry_base_ms; /* first back-off of a retry; 0: 500 */
    uint32_t low_speed_s;   /* a transfer under 1 KiB/s for so long is ended; 0: 60 */
};

/* Loads the records, sets damaged ones and those whose files are gone or of the wrong size aside, sweeps
 * temporaries and orphans. bad (may be NULL) hears of each record set aside. cfg is copied. */
typedef void (*image_damaged_fn)(const char *name, const char *reason, void *userdata);
int image_store_open(sd_event *event, const struct image_config *cfg, image_damaged_fn bad,
                     void *userdata, struct image_store **ret, struct error **err);
/* Ends running pulls (their callbacks do not run). Images must be unreferenced by then. */
void image_store_close(struct image_store *s);
DEFINE_CLEANUP(struct image_store *, image_store_close);
/* After recovery has taken its references: the files of removed images that nobody uses go. */
void image_store_settle(struct image_store *s);

/* Fields are the store's and read-only; valid until the loop runs again, or as long as a reference is held
 * (tags and digests may change even then). */
struct image {
    char *id;            /* "sha256:" and 64 hex digits */
    char **repo_tags;    /* "docker.io/library/busybox:latest"; NULL or NULL-terminated */
    char **repo_digests; /* "docker.io/library/busybox@sha256:…" */
    uint64_t size_bytes; /* on disk, layers shared with other images counted as well */
    int64_t uid;         /* of USER, or -1 where it is a name */
    char *username;      /* of USER, or NULL where it is a number */
    struct oci_process process;
    uint64_t pulled_at_ns; /* real time */
    bool removed; /* hidden from lookup and list; its files live as long as its references */
};

/* By id (with or without "sha256:", full length), or by any form of a reference. NULL: no such image,
 * or text that is no reference. */
const struct image *image_lookup(const struct image_store *s, const char *text);
/* Each image that is not removed, in order of id; NULL after the last. Start with NULL. */
const struct image *image_next(const struct image_store *s, const struct image *after);

/* A use of the image (a container's): its files stay until the last unref, even when it is removed, and
 * across restarts of the daemon if the reference is taken again before image_store_settle. id: full,
 * with "sha256:". NULL: no such image. */
const struct image *image_ref(struct image_store *s, const char *id);
void image_unref(struct image_store *s, const struct image *image);

/* RemoveImage: every tag, digest and name of the image that text names. 0: there is none, which is no
 * error. 1: it is not listed any more; done tells from the loop when that is durable and its space is free
 * (which waits for running pulls and users, done does not), or (r negative, err borrowed) that it could not
 * be and the image is listed again. */
typedef void (*image_removed_fn)(int r, const struct error *err, void *userdata);
struct image_write;
int image_remove(struct image_store *s, const char *text, image_removed_fn done, void *userdata,
                 struct image_write **ret, struct error **err);
/* done is not called any more; the image goes all the same. NULL is allowed. */
void image_remove_forget(struct image_write *w);

struct image_auth {
    const char *username, *password; /* NULL or "": none, as below */
    const char *auth;                /* base64 of user:password */
    const char *server_address;      /* if set and not the reference's host, the rest is not used */
    const char *identity_token;      /* OAuth2 refresh token */
    const char *registry_token;      /* a bearer token as it is */
};

struct image_pull_call;
/* Bytes fetched so far and in all (0: not known yet). It may cancel its own call and no other. */
typedef void (*image_progress_fn)(uint64_t done_bytes, uint64_t total_bytes, void *userdata);
/* r 0: image is set (borrowed as from image_lookup). Else err tells why: class not-found, denied,
 * invalid, exhausted, unavailable (text begins "RegistryUnavailable"), unsupported, deadline …  The call
 * is gone when this returns. */
typedef void (*image_pulled_fn)(int r, const struct error *err, const struct image *image,
                                void *userdata);
/* Always asks the registry. Calls with the same reference and auth that overlap share one process. auth may
 * be NULL, progress may be NULL. Errors here (then no callback): -EINVAL, those of starting a process. */
int image_pull(struct image_store *s, const char *reference, const struct image_auth *auth,
               image_progress_fn progress, image_pulled_fn done, void *userdata,
               struct image_pull_call **ret, struct error **err);
/* No callback follows. The process ends when nobody waits for it any more. */
void image_pull_cancel(struct image_pull_call *call);

/* Where the files lie. */
struct image_dirs {
    int layers_fd, meta_fd;
};

/* The segments of the image's region in their order, [metadata][layer]…: sizes in bytes, each a multiple of
 * 4 KiB and not 0, and after image_region_open() O_RDONLY descriptors. Region key: image->id. */
struct image_region {
    size_t n;
    uint64_t *bytes; /* owned */
    int *fds;        /* owned, and the descriptors */
    char **names;    /* owned; of the files, for people; ends with NULL */
    struct image_segment *segments;
    struct image_dirs dirs; /* owned */
};
/* What opening takes: the image is needed for that no more. -EMFILE. */
int image_region_new(struct image_store *s, const struct image *image, struct image_region **ret,
                     struct error **err);
/* Waits for the disk. Any thread. -EBADMSG: a file is not what was written; errno of open. */
int image_region_open(struct image_region *r, struct error **err);
void image_region_free(struct image_region *r);
DEFINE_CLEANUP(struct image_region *, image_region_free);

struct image_fs_info {
    const char *mountpoint; /* the root; borrowed */
    uint64_t used_bytes, inodes_used;
};
/* From memory. */
void image_fs_info(const struct image_store *s, struct image_fs_info *ret);
