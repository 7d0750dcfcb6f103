/* SPDX-License-Identifier: Apache-2.0 */
#include "event/side-job.h"

#include <string.h>

#include "base/str.h"

struct side_job {
    struct worker_job job;
    const struct side_job_ops *ops;
    void *payload; /* owned; the thread's while it works */
    void *userdata;
    char *what;             /* owned */
    sd_event_source *timer; /* owned */
    unsigned deadline_ms;
    bool told; /* nobody waits any more */
    int r;
    struct error *err; /* owned; of work */
};

static void job_free(struct side_job *j)
{
    sd_event_source_disable_unref(j->timer);
    j->ops->free(j->payload);
    error_free(j->err);
    free(j->what);
    free(j);
}

static void tell(struct side_job *j, int r, const struct error *err)
{
    j->timer = sd_event_source_disable_unref(j->timer);
    if (j->told)
        return;
    j->told = true;
    j->ops->done(j->userdata, r < 0 ? NULL : j->payload, r, err);
}

static void work(struct worker_job *wj)
{
    struct side_job *j = container_of(wj, struct side_job, job);

    j->r = j->ops->work(j->payload, &j->err);
}

static void done(struct worker_job *wj, bool cancelled)
{
    struct side_job *j = container_of(wj, struct side_job, job);
    _cleanup_(error_freep) struct error *err = NULL;

    if (cancelled)
        tell(j, error_set(&err, -ECANCELED, "%s was given up", j->what), err);
    else
        tell(j, j->r, j->err);
    job_free(j);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct side_job *j = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = error_set(&err, -ETIMEDOUT,
                      "%s is not over after %u ms: its file system hangs, or is very slow", j->what,
                      j->deadline_ms);

    tell(j, r, err);
    return 0;
}

int side_job_start(struct worker *w, const struct side_job_ops *ops, void *payload,
                   const char *what, unsigned deadline_ms, void *userdata, struct side_job **ret,
                   struct error **err)
{
    struct side_job *j = xcalloc(1, sizeof(*j));
    int r;

    j->job.work = work;
    j->job.done = done;
    j->ops = ops;
    j->payload = payload;
    j->userdata = userdata;
    j->what = str_dup(what);
    j->deadline_ms = deadline_ms;
    r = sd_event_add_time_relative(worker_event(w), &j->timer, CLOCK_MONOTONIC,
                                   deadline_ms * 1000ULL, 0, on_deadline, j);
    if (r < 0)
        r = error_set(err, r, "%s: cannot set a deadline: %s", what, strerror(-r));
    else if ((r = worker_submit(w, &j->job, err)) < 0)
        (void)error_prefix(err, r, "%s", what);
    if (r < 0) {
        job_free(j);
        return r;
    }
    *ret = j;
    return 0;
}

void side_job_cancel(struct side_job *j)
{
    if (!j)
        return;
    j->told = true;
    j->timer = sd_event_source_disable_unref(j->timer);
}
