/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of pod share. See node.h for the whole. */
#pragma once

#include "base/hashmap.h"
#include "cgroup/cgroup.h"
#include "event/side-job.h"
#include "event/worker.h"
#include "image/image-store.h"
#include "net/cni.h"
#include "pod/node.h"
#include "pod/pod-volume.h"
#include "pod/region.h"
#include "pod/share.h"
#include "pod/stats.h"
#include "pod/vmm-client.h"
#include "store/store.h"

#define GUEST_FILE_BYTES (64U << 10) /* a file that is copied into the guest */
#define CNI_IFNAME "eth0"
#define TAP_NAME "tap0"
#define HELLO_TIMEOUT_MS 30000   /* nexus-vmm's own answer, no guest involved */
#define REQUEST_TIMEOUT_MS 35000 /* an answer that needs the guest; nexus-vmm gives it 30 s */
#define CREATE_TIMEOUT_MS 65000  /* the same for creating a container: 60 s */
#define FILES_TIMEOUT_MS 30000   /* for a disk, kubelet's directories or a cgroup to answer */
#define EXIT_TIMEOUT_MS 10000    /* from SIGKILL to the end of a process */

struct node {
    sd_event *event; /* owned reference */
    struct node_config config;
    struct image_store *images;                    /* borrowed */
    struct store *sandbox_store, *container_store; /* owned */
    struct cgroup_fs *cgroups;                     /* owned */
    int vmm_dirfd, scratch_dirfd;                  /* owned */
    char boot_id[BOOT_ID_SIZE];
    struct hashmap sandboxes;  /* id → struct sandbox, owned */
    struct list order;         /* the same sandboxes, oldest first */
    struct hashmap names;      /* "name\nnamespace\nuid\nattempt" → struct sandbox, borrowed */
    struct hashmap containers; /* id → struct container, borrowed from the sandboxes */
    struct waiter_queue answers;
    bool loaded, ready;
    void (*on_ready)(void *userdata);
    void *on_ready_userdata;
    void (*on_idle)(void *userdata);
    void *on_idle_userdata;
    sd_event_source *recovery_timer;   /* owned; serves even if a plan is stuck */
    char **strangers;                  /* owned; ids of sandboxes whose records are damaged */
    struct volume_watch *volume_watch; /* owned */
    sd_event_source *volume_io;        /* owned */
    struct worker *worker;             /* owned; reads volumes */
    struct worker *host_worker;        /* owned; our own disk, cgroups */
    struct worker *stats_worker;       /* owned; numbers of the kernel's, in pods' namespaces */
    struct list stats_waits;           /* struct stats_wait: callers */
    struct worker *files_worker; /* owned; kubelet's files: logs, what is copied into guests */
    struct stream_link *streams; /* owned */
    unsigned adopting;           /* sandboxes whose VM has not answered yet */
    node_event_fn observer;      /* NULL: none */
    void *observer_userdata;
};

/* sandbox.c */
struct sandbox *sandbox_new(struct node *n, const char *id); /* in the node's map, not in names */
void sandbox_free(struct sandbox *s); /* out of the maps; its record and its VM stay as they are */
DEFINE_CLEANUP(struct sandbox *, sandbox_free);
/* Queues its record, as if it were in that state; what happens then is store_put()'s. */
int sandbox_save(struct sandbox *s, enum sandbox_state as, bool owed, store_done_fn done,
                 void *userdata, struct store_op **ret, struct error **err);
/* The same as it is, for what an older record leads to as well; a failure is logged. */
void sandbox_save_soon(struct sandbox *s);
/* Ends the waiting step of the plan with the end of a write. err: borrowed. */
void plan_step_written(struct plan_run *run, unsigned step, int r, const struct error *err,
                       const char *what, const char *id);
/* Ends the waiting step of the plan. err: borrowed. */
void plan_step_ended(struct plan_run *run, unsigned step, int r, const struct error *err);
/* From a record; s->journal is the open plan's. */
int sandbox_load(struct node *n, const char *id, const json_t *doc, struct sandbox **ret,
                 struct error **err);
char *sandbox_name_key(const struct sandbox_spec *spec); /* caller frees */
void sandbox_vm_gone(struct sandbox *s, const char *reason, const char *message, bool oom);
void sandbox_begin_stop(struct sandbox *s);
void sandbox_begin_remove(struct sandbox *s);
void sandbox_set_reason(struct sandbox *s, const char *reason, const char *message);
/* Puts it in its place in the list, by created_at_ns. */
void node_order_sandbox(struct node *n, struct sandbox *s);
/* A container that runs, with its nexus-vmm connected. */
int node_find_running(struct node *n, const char *id, struct container **ret, struct error **err);
/* A plan reached its end: recovery, or nexusd's own end, may be waiting for that. */
void node_check_ready(struct node *n);
extern const struct plan sandbox_run_plan, sandbox_stop_plan, sandbox_remove_plan;
extern const struct plan_ops sandbox_plan_ops;

/* sandbox-run.c */
int sandbox_prepare_run(struct sandbox *s, struct error **err);
/* sandbox-release.c: undo of the run plan and steps of the stop plan are the same functions */
int release_containers(struct plan_run *run, void *object, struct error **err);
int release_guest(struct plan_run *run, void *object, struct error **err);
int release_process(struct plan_run *run, void *object, struct error **err);
int release_network(struct plan_run *run, void *object, struct error **err);
void release_cancel(struct plan_run *run, void *object);
void release_cancel_save(struct plan_run *run, void *object); /* s->op */
/* Ends the step that began the CNI call, if its plan is still the open one. Takes err. */
void release_call_ended(struct sandbox *s, int r, struct error *err);
/* DEL, for the step cni_step that waits. */
void release_network_now(struct sandbox *s);
/* Fills a CNI request from the sandbox; ports is memory for its port mappings. */
void sandbox_cni_request(const struct sandbox *s, struct cni_request *req,
                         struct cni_port_mapping **ports);

/* sandbox-host.c: steps that work on the host's files, and their undo */
/* Of the cgroup of its VM, with those resources. */
struct cgroup_limits sandbox_limits(const struct sandbox *s, const struct resources_spec *res);
int host_cgroup(struct plan_run *run, void *object, struct error **err);
int release_cgroup(struct plan_run *run, void *object, struct error **err);
void host_cancel_cgroup(struct plan_run *run, void *object);
int host_scratch(struct plan_run *run, void *object, struct error **err);
int release_scratch(struct plan_run *run, void *object, struct error **err);
void host_cancel_scratch(struct plan_run *run, void *object);
int host_files(struct plan_run *run, void *object, struct error **err);
int release_files(struct plan_run *run, void *object, struct error **err);
void host_cancel_files(struct plan_run *run, void *object);
void vmm_files_init(struct vmm_files *f);
void vmm_files_done(struct vmm_files *f);

/* sandbox-net.c: steps that work in the pod's network namespace, and their undo */
int net_netns(struct plan_run *run, void *object, struct error **err);
int release_netns(struct plan_run *run, void *object, struct error **err);
int net_tap(struct plan_run *run, void *object, struct error **err);
int net_undo_tap(struct plan_run *run, void *object, struct error **err);
int net_redirect(struct plan_run *run, void *object, struct error **err);
int net_undo_redirect(struct plan_run *run, void *object, struct error **err);
void net_cancel(struct plan_run *run, void *object);

/* sandbox-vm.c */
void sandbox_socket_name(const struct sandbox *s, char ret[LIMIT_ID_MAX + 8]);
void sandbox_pid_name(const struct sandbox *s, char ret[LIMIT_ID_MAX + 8]);
/* Socket and pid file; its process is gone. */
void sandbox_remove_files(struct sandbox *s);
int sandbox_watch_process(struct sandbox *s, struct error **err);
int sandbox_connect(struct sandbox *s, struct error **err);
void sandbox_disconnect(struct sandbox *s);
/* Connects again by and by, as long as the process lives. */
void sandbox_reconnect_later(struct sandbox *s);
/* Ends the VM now; what follows comes through its pidfd. */
void sandbox_kill_vm(struct sandbox *s, const char *reason, const char *message);
/* The open plan's step that waits may look again: something about the VM changed. */
void sandbox_poke(struct sandbox *s);
/* The step that runs now waits for that. Returns 1, for the step to return. */
int sandbox_wait_for(struct sandbox *s, const struct plan_run *run, enum sandbox_wait what);

/* container.c */
struct container *container_new(struct sandbox *s, const char *id);
void container_free(struct container *c);
/* As sandbox_save(). */
int container_save(struct container *c, enum container_state as, bool owed, store_done_fn done,
                   void *userdata, struct store_op **ret, struct error **err);
void container_save_soon(struct container *c);
int container_load(struct node *n, const char *id, const json_t *doc, struct container **ret,
                   struct error **err);
/* → EXITED. started 0: keep; finished 0: now. */
void container_end(struct container *c, int exit_code, unsigned signal, const char *reason,
                   const char *message, uint64_t finished_at_ns);
void container_on_state(struct container *c, const Nexus__ContainerState *state);
void container_vm_gone(struct container *c, bool oom);
/* After a crash: what nexus-vmm says about it, or NULL if it does not know it. */
void container_adopt(struct container *c, const Nexus__ContainerState *state);
void container_resume(struct container *c); /* continues its open plan */
void container_begin_stop(struct container *c, uint64_t timeout_ms);
void container_begin_remove(struct container *c);
void container_plan_poke(struct container *c); /* it is EXITED now */
/* Deletes record and object: the end of it. A record that stays leads to the same end. */
void container_forget(struct container *c);
extern const struct plan container_create_plan, container_start_plan, container_stop_plan,
    container_remove_plan;
extern const struct plan_ops container_plan_ops;

/* stats.c */
void sandbox_stats_free(struct sandbox *s);
/* Answers whoever waits for numbers. */
void stats_end(struct node *n);

/* tell.c: what the node's observer hears */
void sandbox_tell(struct sandbox *s, enum node_event event);
void container_tell_created(struct container *c);
/* Its start and its end, if they are due and were not told. */
void container_tell(struct container *c);
/* Before it is freed. */
void container_tell_deleted(struct container *c);

/* container-region.c: the images of a container, as regions of its VM. */
/* Finds the images that spec mounts, and holds them. */
int container_find_images(struct container *c, struct error **err);
/* A counted use of each of status.image_mounts; false: not all are there. */
bool container_hold_images(struct container *c);
void container_release_images(struct container *c); /* its own as well */
/* Of class UNAVAILABLE while nexus-vmm is not connected. */
int container_connected(const struct container *c, struct error **err);
/* Files that are mapped one behind the other. All borrowed. */
struct region_files {
    const char *key, *what; /* what: for people */
    size_t n;
    uint64_t *bytes;
    char **names; /* for people */
    const int *fds;
};
/* Asks for that region; fn is called with c. 1, or an error. */
int container_add_region(struct container *c, const struct region_files *f, vmm_reply_fn fn,
                         struct vmm_call **ret, struct error **err);
/* Steps of plans; drop_regions never fails. */
int create_region(struct plan_run *run, void *object, struct error **err);
int drop_regions(struct plan_run *run, void *object, struct error **err);
void cancel_region(struct plan_run *run, void *object);

/* container-modules.c: kernel modules that few containers need. */
#define MODULES_REGION "modules"
#define MODULE_LISTS_MAX 2
/* What they are called in that region; 0: it needs none. */
size_t container_module_lists(const struct container *c, const char *ret[MODULE_LISTS_MAX]);
int create_modules(struct plan_run *run, void *object, struct error **err);
void cancel_modules(struct plan_run *run, void *object);

/* recovery.c */
void recovery_adopted(struct sandbox *s);

/* log-file.c: waits for the file system. Any thread. */
/* Opens (creating it) the log below the pod's log directory, following no link. */
int log_file_open(const char *log_directory, const char *log_path, int *ret_fd, struct error **err);
/* Opens a container's termination log, which is there, to be written by nexus-vmm: a regular file with one
 * name, no link. */
int termination_file_open(const char *path, int *ret_fd, struct error **err);

/* container-files.c: what a container has in directories of kubelet's. */
struct copied_file {
    char *bytes; /* owned; NULL: the mount is a volume */
    size_t len;
    unsigned mode;
};
struct container_files {
    int fds[2]; /* owned; its log, then its termination log, as CreateContainer wants them */
    size_t n_fds;
    bool termination;
    size_t n;
    struct copied_file *copied; /* owned; one for each of its mounts */
    void *seccomp;              /* owned; the filter of its system calls */
    size_t seccomp_len;
};
void container_files_free(struct container_files *f);
DEFINE_CLEANUP(struct container_files *, container_files_free);
/* Reads a file of at most GUEST_FILE_BYTES. Waits for the file system. Any thread. */
int copied_file_read(const struct mount_spec *m, struct copied_file *ret, struct error **err);
/* The step of the plan of CreateContainer: c->files. */
int create_files(struct plan_run *run, void *object, struct error **err);
int undo_files(struct plan_run *run, void *object, struct error **err);
void cancel_files(struct plan_run *run, void *object);

/* guest-config.c */
struct net_config;
/* Messages in arena memory. */
struct arena;
Nexus__SandboxConfig *guest_sandbox_config(struct arena *a, const struct sandbox *s,
                                           const struct net_config *net, struct error **err);
/* The bytes of f are borrowed for the life of the message. */
Nexus__ContainerSpec *guest_container_spec(struct arena *a, const struct container *c,
                                           const struct container_files *f, struct error **err);
/* Its set of capabilities, as bits. */
uint64_t guest_capabilities(const struct security_spec *s);
/* The name of one of the devices that each guest has, or NULL. */
const char *guest_device_name(const char *host_path);
/* NULL: no memory. */
Nexus__Resources *guest_resources(struct arena *a, const struct resources_spec *s);
/* Whether a mount is one of the container's mapped volumes. */
bool guest_mount_is_volume(const struct container *c, const struct mount_spec *m);
/* The mount that is its termination log: a writable file where kubelet's annotation says, or at its default
 * place. NULL: it has none. Borrowed. */
const struct mount_spec *guest_termination_mount(const struct container *c);
/* Whether a mount that is no volume can be served: small files only. Looks at the file, reads nothing.
 * Any thread. */
int guest_check_mount(const struct mount_spec *m, struct error **err);
