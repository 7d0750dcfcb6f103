/* SPDX-License-Identifier: Apache-2.0 */
/* The read-only regions of a sandbox's VM, as far as nexusd knows: what nexus-vmm said, plus what was
 * added since. Regions of volumes ("vol-N") live exactly as long as somebody names them: sweep removes
 * all others, also those that a crash or a lost connection left, and tries again until they are gone.
 * Regions of images are listed for their counters only. Thread: the loop's. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "gen/msg/nexus.pb-c.h"

struct sandbox;
struct volume_layout;
struct vmm_call;

#define REGION_PREFIX "vol-"
#define REGION_WHAT_MAX 256

struct region {
    struct list node;
    struct sandbox *sandbox; /* borrowed */
    char *key, *what;        /* owned; what: for people, may be empty */
    uint64_t bytes, denied_writes, repaired_pages;
    bool adding;           /* region_add goes on, or its owner has not written its key down yet */
    struct vmm_call *call; /* owned; its removal, which is answered when the last reader has gone */
};

/* Everything the VM has, at hello: the truth. */
void regions_take(struct sandbox *s, const Nexus__VmmState *state);
/* Later words of nexus-vmm: counters. */
void regions_update(struct sandbox *s, const Nexus__VmmState *state);
/* A new key. Unique among all that the VM has and the records name. */
char *region_new_key(struct sandbox *s);
/* Removes what nobody names. Call it whenever somebody stopped naming a region. */
void regions_sweep(struct sandbox *s);
void regions_clear(struct sandbox *s); /* the VM is gone */
const struct region *region_find(const struct sandbox *s, const char *key);

/* Sends a region in as many messages as its descriptors need; what it is (at most REGION_WHAT_MAX bytes are
 * told) shows in log lines and status. fn is called once, later; then the region
 * is kept until region_named. layout: borrowed, descriptors are closed as they are sent. */
typedef void (*region_add_fn)(void *userdata, int r, const struct error *err);
struct region_add;
int region_add(struct sandbox *s, const char *key, const char *what, struct volume_layout *layout,
               region_add_fn fn, void *userdata, struct region_add **ret, struct error **err);
/* fn is not called any more; what was sent is removed by the next sweep. NULL is allowed. */
void region_add_cancel(struct region_add *add);
/* From now on a region with that key is kept only if a volume names it. */
void region_named(struct sandbox *s, const char *key);
