/* SPDX-License-Identifier: Apache-2.0 */
/* A container of a sandbox. Readable by cri; changed only by the operations of node.h. */
#pragma once

#include "pod/pod-volume.h"
#include "pod/sandbox.h"

struct container_files;
struct container_share;
struct cgroup_numbers;
struct container_volumes;
struct image;

enum container_cri_state { /* CRI's numbers */
                           CONTAINER_CRI_CREATED = 0,
                           CONTAINER_CRI_RUNNING = 1,
                           CONTAINER_CRI_EXITED = 2,
                           CONTAINER_CRI_UNKNOWN = 3,
};

/* An image that is mounted, in the container's record. */
struct image_mount {
    char *destination;
    char *image_id;
};
extern const struct record_desc image_mount_desc;

/* What is observed and has to survive us, described by a table in container.c. */
struct container_status {
    uint64_t created_at_ns, started_at_ns, finished_at_ns; /* CLOCK_REALTIME; 0: not yet */
    int32_t exit_code;
    uint32_t exit_signal;
    char *reason, *message;
    char *image_id;  /* Image.id */
    char *image_ref; /* what kubelet compares with PullImage's answer: the id too */
    char *log_path;  /* absolute; NULL: no log */
    bool has_user;   /* the guest has told who its first process runs as */
    uint32_t uid, gid;
    struct record_u32v groups; /* supplemental, LIMIT_GROUPS_TOLD at most */
    int32_t stop_signal;       /* effective: the container's, the image's, or SIGTERM */
    bool
        stop_signalled; /* the stop signal was sent; it is sent once however often Stop is called */
    uint64_t stop_deadline_ns; /* CLOCK_MONOTONIC of this boot; when SIGKILL is due */
    RECORD_LIST_OF(struct container_volume) volumes; /* its mapped mounts (pod-volume.h) */
    RECORD_LIST_OF(struct image_mount) image_mounts;
};

struct container {
    struct sandbox *sandbox; /* borrowed */
    struct list node;        /* in sandbox->containers */
    char id[LIMIT_ID_MAX + 1];
    struct container_spec spec;
    enum container_state state;
    struct container_status status;
    const struct image *image;           /* a counted use of it; NULL: its files are lost */
    const struct image **mounted_images; /* owned, one for each of image_mounts, as image */

    /* nothing below is written to disk, except for the plan's journal */
    struct plan_run *plan;       /* owned */
    json_t *journal;             /* owned */
    struct store_op *journal_op; /* the plan's write that goes on */
    struct store_op *op;         /* the write that a step, or the end of a plan, waits for */
    struct store_op *end_op;     /* the write of its exit: who waits for that waits for this */
    struct error *why;           /* owned; why it was not created, until its record is gone */
    struct vmm_call *call;       /* owned; what the open plan's step waits for */
    unsigned call_step;          /* of a create plan: which step that is */
    struct container_volumes *volumes; /* owned; while it is created */
    struct container_share
        *shares;      /* owned; one for each of its mounts, once they are told apart */
    bool share_waits; /* for its pod's virtiofsd */
    struct step_job region_job, files_job, share_job, modules_job;
    struct vmm_call *modules_call; /* owned */
    bool has_modules; /* the kernel modules it wants are in the VM, see container-modules.c */
    sd_event_source *region_retry; /* nexus-vmm is to be asked again */
    uint64_t region_until_ns;      /* not later */
    size_t region_at;              /* which of its images the step "region" is at; 0: its own */
    struct container_files *files; /* owned; between the steps files and guest of a create plan */
    sd_event_source *timer;
    struct cgroup_numbers *numbers;  /* owned; as last heard; NULL: never */
    bool told_started, told_ended;   /* to the node's observer */
    bool stop_wanted, remove_wanted; /* while starting or stopping: what comes next */
    uint64_t stop_timeout_ms;        /* with stop_wanted */
    struct list create_waiters, start_waiters, stop_waiters, remove_waiters;
};

/* The image mounted there, or NULL. */
const struct image_mount *container_image_mount(const struct container *c, const char *destination);
bool container_is_listed(const struct container *c);
enum container_cri_state container_cri_state(const struct container *c);
