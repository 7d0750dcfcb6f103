/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by supervisor.c (life, state, the end) and supervisor-request.c (what nexusd asks for). */
#pragma once

#include "base/list.h"
#include "event/loop.h"
#include "vmm/agent-link.h"
#include "vmm/container.h"
#include "vmm/control.h"
#include "vmm/supervisor.h"

#define SUPERVISOR_SHUTDOWN_CALLERS \
    16 /* who are answered; more are told by the end of the process */

struct supervisor {
    struct loop *loop;
    const struct transport *transport;
    const struct supervisor_host_ops *ops;
    void *ud;
    char *sandbox_id;
    struct supervisor_times times;
    struct control *control;  /* NULL: stand-alone */
    struct agent_link *agent; /* never NULL */

    Nexus__VmmState__Phase phase; /* BOOTING → (hello) READY → (vm_ended) ENDED; BOOTING → ENDED */
    Nexus__VmmState__End end;
    char *end_detail; /* printable; NULL before ENDED */
    bool end_told;    /* by the machine; noted when this turn's events are handled */
    Nexus__VmmState__End told_end;
    char *told_detail; /* as it came */
    struct loop_source *end_defer;
    Nexus__AgentHello *hello; /* NULL before READY; texts cleaned */
    bool configured;
    void (*hello_fn)(void *ud, const Nexus__AgentHello *hello);
    void *hello_ud;

    struct list containers, regions, streams;
    size_t n_containers, n_regions, n_streams;
    uint64_t next_serial;
    uint64_t n_execs; /* since the beginning */

    struct loop_source *lost_timer; /* a connection went away: AGENT_LOST unless the end is told */
    bool shutting_down;
    uint64_t shutdown_ns; /* monotonic: force */
    struct loop_source *shutdown_timer;
    struct control_caller shutdown_callers[SUPERVISOR_SHUTDOWN_CALLERS];
    size_t n_shutdown_callers;
    bool exited; /* exit_process was called */
};

/* One exec; the stream's owner. */
struct supervisor_stream {
    struct list link;
    struct supervisor *sup;
    struct stream *stream;
};

struct container *supervisor_container(struct supervisor *sup, const char *id);
struct container *supervisor_container_by_serial(struct supervisor *sup, uint64_t serial);
void supervisor_drop_container(struct supervisor *sup, struct container *c);
struct region *supervisor_region(struct supervisor *sup, const char *key);
void supervisor_drop_region(struct supervisor *sup, struct region *r);
/* Sends container_exited. */
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

/* supervisor-request.c */
extern const struct container_ops supervisor_container_ops;
void supervisor_on_request(void *ud, struct control_caller who, const Nexus__ControlMessage *m,
                           int *fds, size_t n_fds);
void supervisor_on_exec(void *ud, int fd, struct tlv_reader *reader, const Nexus__ExecSpec *spec);
