/* SPDX-License-Identifier: Apache-2.0 */
/* Which volumes changed: one inotify descriptor for all of them. A volume's own directory, the directory
 * above it and every directory of the generation in force are watched; files are watched through their
 * directories. When "..data" is renamed the watches follow to the new generation.
 *
 * The order that misses nothing:  add → scan → use → rearm(identity of that scan).  A notice is given once
 * and then not again before the next rearm; what happened meanwhile is compared with the identity given
 * there, so five swaps in a row are one notice, and a swap already seen is none. After a restart:
 * add → rearm(identity from the record). An overflow of the kernel's queue is healed by comparing every
 * volume.
 *
 * No loop is assumed: volume_watch_fd() is readable when there is something to do (level-triggered), and
 * volume_watch_dispatch() does a bounded part of it. Notices come from there only.
 *
 *   loop_add_io(loop, volume_watch_fd(w), LOOP_READ, on_watch, w, &source);              src/event
 *   sd_event_add_io(event, &source, volume_watch_fd(w), EPOLLIN, on_watch, w);           nexusd
 *
 * One thread. No directory stays open, so kubelet's umount is not kept waiting; of a volume that is not
 * live the descriptor is kept, which lies in a mount of its own (kind.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "volume/kind.h"
#include "volume/scan.h"

struct volume_watch;
struct volume_watched;

/* What a notice says; several at once are possible. */
#define VOLUME_CHANGED 1U /* there may be a new generation: scan, compare, use, rearm */
#define VOLUME_WRITTEN 2U /* a published file was written in place: path is the first one */
#define VOLUME_BLIND \
    4U /* some of it is not watched: r says why (-ENOSPC: limits of inotify, …). Told
                           * once; tried again with the next event and with rearm */
#define VOLUME_GONE 8U /* the directory is gone; the last notice, given without waiting for rearm */

struct volume_notice {
    unsigned what;
    const char *path; /* WRITTEN: below the volume, possibly cut; else "" */
    int r;            /* BLIND: negative errno; else 0 */
};

/* May call any function here but volume_watch_dispatch and volume_watch_free; may remove v. */
typedef void (*volume_notice_fn)(struct volume_watched *v, const struct volume_notice *notice,
                                 void *userdata);

/* limits: copied; depth and nodes bound the watches of one volume. High tier; -EMFILE: see
 * fs.inotify.max_user_instances. */
int volume_watch_new(const struct volume_limits *limits, struct volume_watch **ret,
                     struct error **err);
void volume_watch_free(struct volume_watch *w); /* and all that is watched */
DEFINE_CLEANUP(struct volume_watch *, volume_watch_free);

/* Borrowed. */
int volume_watch_fd(const struct volume_watch *w);
/* A turn: some events, some comparisons. 1: there is more (the fd stays readable); 0; or a negative errno
 * when inotify itself fails. */
int volume_watch_dispatch(struct volume_watch *w);

/* Watches a MAPPED mount (borrowed). The first notice comes after the first rearm (but GONE at any time).
 * Of a live volume all changes are told; of another only WRITTEN, for it never updates, and CHANGED after
 * a comparison. -ENOENT: it is gone; -ENOSPC: fs.inotify.max_user_watches is used up; -E2BIG: a limit. */
int volume_watch_add(struct volume_watch *w, const struct volume_mount *m, volume_notice_fn fn,
                     void *userdata, struct volume_watched **ret, struct error **err);
/* No notice comes any more; v is freed. NULL is allowed. */
void volume_watch_remove(struct volume_watched *v);

/* The scan behind the identity of the next rearm was begun after volume_watch_add, so that there is nothing to
 * compare unless events say so. */
void volume_watch_scanned(struct volume_watched *v);

/* The owner has what `seen` says and wants the next notice: soon, if the volume is different by now. But a
 * state he was told of and could not use (a scan that failed, a region that was refused) is not told again
 * before something happens to the volume: trying again is up to him and his clock. NULL: whatever was
 * noted since the last notice is told without a comparison. */
void volume_watch_rearm(struct volume_watched *v, const struct volume_identity *seen);

/* Watches in use, for limits and metrics. */
size_t volume_watch_count(const struct volume_watch *w);
