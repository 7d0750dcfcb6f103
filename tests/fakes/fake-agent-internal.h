/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by fake-agent.c (control connection, script, requests) and fake-agent-stream.c (processes). */
#pragma once

#include "base/list.h"
#include "event/loop.h"
#include "fakes/fake-agent.h"
#include "fakes/fake-program.h"
#include "wire/message.h"

struct container {
    struct list link;
    char *id;
    char **args;
    bool open_stdin;
    struct proc *main; /* NULL: not started, or over */
};

enum proc_kind { PROC_UNKNOWN, PROC_START, PROC_EXEC, PROC_FORWARD };

struct proc {
    struct list link;
    struct fake_agent *agent;
    enum proc_kind kind;
    char *container_id;
    struct transport_conn *conn; /* NULL: the host closed it */
    struct tlv_reader reader;
    struct tlv_frame held; /* stdin that was not taken */
    size_t held_done;
    struct buf out;
    struct fake_program *program; /* NULL: not started, or over */
    char **args;
    bool open_stdin;
    bool keep; /* after EXIT the connection is the next one's */
    bool last; /* EXIT or ERROR is in out */
    struct loop_source *gone;
};

/* An answer that comes later. */
struct later {
    struct list link;
    struct fake_agent *agent;
    struct loop_source *timer;
    uint64_t id;       /* of the request, or */
    struct proc *proc; /* the stream that starts */
    int r;
};

struct fake_agent {
    struct loop *loop;
    const struct transport *guest;
    struct fake_script script;
    fake_vm_end_fn on_end;
    void *ud;
    struct transport_conn *conn;
    struct tlv_reader reader;
    struct buf out;
    struct list containers, procs, laters;
    struct loop_source *boot, *end_timer, *die_timer;
    char hostname[80];
    Nexus__VmmState__End end;
    const char *end_detail;
    bool hung, ended;
    uint32_t next_pid;
};

/* Passes a point of the script. False: there is no answer now. */
bool fake_agent_at(struct fake_agent *a, const char *point);
/* Answers a request, or starts the process of a stream: now, later, or with an error. */
void fake_agent_respond(struct fake_agent *a, const char *point, uint64_t id, struct proc *proc,
                        int r, const char *text);
struct container *fake_agent_container(struct fake_agent *a, const char *id);
void fake_agent_send_oom(struct fake_agent *a, const char *id);
char **fake_agent_copy_args(const Nexus__ProcessSpec *spec);

/* fake-agent-stats.c: what the answer to GetStats says. */
#define FAKE_STATS_MAX 8192
size_t fake_agent_stats(struct fake_agent *a, char *out, size_t size);

/* fake-agent-stream.c */
bool fake_agent_accept_stream(struct transport_conn *c, void *ud);
void fake_proc_start(struct proc *p, int r);
void fake_proc_free(struct proc *p);
