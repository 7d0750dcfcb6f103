/* SPDX-License-Identifier: Apache-2.0 */
/* Work that may block (files of a disk that is slow or hangs), done in a worker's thread while somebody in
 * the loop waits for its end, but not for ever. Jobs of one worker begin in the order in which they were
 * started, so what takes back comes after what it takes back, whoever has given up waiting meanwhile.
 * All functions: the loop's thread. */
#pragma once

#include <systemd/sd-event.h>

#include "base/error.h"
#include "event/worker.h"

struct side_job;

struct side_job_ops {
    /* In the thread: touches payload and what never changes. 0 or positive; negative with *err set. */
    int (*work)(void *payload, struct error **err);
    /* From the loop, once, unless the job was cancelled. r is work's, and what payload holds may be
     * taken out of it. Negative: payload is NULL, err (borrowed) says why: work's own error; -ETIMEDOUT
     * (the thread may still be at it: what it does then is thrown away); -ECANCELED: the worker has
     * ended. The job is gone when this is called. */
    void (*done)(void *userdata, void *payload, int r, const struct error *err);
    /* When nobody has a use for it any more: after done, or when a thread that nobody waits for is
     * through. Loop. */
    void (*free)(void *payload);
};

/* Takes payload, also on error; done is not called then. what: for the error of a deadline ("opening log
 * X"). Negative: what worker_submit() says. */
int side_job_start(struct worker *w, const struct side_job_ops *ops, void *payload,
                   const char *what, unsigned deadline_ms, void *userdata, struct side_job **ret,
                   struct error **err);
/* done is not called. NULL is allowed. */
void side_job_cancel(struct side_job *j);
