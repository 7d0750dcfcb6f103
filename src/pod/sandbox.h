/* SPDX-License-Identifier: Apache-2.0 */
/* A pod sandbox: one VM, one network namespace, its containers. Readable by cri; changed only by the
 * operations of node.h. Borrowed pointers to it are valid until the loop's next turn. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/limit.h"
#include "base/list.h"
#include "gen/msg/nexus.pb-c.h"
#include "pod/plan.h"
#include "pod/spec.h"
#include "pod/state.h"
#include "pod/vmm-process.h"

struct cni_call;
struct cni_network;
struct net_config;
struct net_task;
struct pod_share;
struct sandbox_stats;
struct side_job;
struct store_op;
struct node;
struct vmm_call;
struct vmm_client;

enum sandbox_wait {
    SANDBOX_WAIT_NONE,
    SANDBOX_WAIT_HELLO,      /* nexus-vmm's state */
    SANDBOX_WAIT_GUEST,      /* the agent's hello */
    SANDBOX_WAIT_CALL,       /* an answer */
    SANDBOX_WAIT_CONTAINERS, /* no container runs any more */
    SANDBOX_WAIT_EXIT,       /* the process is gone */
};
enum sandbox_desired { SANDBOX_WANT_READY, SANDBOX_WANT_STOPPED, SANDBOX_WANT_REMOVED };

/* What is observed and has to survive us, described by a table in sandbox.c. */
struct sandbox_status {
    uint64_t created_at_ns; /* CLOCK_REALTIME */
    char *boot_id;          /* of the boot in which its VM was started */
    char *reason,
        *message; /* why it is not ready any more; NULL: it was asked to stop, or is ready */
    uint32_t cpus;
    uint64_t memory_bytes;
    char *netns_path;
    char *cni_config;  /* the list as it was at ADD: DEL is run from it */
    char *cni_result;  /* NULL until ADD succeeded */
    bool network_owed; /* an ADD was begun and no DEL has succeeded since */
    char **ips;        /* primary first */
    char *cgroup_path; /* NULL: none */
    char *guest_kernel;
    bool ghost; /* made up at a start to clean up what has no readable record; in no list */
};

/* A step's work beside the loop. */
struct step_job {
    struct side_job *job; /* NULL: none goes on */
    unsigned step;        /* of the open plan */
};

/* What nexus-vmm is given to read, and what is read for its guest. */
struct vmm_files {
    int kvm, kernel, initramfs; /* owned */
    char *resolv_conf;          /* owned; the node's; NULL: the pod has settings of its own */
    size_t resolv_conf_len;
};

struct sandbox {
    struct node *node; /* borrowed */
    struct list order; /* in the node's list */
    char id[LIMIT_ID_MAX + 1];
    struct sandbox_spec spec;
    enum sandbox_state state;
    enum sandbox_desired desired;
    struct sandbox_status status;
    struct list containers; /* struct container, oldest first; owned */
    struct list volumes;    /* struct pod_volume; owned; in its record */

    /* nothing below is written to disk, except for the plan's journal */
    uint64_t asked_ns;                 /* monotonic; when RunPodSandbox came */
    uint64_t prepare_ns;               /* from then until its plan began */
    struct plan_run *plan;             /* owned; NULL: none goes on */
    struct store_op *journal_op;       /* the plan's write that goes on */
    struct store_op *op;               /* the write that a step, or the end of a plan, waits for */
    char forgetting[LIMIT_ID_MAX + 1]; /* the container whose record op deletes */
    json_t *journal;         /* owned; of an open plan found at the start, until it is restored */
    struct list run_waiters; /* struct waiter */
    struct list stop_waiters;
    struct list remove_waiters;
    sd_event_source *retry; /* owned; stop plan that halted */
    unsigned retries;
    struct error *owed; /* owned; why the stop plan halted last */
    struct error *why;  /* owned; why it was not started, until its record is deleted */

    struct vmm_process process; /* owned */
    sd_event_source *process_io;
    struct vmm_client *client; /* owned; NULL: not connected */
    bool hello_pending;        /* connected, state not yet told */
    sd_event_source *reconnect;
    bool guest_ready, vm_ended;
    struct cni_call *cni;           /* owned; belongs to step cni_step of the open plan */
    struct cni_network *cni_net;    /* owned; what that call runs */
    sd_event_source *cni_timer;     /* owned; patience with an ADD that is not wanted any more */
    const struct plan_run *cni_run; /* NULL: the plan that began it is over */
    unsigned cni_step;
    bool del_after_add;        /* an ADD that was cancelled is still ending; then DEL begins */
    struct net_task *net_task; /* owned; a child of step net_step, which may be over already */
    int (*net_after)(struct sandbox *s, struct error **err); /* what waits for that child's end */
    const struct plan_run *net_run; /* the plan of net_step; only compared */
    unsigned net_step;
    struct step_job cgroup_job, scratch_job, files_job;
    struct vmm_files
        files; /* from the step files until nexus-vmm runs, resolv_conf until configure */
    enum sandbox_wait wait; /* what step wait_step of the open plan waits for */
    unsigned wait_step;
    struct vmm_call *call;         /* owned; with SANDBOX_WAIT_CALL */
    struct error *pending;         /* owned; a failure whose cause may still be told */
    sd_event_source *wait_timer;   /* owned; patience of steps that go on without an answer */
    struct net_config *net;        /* owned; between the steps redirect and configure */
    bool adopting;                 /* recovery waits for its VM to answer */
    struct list regions;           /* struct region; owned; what the VM has */
    uint64_t last_region;          /* number of the last key */
    uint32_t last_volume;          /* of the last name */
    sd_event_source *region_retry; /* owned */
    unsigned region_retries;
    uint64_t denied_writes;  /* of the guest into any region, since the VM began; as last heard */
    struct pod_share *share; /* owned; NULL: none that we know of */
    struct sandbox_stats *stats;                 /* owned; NULL: nobody has asked */
    struct container *volumes_creator;           /* the one container that makes volumes now */
    bool kicking, kick_again;                    /* volume_update_kick_all */
    int netns_fd, tap_fd, scratch_fd, cgroup_fd; /* owned; during the run plan */
};

/* True if CRI's lists show it (not while it is being made or unmade). */
bool sandbox_is_listed(const struct sandbox *s);
bool sandbox_is_ready(const struct sandbox *s);
