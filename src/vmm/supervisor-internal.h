/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by supervisor.c (life, state, the end) and supervisor-request.c (what nexusd asks for). */
#pragma once

#include "base/list.h"
#include "event/loop.h"
#include "vmm/agent-link.h"
#include "vmm/container.h"
#include "vmm/control.h"
#include "vmm/spare.h"
#include "vmm/supervisor.h"

#define SUPERVISOR_PARTIALS 4 /* regions on their way in pieces */
#define SUPERVISOR_SHUTDOWN_CALLERS \
    16 /* who are answered; more are told by the end of the process */

struct supervisor {
    struct loop *loop;
    const struct transport *transport; /* spare's */
    struct spare *spare;
    const struct supervisor_host_ops *ops;
    void *ud;
    char *sandbox_id;
    struct supervisor_times times;
    struct control *control;  /* NULL: stand-alone */
    struct agent_link *agent; /* never NULL */

    Nexus__VmmState__Phase phase; /* BOOTING → (hello) READY → (vm_ended) ENDED; BOOTING → ENDED */
    Nexus__VmmState__End end;
    char *end_detail; /* printable; NULL before ENDED */
    bool share_pending;
    struct control_caller share_caller; /* whom its end is told */
    bool end_told; /* by the machine; noted when this turn's events are handled */
    Nexus__VmmState__End told_end;
    char *told_detail; /* as it came */
    struct loop_source *end_defer;
    Nexus__AgentHello *hello; /* NULL before READY; texts cleaned */
    bool configured;
    void (*hello_fn)(void *ud, const Nexus__AgentHello *hello);
    void *hello_ud;

    struct list containers, regions, volumes, streams, attaches;
    struct list partials; /* struct partial: regions that come in several messages */
    size_t n_containers, n_regions, n_streams, n_partials;
    size_t n_forwards; /* of the streams */
    uint64_t next_serial;
    uint64_t n_execs; /* since the beginning */

    struct stats_run *stats_run;    /* NULL: none goes on; its request's end frees it */
    struct loop_source *lost_timer; /* a connection went away: AGENT_LOST unless the end is told */
    bool shutting_down;
    uint64_t shutdown_ns; /* monotonic: force */
    struct loop_source *shutdown_timer;
    struct control_caller shutdown_callers[SUPERVISOR_SHUTDOWN_CALLERS];
    size_t n_shutdown_callers;
    bool exited; /* exit_process was called */
};

/* A region that comes in several messages. It goes with the connection it comes on. */
struct partial {
    struct list link;
    uint64_t connection;
    char *key;
};

/* One exec or forwarded port, or (attach) one attach; the owner of either. */
struct supervisor_stream {
    struct list link;
    struct supervisor *sup;
    struct stream *stream;
    struct attach *attach;
    bool forward;
};

struct container *supervisor_container(struct supervisor *sup, const char *id);
struct container *supervisor_container_by_serial(struct supervisor *sup, uint64_t serial);
void supervisor_drop_container(struct supervisor *sup, struct container *c);
struct region *supervisor_region(struct supervisor *sup, const char *key);
void supervisor_drop_region(struct supervisor *sup, struct region *r);
/* Sends container_exited. */
void supervisor_tell_started(struct supervisor *sup, struct container *c);
void supervisor_tell_exited(struct supervisor *sup, struct container *c);
/* The pod is given up: the VM is stopped, the end is AGENT_LOST. */
void supervisor_lose_agent(struct supervisor *sup, const char *why);
/* A connection ended by itself: AGENT_LOST soon, unless the machine tells a better reason first. */
void supervisor_await_end(struct supervisor *sup);
/* 0, or an error that says why the guest cannot be asked anything now. */
int supervisor_check_guest(struct supervisor *sup, struct error **err);
void supervisor_send_state(struct supervisor *sup, struct control_caller who);
/* supervisor_shutdown on behalf of a client, who is answered at the end. */
void supervisor_shutdown_for(struct supervisor *sup, struct control_caller who, uint32_t grace_ms);

/* supervisor-region.c: requests; a negative result is for the caller to answer. */
int supervisor_add_region(struct supervisor *sup, struct control_caller who,
                          const Nexus__AddRegion *add, const int *fds, size_t n_fds,
                          struct error **err);
int supervisor_remove_region(struct supervisor *sup, struct control_caller who, const char *key,
                             struct error **err);
int supervisor_update_volume(struct supervisor *sup, struct control_caller who,
                             Nexus__UpdateVolume *update, struct error **err);
/* Fills in where the regions of spec's volumes are, and makes c hold them. On error c holds some. */
int supervisor_take_volumes(struct supervisor *sup, struct container *c, Nexus__ContainerSpec *spec,
                            struct error **err);
/* The same for its lists of kernel modules. */
int supervisor_take_modules(struct supervisor *sup, struct container *c, Nexus__ContainerSpec *spec,
                            struct error **err);
/* The VM has ended: whoever waits for a region to be let go is answered. */
void supervisor_end_releases(struct supervisor *sup);
/* Of connection, or (0) all. */
void supervisor_drop_partials(struct supervisor *sup, uint64_t connection);

/* supervisor-share.c */
int supervisor_add_share(struct supervisor *sup, struct control_caller who, int *fds, size_t n_fds,
                         struct error **err);
/* Where the share is that a volume is a part of. */
int supervisor_find_share(struct supervisor *sup, uint32_t *ret_device, struct error **err);
/* The VM has ended: whoever waits for the share is answered. */
void supervisor_end_share(struct supervisor *sup);

/* supervisor-stats.c */
int supervisor_get_stats(struct supervisor *sup, struct control_caller who, struct error **err);

/* supervisor-request.c */
/* The agent was asked something for a caller. */
struct pending {
    struct supervisor *sup;
    struct control_caller who;
    uint64_t serial;       /* of the container or volume, 0: none */
    char *key;             /* of the region, NULL: none */
    struct region *region; /* counted as a volume's; NULL: none */
};
struct pending *pending_new(struct supervisor *sup, struct control_caller who);
void pending_free(struct pending *p);
DEFINE_CLEANUP(struct pending *, pending_free);
void supervisor_answer(struct supervisor *sup, struct control_caller who, int r,
                       const struct error *err);
/* Sends m for p, which passes to fn. A failure is set in *err, p is freed. */
int supervisor_ask(struct supervisor *sup, Nexus__AgentMessage *m, uint32_t timeout_ms,
                   agent_reply_fn fn, struct pending *p, struct error **err);
extern const struct container_ops supervisor_container_ops;
void supervisor_on_request(void *ud, struct control_caller who, const Nexus__ControlMessage *m,
                           int *fds, size_t n_fds);
void supervisor_on_stream(void *ud, int fd, struct tlv_reader *reader,
                          const Nexus__ControlHello *hello);
void supervisor_drop_attaches(struct supervisor *sup);
