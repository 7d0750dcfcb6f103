/* SPDX-License-Identifier: Apache-2.0 */
/* One container as the host knows it: state, times, exit, log, and its start stream, over which output
 * flows into the log. Knows no control connection and no agent request; what happens is told through
 * container_ops. EXITED is entered only when all output is in the log. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limit.h"
#include "base/list.h"
#include "gen/msg/nexus.pb-c.h"
#include "vmm/control.h"
#include "vmm/cri-log.h"
#include "vmm/transport.h"

struct loop;
struct guest_stream;

enum container_state {
    CONTAINER_CREATING, /* the agent was asked; answered → CREATED, refused → freed */
    CONTAINER_CREATED,  /* container_start → STARTING */
    CONTAINER_STARTING, /* the stream is open; StreamStarted → RUNNING, ERROR → EXITED */
    CONTAINER_RUNNING,  /* EXIT frame or the end of the VM → EXITED */
    CONTAINER_EXITED,   /* final; kept until it is removed */
};

#define CONTAINER_CODE_START_FAILED 128
#define CONTAINER_CODE_LOST 255 /* the VM ended under it */
#define CONTAINER_CODE_KILLED 137

/* A region the machine has added; containers hold it by count. */
struct region {
    struct list link;
    char *key, *what;
    uint64_t gpa, bytes;
    uint32_t device;               /* _UID of the one that leads there */
    unsigned released;             /* how often the agent has said that it let go */
    uint32_t containers;           /* whose root file system it is */
    uint32_t volumes;              /* made of it */
    bool releasing;                /* the agent was asked to let go … */
    bool parking;                  /* … of the mount alone */
    struct control_caller remover; /* … for this one */
};

/* A live volume of the pod: containers have it by name, and it goes from region to region. */
struct volume {
    struct list link;
    uint64_t serial; /* never used twice */
    char name[LIMIT_ID_MAX + 1];
    struct region *region; /* counted */
    uint32_t users;        /* mounts of containers */
};

/* A volume as one container has it: through the pod's, or a part of a region that never changes. */
struct container_volume {
    struct volume *volume; /* counted, or NULL: */
    struct region *region; /* counted */
};

struct container {
    struct list link;
    uint64_t serial; /* never used twice: tells a container from a later one of the same id */
    char id[LIMIT_ID_MAX + 1];
    enum container_state state;
    struct region *region;            /* counted; NULL: none */
    struct container_volume *volumes; /* owned */
    size_t n_volumes;
    struct cri_log *log;  /* NULL once EXITED */
    uint64_t log_dropped; /* of a finished log */
    int termination_fd; /* owned; the host's file of its termination log; -EBADF: none, or EXITED */
    struct guest_stream *stream; /* while STARTING and RUNNING */
    struct list attaches;        /* clients that see its output, by their node */
    size_t n_attaches;
    bool open_stdin, stdin_once; /* as it was created */
    bool input_over;             /* the end of its stdin was sent, or is: */
    bool input_owed;             /* it waits for room */
    bool output_held;            /* a frame is in the log and waits for an attach */
    uint32_t pid;                /* in the guest */
    uint64_t started_at_ns, finished_at_ns;
    Nexus__ExitInfo exit; /* while EXITED */
    bool has_user;        /* it was told */
    Nexus__Identity user; /* groups: owned */
    bool oom_seen;
    char *error;                            /* why the start failed; printable */
    struct control_caller creator, starter; /* who waits for the answer */
    const struct container_ops *ops;
    void *ud;
};

/* None of them frees the container from within, except on_failed … on_violation's caller afterwards. */
struct container_ops {
    void (*on_running)(void *ud, struct container *c);
    /* The start failed: c is EXITED; err has the guest's text. */
    void (*on_start_failed)(void *ud, struct container *c, int r, const struct error *err);
    /* It ran and is EXITED now. */
    void (*on_exited)(void *ud, struct container *c);
    /* Its stream ended without an exit code or did not start in time (-ETIMEDOUT); the VM still runs as far
     * as known. STARTING: the owner calls container_fail_start, here or when it knows the reason. */
    void (*on_lost)(void *ud, struct container *c, int r);
    void (*on_violation)(void *ud, struct container *c, const char *what);
};

/* id: valid, see container_id_is_valid. log: owned from now on. */
struct container *container_new(const char *id, struct cri_log *log,
                                const struct container_ops *ops, void *ud);
/* Closes the stream, gives the regions back. */
void container_free(struct container *c);
/* fd: open for writing, owned from success on; one that is there is closed. 0; -EINVAL: see termination.h. */
int container_set_termination(struct container *c, int fd);
/* 1–64 of [a-z0-9-]. */
bool container_id_is_valid(const char *id);

void container_set_region(struct container *c, struct region *region);
/* One more volume: volume, or (NULL) a part of region. */
void container_add_volume(struct container *c, struct volume *volume, struct region *region);
/* NULL: its region is given back. */
void volume_set_region(struct volume *v, struct region *region);
/* CREATED → STARTING. 0: on_running or on_start_failed follows; errno: still CREATED. */
int container_start(struct container *c, struct loop *loop, const struct transport *transport,
                    uint32_t start_ms);
/* STARTING → EXITED 128; err (set) says why. on_start_failed follows from within. */
void container_fail_start(struct container *c, int r, const struct error *err);
/* RUNNING or STARTING → EXITED without the guest's word; the log is completed. No callback. */
void container_force_exit(struct container *c, int32_t code, bool oom_killed);
/* Attaches: attach.h. Adds one; true: the frame of output that waits now is not for it. */
bool container_add_attach(struct container *c, struct list *node);
/* One has left the list. had_stdin: it did not end the stdin; waited: for its sake output waits. */
void container_attach_left(struct container *c, bool had_stdin, bool waited);
/* An attach that waited has room. */
void container_resume_output(struct container *c);
/* For the process of a running container, STDIN or RESIZE. 0 (also if it takes nothing any more); -EAGAIN. */
int container_input(struct container *c, uint8_t type, const uint8_t *p, size_t n);
/* A client's stdin is over: with stdin_once the container's is. 0 or -EAGAIN. */
int container_input_over(struct container *c);
/* Fills a message; strings, user and the exit are borrowed from c. */
void container_describe(struct container *c, Nexus__ContainerState *m);
