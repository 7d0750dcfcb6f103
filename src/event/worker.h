/* SPDX-License-Identifier: Apache-2.0 */
/* One thread for what may block: reading volumes of the host's file systems, writing records. The loop
 * gives it jobs, which it does one after the other; their ends are told from the loop, in that order. The
 * thread begins with the first job. A file system that hangs keeps the thread, and the jobs behind it
 * wait: nothing else does.
 *
 * A job's work may touch the job and what is the job's alone while it runs; it does not log. All
 * functions here: the loop's thread. */
#pragma once

#include <stdbool.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "base/list.h"

#define WORKER_JOBS_MAX 4096 /* waiting or being done */

struct worker;

/* Embedded in what the job is about. */
struct worker_job {
    struct list node;
    void (*work)(struct worker_job *job); /* in the thread */
    /* From the loop, once for each submitted job; frees it. cancelled: its owner has gone. */
    void (*done)(struct worker_job *job, bool cancelled);
    bool cancelled;
};

int worker_new(sd_event *event, struct worker **ret, struct error **err);
/* The loop's, borrowed. */
sd_event *worker_event(const struct worker *w);
/* Waits until the end of a job can be told, and tells it: for the end of the program. -ETIMEDOUT; -errno. */
int worker_wait(struct worker *w, unsigned timeout_ms);
/* Jobs that are left are done as cancelled. A thread that a file system does not let go is left behind,
 * with its job. NULL is allowed. */
void worker_free(struct worker *w);
DEFINE_CLEANUP(struct worker *, worker_free);

/* Begins the thread now: a submit finds it running. -EAGAIN, -ENOMEM. */
int worker_start(struct worker *w, struct error **err);
/* work and done are set. -EAGAIN: too many; -EAGAIN or -ENOMEM: no thread. On error done is not called. */
int worker_submit(struct worker *w, struct worker_job *job, struct error **err);
/* done will be told that its owner has gone. NULL is allowed. */
void worker_cancel(struct worker_job *job);
