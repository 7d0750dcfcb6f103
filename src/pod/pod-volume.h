/* SPDX-License-Identifier: Apache-2.0 */
/* The mapped volumes of a sandbox: which there are, who uses them, and how each follows what kubelet
 * writes. src/volume reads and watches; here it is decided.
 *
 * A live volume (a whole kubelet volume) is there once in a pod, however many containers mount it; any
 * other (a subPath) belongs to its one container. Containers name volumes in their records; a volume
 * that none names goes, and a region that no volume names goes with it (region.h). So whatever a crash
 * left is found by looking, not by remembering.
 *
 * An update:  changed → scan → layout → AddRegion → record "next" → UpdateVolume → record → RemoveRegion.
 * "next" is durable before the guest can have it: after a crash in between the same UpdateVolume is sent
 * again, which does no harm. One update of a volume at a time, a few of a pod; changes meanwhile are one
 * change afterwards. What fails keeps the old generation and is tried again, later and later. A volume that
 * changes all the time is paced (mapper.update_*): before the scan, so that the last state is what is read then.
 * A container that is being created does not wait for that, as it is to see what the host has.
 * Thread: the loop's; files are read by the worker's (worker.h). */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "base/list.h"
#include "pod/pace.h"
#include "pod/record.h"
#include "volume/kind.h"
#include "volume/layout.h"
#include "volume/watch.h"

struct container;
struct node;
struct plan_run;
struct region_add;
struct sandbox;
struct update_job;
struct vmm_call;

/* What is kept of a volume, in the sandbox's record. */
struct volume_record {
    char *name;   /* the guest's: "v-1" */
    char *title;  /* kubelet's name of the volume, for people */
    char *plugin; /* "secret" … */
    char *base, *rel;
    bool live;
    char *region; /* key; NULL while its first container is being created */
    char *identity;
    uint64_t generation; /* 1: the first */
    /* what the guest may have already: an UpdateVolume was or is about to be sent. NULL: nothing */
    char *next_region, *next_identity;
};
extern const struct record_desc volume_record_desc;

enum volume_step {
    VOLUME_IDLE,
    VOLUME_FINDING,   /* after a restart: opened, to be watched again */
    VOLUME_SCANNING,  /* the worker reads it */
    VOLUME_ADDING,    /* AddRegion goes on */
    VOLUME_HOLDING,   /* until no container is being created with it */
    VOLUME_SWITCHING, /* next goes on record, UpdateVolume is out, or its end goes on record */
};

struct pod_volume {
    struct list node;
    struct sandbox *sandbox; /* borrowed */
    struct volume_record rec;
    struct volume_watched *watched; /* owned; NULL: not watched */
    bool gone;                      /* its directory is; the last generation stays */
    bool fresh;                     /* its first container is being created */

    enum volume_step step;
    bool changed;           /* there may be a new generation */
    unsigned pins;          /* containers being created with the generation in force */
    struct update_job *job; /* owned by the worker */
    struct region_add *add; /* owned */
    struct vmm_call *call;  /* owned */
    struct store_op *op;    /* SWITCHING: the sandbox's record is being written */
    struct volume_layout *layout;
    char *new_region, *new_identity; /* owned; ADDING */
    uint64_t links, new_links; /* that the guest has, and next; 0: not known (volume_scan.links) */
    sd_event_source *retry;    /* owned */
    unsigned retries;
    unsigned unsettled;    /* readings of a volume whose links do not fit its generation yet */
    struct pace pace;      /* of generations */
    sd_event_source *wait; /* owned; IDLE and changed: the pace's */
    bool hurry;            /* the next one does not wait */
    bool paced;            /* told so; until it has rested */
    uint64_t waits;        /* updates that had to wait, for people */
};

/* A mount of a container, in its record. */
struct container_volume {
    char *volume; /* name of the volume */
    char *destination;
};
extern const struct record_desc container_volume_desc;

struct pod_volume *volume_new(struct sandbox *s);
struct pod_volume *volume_by_name(const struct sandbox *s, const char *name);
/* "secret db-password", for people; the caller's. */
char *volume_what(const struct pod_volume *v);
/* A file of a layout by a name for people: "v-1/..data/key" → "creds/..data/key". The caller's. */
char *volume_file_name(const struct sandbox *s, const char *path);
/* The live volume of that directory, or NULL. */
struct pod_volume *volume_by_place(const struct sandbox *s, const char *base, const char *rel);
bool volume_names_region(const struct sandbox *s, const char *key);
/* Watched from here on; notices come after volume_settled. */
int volume_watch(struct pod_volume *v, const struct volume_mount *m, struct error **err);
/* Its first generation is in the guest and on record: follow it. */
void volume_settled(struct pod_volume *v);
/* True while a container that is being created with it has to wait. */
bool volume_is_moving(const struct pod_volume *v);
/* Somebody waits for it to stop moving: its pace does not count. Nothing happens before the loop's next turn. */
void volume_hurry(struct pod_volume *v);
/* Notices that the kernel has already are taken in: a container that is created after a change sees it. */
void volumes_catch_up(struct node *n);
void volume_pin(struct pod_volume *v);
void volume_unpin(struct pod_volume *v);

/* Volumes that no container names are forgotten, regions that no volume names removed. */
void volumes_collect(struct sandbox *s);
/* nexus-vmm told its state: after a restart of nexusd or a lost connection. */
void volumes_resume(struct sandbox *s);
/* The sandbox is to end, or its VM has: nothing is followed any more, nothing is left here. */
void volumes_end(struct sandbox *s);

json_t *volumes_to_json(const struct sandbox *s);
int volumes_from_json(struct sandbox *s, const json_t *list, struct error **err);

/* The watch of all volumes, in the loop. */
int volumes_init(struct node *n, struct error **err);
void volumes_done(struct node *n);

/* ---- container-volume.c: the steps of the plan of CreateContainer */
int create_volumes(struct plan_run *run, void *object, struct error **err);
int undo_volumes(struct plan_run *run, void *object, struct error **err);
int create_bundle(struct plan_run *run, void *object, struct error **err);
int undo_bundle(struct plan_run *run, void *object, struct error **err);
void cancel_volumes(struct plan_run *run, void *object);
/* Its volumes can be used as they are; else 1: container_volumes_poke tells when to look again. */
int container_volumes_hold(struct container *c, struct error **err);
void container_volumes_release(struct container *c);
/* The plan is over. */
void container_volumes_finish(struct container *c, bool created);
void container_volumes_free(struct container *c);
/* Some volume of the pod stopped moving, or another container's creation is over. */
void container_volumes_poke(struct sandbox *s);
/* container-create.c: a create step that waited for container_volumes_hold goes on. */
void container_create_go_on(struct container *c);
