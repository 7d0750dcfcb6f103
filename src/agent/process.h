/* SPDX-License-Identifier: Apache-2.0 */
/* Children of the agent: made in their namespaces and cgroup by one clone3, reaped from the loop. As
 * PID 1 the agent also reaps every orphan of the guest. */
#pragma once

#include <sys/types.h>

#include "agent/agent-internal.h"

struct process {
    struct list link;
    pid_t pid; /* in the agent's PID namespace */
    int pidfd; /* owned */
    /* Called once, from the loop, when it was reaped; the process is freed after it. NULL: nobody
     * cares any more. */
    void (*on_exit)(struct process *p, int wait_status, void *userdata);
    void *userdata;
};

/* What a child tells when it could not become the program, in one write to its status fd. */
#define CHILD_TEXT_MAX 1024
struct child_failure {
    int exit_code;  /* 126, 127 or 128 */
    int error_code; /* positive errno */
    int error_class;
    char text[CHILD_TEXT_MAX];
};

struct spawn {
    uint64_t namespaces; /* CLONE_NEWPID | CLONE_NEWNS … */
    int cgroup_fd;       /* born in this cgroup; -EBADF: in the agent's */
    int pidns_of;        /* pidfd of a process whose PID namespace it joins; -EBADF: none */
    /* Runs in the child, with signals at their defaults and nothing blocked; must not return. */
    void (*child)(void *arg, int status_fd);
    void *arg;
};

/* Starts a child. *ret_status_fd: end of file when it became the program (or died), else a struct
 * child_failure; non-blocking, the caller's. 0 or errno. */
int process_spawn(struct agent *a, const struct spawn *s,
                  void (*on_exit)(struct process *, int, void *), void *userdata,
                  struct process **ret, int *ret_status_fd, struct error **err);
/* Nobody waits for it any more; NULL is allowed. */
void process_forget(struct process *p);
/* At the end: forgets all children. */
void processes_free(struct agent *a);
/* 0 or errno; -ESRCH: gone. */
int process_signal(const struct process *p, int signal);

/* In a child: tells the failure and ends. err is consumed. */
_Noreturn void child_fail(int status_fd, int exit_code, int r, struct error *err);

/* 0 … 255 as a shell tells it, and the signal or 0. */
int process_exit_code(int wait_status, uint32_t *ret_signal);

/* Reaping: installs the signal handling of the agent. 0 or errno. */
int process_start_reaper(struct agent *a);
