/* SPDX-License-Identifier: Apache-2.0 */
/* What containers see of a live volume: a directory of the agent's own with kubelet's links, in which the
 * directory of each generation is a mount of the region's. So a generation can come and go as it does on
 * a host, watched by inotify, while the regions themselves never change.
 *
 *   <run>/volumes/NAME/            tmpfs, shared: mounts made here appear in the containers
 *     ..2026_11_24.1/              ← generation's directory of the overlay, read-only
 *     ..data -> ..2026_11_24.1     key -> ..data/key
 *   <run>/layers/N/                tmpfs {upper, work} and all: overlay over a region, where files that somebody
 *                                  may watch are unlinked when their time is over; one for all volumes of a region */
#pragma once

#include "agent/region.h"

#define FACADE_NAME_MAX 256

struct layer;

/* One generation, shown. */
struct generation {
    struct layer *layer;          /* one user of it */
    char part[FACADE_NAME_MAX];   /* the volume in the region */
    char source[FACADE_NAME_MAX]; /* its directory in the volume */
    char name[FACADE_NAME_MAX];   /* … and in the facade, which has it already perhaps */
    bool is_noted;                /* shown when who watches files was noted already */
    bool is_unsettled;            /* not all visible links are what they should be */
};

/* 0: facade_new would find there what it needs. */
int facade_check(const struct region *region, const char *part, struct error **err);
/* Makes and fills the facade of the name with a part of region. On error nothing is left. */
int facade_new(struct agent *a, const char *name, const struct region *region, const char *part,
               struct generation *ret, struct error **err);
/* Moves it to the generation of another region, in the order of kubelet's system calls; *g becomes the
 * new one, *ret_old what it was, for facade_retire. same_links: the visible links are what they were, and are not
 * looked at. On error the old one stays. */
int facade_update(struct agent *a, const char *name, const struct region *region, const char *part,
                  bool same_links, struct generation *g, struct generation *ret_old,
                  struct error **err);
/* Takes a generation that was left away; its files are unlinked one by one if anybody watches files. */
void facade_retire(struct agent *a, const char *name, const struct generation *old);
/* No container has it any more. */
void facade_remove(struct agent *a, const char *name, const struct generation *g);
/* At the end: frees the records; what is mounted stays. */
void facades_free(struct agent *a);
/* Where it is, to be cloned with all that is mounted in it. */
char *facade_path(const struct agent *a, const char *name);
