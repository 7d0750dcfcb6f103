/* SPDX-License-Identifier: Apache-2.0 */
/* One stream connection of the host: the start of a container or an exec, with its stdio. */
#pragma once

#include "agent/cgroup.h"
#include "agent/container.h"
#include "agent/process.h"
#include "agent/pump.h"
#include "wire/tlv.h"

enum stream_state {
    STREAM_OPENING,  /* the peer has not said yet what it wants; one that keeps comes back to it */
    STREAM_STARTING, /* the child was made; not known yet if it became the program */
    STREAM_RUNNING,  /* StreamStarted was queued; also while output drains after the end */
    STREAM_CLOSING,  /* EXIT or ERROR was queued: send what is left, close */
};

/* One direction of stdio, the agent's end. */
struct stream_end {
    struct stream *stream;
    int fd;                     /* owned; -EBADF: closed */
    struct loop_source *source; /* owned */
    uint8_t tlv_type;
    size_t budget; /* after the drain time: bytes that may still be read */
};

struct stream {
    struct list link;           /* agent->streams */
    struct list container_link; /* container->streams */
    struct agent *agent;
    struct container *container; /* borrowed; NULL: none yet, or it was removed */
    enum stream_state state;
    bool idle; /* opening, and not a byte came: it may stay so while few are */
    bool keep; /* after EXIT the peer opens the next one on this connection */
    bool is_exec;
    bool
        is_forward; /* in and out are one socket, connecting while STARTING; no process, no container */
    bool second;   /* of a forward: ::1 is being tried */
    uint16_t port; /* of a forward */
    bool tty;
    bool late_start; /* an exec's start is told with its first output or its end */
    bool peer_gone;  /* only a container's start goes on then; its output is discarded */

    int fd; /* owned: the connection */
    struct loop_source *source;
    struct loop_source *timer; /* opening deadline, then drain time */
    struct tlv_reader reader;
    struct pump pump;

    struct stream_end in, out, err;
    /* owned: the child's ends of an exec's pipes, until it is reaped: so its end wakes the agent once
     * instead of once per pipe and once for itself */
    int held_out, held_err;
    int status_fd; /* owned */
    struct loop_source *status_source;
    struct process *process; /* until reaped */
    struct cgroup *cgroup;   /* owned: of an exec, until it is reaped */
    struct cgroup_reaper *reaper;
    uint64_t oom_before;
    bool exited, drained;
    bool alone; /* nothing of the exec is alive, or it was waited for long enough */
    Nexus__ExitInfo exit;
};

/* Listens for streams. 0 or errno. */
int stream_listen(struct agent *a);
/* Closes all streams; their execs are killed. */
void streams_free(struct agent *a);
/* The container is about to be freed; its processes are dead. */
void stream_container_gone(struct stream *s);

/* stream-start.c: the first frame: starts the process, fills ends, status_fd, process, cgroup. */
int stream_start(struct stream *s, const Nexus__StreamOpen *open, struct error **err);
/* stream-forward.c: the connection of a forward; its two ends, not connected yet. 0 or errno with *err set. */
int stream_connect(struct stream *s, struct error **err);
/* What became of it. 1: connected; 0: go on waiting; errno: no. */
int stream_connected(struct stream *s);
/* stream.c: the process was reaped. */
void stream_process_ended(struct stream *s, int wait_status);
