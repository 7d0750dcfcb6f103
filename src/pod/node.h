/* SPDX-License-Identifier: Apache-2.0 */
/* All pods of this node, and what RPCs ask of them.
 *
 * Operations return 0 and a waiter whose function is called once, later, from the loop; or a negative
 * errno at once. What was begun goes on when a waiter is cancelled. Ids are full ids or unambiguous
 * prefixes. Everything but the lists answers ERROR_UNAVAILABLE until the node has recovered.
 * Thread: the loop's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "pod/container.h"
#include "pod/pace.h"
#include "pod/sandbox.h"
#include "pod/stream-link.h"
#include "pod/vmm-exec.h"
#include "pod/waiter.h"
#include "volume/kind.h"
#include "volume/layout.h"

struct image_store;
struct node;

struct store_queue;

struct node_config {                 /* all borrowed, outlive the node */
    struct store_queue *store_queue; /* writes the records */
    const char *state_dir;           /* sandboxes/, containers/, scratch/ below it */
    const char *run_dir;             /* vmm/ below it */
    const char *netns_dir;           /* "/run/netns" */
    const char *boot_id_path;        /* "/proc/sys/kernel/random/boot_id" */

    const char *vmm_path, *kernel_path, *initramfs_path, *kvm_path;
    const char *modules_path; /* EROFS of kernel modules, see guest/README.md */
    char *const *vmm_args;    /* more options of nexus-vmm; may be NULL */
    const char *log_level;
    uint64_t memory_bytes;          /* of a VM whose pod has no limit */
    uint64_t memory_max_bytes;      /* no VM gets more */
    uint64_t memory_overhead_bytes; /* guest kernel and agent, on top of a pod's limit without one
                                       from its RuntimeClass */
    uint32_t cpus, cpus_max;
    uint64_t vmm_overhead_bytes; /* host memory of nexus-vmm beyond guest RAM, for the pod cgroup */
    unsigned boot_timeout_ms;
    uint64_t scratch_bytes;
    const char *mkfs_path;      /* "mkfs.ext4" */
    const char *virtiofsd_path; /* NULL: none */

    const char *cni_conf_dir;
    char *const *cni_bin_dirs;
    unsigned cni_timeout_ms;
    const char *cgroup_root;

    const char *stream_path; /* of nexus-stream */
    uint64_t stream_idle_ms; /* a client that is silent for so long is left */
    const char *stream_address, *stream_certificate, *stream_key,
        *stream_client_ca; /* stream-link.h */

    struct volume_roots volume_roots; /* where mapped volumes are */
    enum volume_data volume_data;
    struct pace_rule volume_pace; /* of new generations of one volume */
};

/* Opens stores and directories; nothing is touched yet. */
int node_new(sd_event *event, const struct node_config *config, struct image_store *images,
             struct node **ret, struct error **err);
/* Lets go of everything; pods go on running. NULL is allowed. */
void node_free(struct node *n);
DEFINE_CLEANUP(struct node *, node_free);

/* Reads the records, finds every nexus-vmm again, finishes or undoes open plans, removes what belongs
 * to nobody. ready runs once from the loop. -EPROTONOSUPPORT: a record of a newer version; nothing
 * was touched. */
int node_recover(struct node *n, void (*ready)(void *userdata), void *userdata, struct error **err);
bool node_is_ready(const struct node *n);
/* Host directories can be given to pods. */
bool node_has_shares(const struct node *n);
/* 0, or -EAGAIN (ERROR_UNAVAILABLE) until then. */
int node_require_ready(const struct node *n, struct error **err);

/* fn runs once from the loop when no plan goes on (a plugin at work is better not killed); at once if
 * none does. */
void node_when_idle(struct node *n, void (*fn)(void *userdata), void *userdata);

/* ---- what there is */

/* -ENOENT; -EINVAL: an ambiguous prefix or no id. -EAGAIN: not recovered. */
int node_find_sandbox(struct node *n, const char *id, struct sandbox **ret, struct error **err);
int node_find_container(struct node *n, const char *id, struct container **ret, struct error **err);
/* Those that CRI's lists show, oldest first. Returns NULL after the last; prev NULL: the first. */
struct sandbox *node_next_sandbox(struct node *n, struct sandbox *prev);
/* Of one sandbox. */
struct container *sandbox_next_container(struct sandbox *s, struct container *prev);
/* Counts every object, listed or not. */
size_t node_sandbox_count(const struct node *n);
size_t node_container_count(const struct node *n);

/* Why no pod can run now: 0, or errno with the reason. Small local checks. */
int node_runtime_status(struct node *n, struct error **err);
int node_network_status(struct node *n, struct error **err);
/* One sentence on cgroups. */
const char *node_cgroup_text(struct node *n);
bool node_cgroup_is_v2(struct node *n);

/* ---- sandboxes */

/* Takes *spec over (it is zeroed), also on error. The waiter's id is the sandbox's. A repeated request
 * joins the first one or gets its result; with another configuration it is refused (-EEXIST). */
int node_run_sandbox(struct node *n, struct sandbox_spec *spec, waiter_fn fn, void *userdata,
                     struct waiter **ret, struct error **err);
/* An unknown id is success. */
int node_stop_sandbox(struct node *n, const char *id, waiter_fn fn, void *userdata,
                      struct waiter **ret, struct error **err);
int node_remove_sandbox(struct node *n, const char *id, waiter_fn fn, void *userdata,
                        struct waiter **ret, struct error **err);
/* The sum of what its containers are to have from now on, and the cost of the sandbox itself. -ENOSPC as for
 * a container. */
int node_update_sandbox(struct node *n, const char *id, const struct resources_spec *overhead,
                        const struct resources_spec *resources, waiter_fn fn, void *userdata,
                        struct waiter **ret, struct error **err);
/* Asks its VM for the counters of its regions; success also if it does not answer. */
int node_refresh_sandbox(struct node *n, const char *id, waiter_fn fn, void *userdata,
                         struct waiter **ret, struct error **err);

/* ---- containers */

/* Takes *spec over, also on error. The waiter's id is the container's. */
int node_create_container(struct node *n, const char *sandbox_id, struct container_spec *spec,
                          waiter_fn fn, void *userdata, struct waiter **ret, struct error **err);
int node_start_container(struct node *n, const char *id, waiter_fn fn, void *userdata,
                         struct waiter **ret, struct error **err);
/* timeout_ms: grace between the stop signal and SIGKILL. An unknown id is success. */
int node_stop_container(struct node *n, const char *id, uint64_t timeout_ms, waiter_fn fn,
                        void *userdata, struct waiter **ret, struct error **err);
int node_remove_container(struct node *n, const char *id, waiter_fn fn, void *userdata,
                          struct waiter **ret, struct error **err);
/* Takes *want over, also on error: what is set in it, in place of what there is; all of it or nothing.
 * -ENOSPC (ERROR_EXHAUSTED): more than its VM has. */
int node_update_container(struct node *n, const char *id, struct resources_spec *want, waiter_fn fn,
                          void *userdata, struct waiter **ret, struct error **err);
int node_reopen_log(struct node *n, const char *id, waiter_fn fn, void *userdata,
                    struct waiter **ret, struct error **err);
/* timeout_ms 0: none. Cancel with vmm_exec_cancel. */
int node_exec(struct node *n, const char *id, char *const *command, uint64_t timeout_ms,
              vmm_exec_fn fn, void *userdata, struct vmm_exec **ret, struct error **err);

/* ---- streaming: nexus-stream serves what is asked for here, at the URL that is told */

struct stream_channels {
    bool in, out, err, tty; /* at least one of the first three; not err with tty */
};
/* Cancel with stream_call_cancel. Of a running container. */
int node_open_exec(struct node *n, const char *id, char *const *command,
                   const struct stream_channels *channels, stream_url_fn fn, void *userdata,
                   struct stream_call **ret, struct error **err);
/* stdin only reaches a container that was created with one. */
int node_open_attach(struct node *n, const char *id, const struct stream_channels *channels,
                     stream_url_fn fn, void *userdata, struct stream_call **ret,
                     struct error **err);
/* Of a sandbox that is READY. ports: for clients of the older WebSocket form, each 1 to 65535; may be none. */
int node_open_forward(struct node *n, const char *sandbox_id, const int32_t *ports, size_t n_ports,
                      stream_url_fn fn, void *userdata, struct stream_call **ret,
                      struct error **err);

/* ---- what happens, as it happens */

enum node_event { /* CRI's numbers */
                  NODE_EVENT_CREATED = 0,
                  NODE_EVENT_STARTED = 1,
                  NODE_EVENT_STOPPED = 2,
                  NODE_EVENT_DELETED = 3,
};
/* c NULL: the sandbox itself. Both are borrowed for the call, in which lists show the new state, but for
 * what is DELETED, which leaves them in this turn of the loop. It must not ask for operations. */
typedef void (*node_event_fn)(void *userdata, enum node_event event, struct sandbox *s,
                              const struct container *c);
/* One observer; NULL: none any more. */
void node_set_observer(struct node *n, node_event_fn fn, void *userdata);

/* ---- for people and tests */

/* Calls fn with the failpoint names of all plans. */
void node_each_failpoint(void (*fn)(const char *name, void *userdata), void *userdata);
