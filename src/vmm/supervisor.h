/* SPDX-License-Identifier: Apache-2.0 */
/* The pod supervisor inside nexus-vmm: agent connection, containers with their exit codes and log
 * files, exec streams, and the control socket on which nexusd commands and observes all of it. It
 * survives every nexusd and knows no KVM: the machine is behind supervisor_host_ops, the guest behind
 * struct transport. Everything from the guest is hostile, everything towards nexusd is bounded.
 * Messages: proto/nexus.proto. Thread: the loop's, for each call and callback here. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/limit.h"
#include "gen/msg/nexus.pb-c.h"
#include "vmm/transport.h"

struct loop;
struct supervisor;

/* name: borrowed for the call, e.g. "kvm.exit.mmio". */
typedef void (*supervisor_counter_fn)(void *ctx, const char *name, uint64_t value);

/* What the machine does for the supervisor. All are called on the loop's thread. */
struct supervisor_host_ops {
    /* Maps n files (borrowed fds; dup what is kept) of segment_bytes[i] bytes each (nothing checked
     * yet) into one read-only region and hot-adds its device. key: the caller's name for it; what: what it
     * is, for people, may be empty; names: those of the files, or NULL; all borrowed.
     * more: they are mapped, and further ones of the same key follow before there is a device; a failure
     * forgets what came before. 0 with the guest-physical start and length (not with more), or errno with
     * *err: -EINVAL sizes, -ENOSPC no slot left. */
    int (*add_region)(void *ud, const char *key, const char *what, const int *fds,
                      const uint64_t *segment_bytes, char *const *names, size_t n, bool more,
                      uint64_t *ret_gpa, uint64_t *ret_bytes, struct error **err);
    /* What add_region collected for key is not wanted any more. */
    void (*forget_region)(void *ud, const char *key);
    /* _UID, in the firmware tables, of its device. NULL: they have none, and no guest that looks for it. */
    uint32_t (*region_device)(void *ud, uint64_t gpa);
    /* A driver of the guest has its device. NULL: never. */
    bool (*region_is_driven)(void *ud, uint64_t gpa);
    /* Guest writes that the hypervisor dropped, pages that files lost. NULL: none. */
    void (*count_region)(void *ud, uint64_t gpa, uint64_t *ret_denied, uint64_t *ret_repaired);
    /* The guest has let go of it. 0 or errno. */
    int (*remove_region)(void *ud, uint64_t gpa);
    /* Whether the guest may keep the device of a region that goes; then park_region instead of remove_region.
     * NULL: never. */
    bool (*may_park)(void *ud, uint64_t gpa);
    /* The guest has unmounted it and kept its driver. 0 or errno. */
    int (*park_region)(void *ud, uint64_t gpa);
    /* Hot-adds the share's device, served by the back end at the other end of fd (a socket, taken on success). done
     * comes later, once: 0 or errno. NULL: there are no shares. */
    int (*add_share)(void *ud, int fd, void (*done)(void *ctx, int r), void *ctx);
    /* 0: there is one; -ENOENT, -EIO: its server is lost. *ret_device: its _UID. */
    int (*share_state)(void *ud, uint32_t *ret_device);
    /* Stop all vCPUs now. supervisor_vm_ended may be called from within or later; either is ignored
     * then, the supervisor has already noted why. */
    void (*stop_vm)(void *ud);
    /* Leave the loop with that exit code. May return; nothing of the supervisor runs after it but
     * supervisor_free. */
    void (*exit_process)(void *ud, int code);
    /* Adds the machine's counters to a state snapshot. NULL: none. */
    void (*counters)(void *ud, supervisor_counter_fn add, void *ctx);
};

/* transport and ops: borrowed, outlive it. control_listen_fd: a listening unix stream socket, owned
 * from success on; -1: no control socket (stand-alone runs). Listens on TRANSPORT_PORT_CONTROL.
 * 0 or errno. */
int supervisor_new(struct loop *loop, const struct transport *transport, int control_listen_fd,
                   const struct supervisor_host_ops *ops, void *ud, struct supervisor **ret);
/* Closes all connections and log files without waiting. */
void supervisor_free(struct supervisor *sup);
DEFINE_CLEANUP(struct supervisor *, supervisor_free);

/* VmmState.sandbox_id; copied. Call it before the loop runs. */
void supervisor_set_sandbox_id(struct supervisor *sup, const char *id);
/* Called once, when the agent has said hello (its fields are the guest's words). */
void supervisor_on_hello(struct supervisor *sup,
                         void (*fn)(void *ud, const Nexus__AgentHello *hello), void *ud);

/* The machine tells that the guest is over. On the loop's next turn, when everything the guest had sent
 * is taken: running containers become EXITED, exec streams end with
 * an error, nexusd gets vm_ended. The first reason counts, later calls do nothing. detail: copied,
 * made printable, cut at 4 KiB; may be NULL. A panic whose detail tells of memory exhaustion marks the
 * containers 137 and oom_killed, any other end 255. */
void supervisor_vm_ended(struct supervisor *sup, Nexus__VmmState__End end, const char *detail);

/* Asks the guest to power off, by force after grace_ms (0: at once), then exit_process(0). A later
 * call can only make it sooner. */
void supervisor_shutdown(struct supervisor *sup, uint32_t grace_ms);

/* Deadlines and intervals in ms; the defaults are those of the limits table. Tests shorten them. */
struct supervisor_times {
    uint32_t ping_ms;         /* 5000; three misses lose the agent */
    uint32_t request_ms;      /* 30000: answer to an agent request */
    uint32_t create_ms;       /* 60000: answer to create_container */
    uint32_t start_ms;        /* 30000: StreamStarted or ERROR on a stream */
    uint32_t stats_ms;        /* 5000: numbers of one container */
    uint32_t lost_grace_ms;   /* 1000: from a lost connection to AGENT_LOST, if no end is told */
    uint32_t client_hello_ms; /* 5000: first message on a control connection */
};
#define SUPERVISOR_TIMES_DEFAULT                                                            \
    {                                                                                       \
        .ping_ms = LIMIT_AGENT_PING_MS, .request_ms = 30000, .create_ms = 60000,            \
        .start_ms = 30000, .stats_ms = 5000, .lost_grace_ms = 1000, .client_hello_ms = 5000 \
    }
void supervisor_set_times(struct supervisor *sup, const struct supervisor_times *times);
