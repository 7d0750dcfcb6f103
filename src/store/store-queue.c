/* SPDX-License-Identifier: Apache-2.0 */
/* The queue in front of the disk. It lives in the loop; the thread has one job at a time, and what waits
 * behind that one can still be replaced by a newer text without a lock. */
#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/str.h"
#include "event/worker.h"
#include "store/store-internal.h"

struct store_op {
    struct list node;
    store_done_fn done;
    void *userdata;
};

struct job {
    struct worker_job job;
    struct list node; /* in the queue; not while the thread has it */
    struct store_queue *queue;
    struct store *store; /* a reference */
    char name[NAME_LIMIT + 1];
    bool is_delete, owed;
    struct buf text; /* owned */
    int r;
    struct list ops; /* those who wait */
};

struct store_queue {
    struct worker *worker; /* owned */
    struct list waiting;
    struct job *busy; /* the thread has it */
    unsigned count;   /* waiting and busy */
    size_t bytes;     /* their text */
};

static void next(struct store_queue *q);

/* ---- the thread */

static void work(struct worker_job *wj)
{
    struct job *j = container_of(wj, struct job, job);

    j->r = j->is_delete ? store_delete_file(j->store, j->name)
                        : store_write_file(j->store, j->name, &j->text, j->owed);
}

/* ---- the end of a job */

static void job_free(struct job *j)
{
    j->queue->count--;
    j->queue->bytes -= j->text.used;
    buf_done(&j->text);
    store_unref(j->store);
    free(j);
}

static void done(struct worker_job *wj, bool cancelled)
{
    struct job *j = container_of(wj, struct job, job);
    struct store_queue *q = j->queue;
    _cleanup_(error_freep) struct error *err = NULL;
    struct list ops;
    int r = cancelled ? -ECANCELED : j->r;

    if (r < 0)
        (void)error_set(&err, r, "cannot %s record %s: %s", j->is_delete ? "delete" : "write",
                        j->name, strerror(-r));
    list_init(&ops);
    if (!list_is_empty(&j->ops)) {
        list_append(&j->ops, &ops);
        list_remove(&j->ops);
    }
    q->busy = NULL;
    job_free(j);
    if (!cancelled)
        next(q);
    while (!list_is_empty(&ops)) { /* one may forget another */
        struct store_op *op = list_first(&ops, struct store_op, node);
        store_done_fn fn = op->done;
        void *userdata = op->userdata;

        store_forget(op);
        fn(userdata, r < 0 ? r : 0, err);
    }
}

/* ---- the queue */

static void next(struct store_queue *q)
{
    if (q->busy || list_is_empty(&q->waiting))
        return;
    q->busy = list_first(&q->waiting, struct job, node);
    list_remove(&q->busy->node);
    if (worker_submit(q->worker, &q->busy->job, NULL) < 0)
        abort(); /* the thread runs and has nothing to do */
}

/* The one that waits and comes last of its name, if it is a put too. */
static struct job *find_put(struct store_queue *q, const struct store *s, const char *name)
{
    struct job *j, *last = NULL;

    list_foreach (j, &q->waiting, node)
        if (j->store == s && strcmp(j->name, name) == 0)
            last = j;
    return last && !last->is_delete ? last : NULL;
}

static int check_room(const struct store_queue *q, const struct job *old, size_t bytes,
                      struct error **err)
{
    size_t left = q->bytes - (old ? old->text.used : 0);

    if ((!old && q->count >= STORE_QUEUE_MAX) || bytes > STORE_QUEUE_BYTES_MAX - left)
        return error_set_class(err, ERROR_UNAVAILABLE, -EAGAIN,
                               "the disk does not keep up: %u records wait to be written",
                               q->count);
    return 0;
}

static struct job *job_new(struct store_queue *q, struct store *s, const char *name)
{
    struct job *j = xcalloc(1, sizeof(*j));

    j->job.work = work;
    j->job.done = done;
    j->queue = q;
    j->store = s;
    s->refs++;
    (void)snprintf(j->name, sizeof(j->name), "%s", name);
    list_init(&j->ops);
    buf_init(&j->text, 0);
    list_append(&q->waiting, &j->node);
    q->count++;
    return j;
}

static void set_text(struct job *j, struct buf *text)
{
    j->queue->bytes -= j->text.used;
    buf_done(&j->text);
    j->text = *text;
    buf_init(text, 0);
    j->queue->bytes += j->text.used;
}

int store_queue_add(struct store_queue *q, struct store *s, const char *name, struct buf *text,
                    bool owed, store_done_fn fn, void *userdata, struct store_op **ret,
                    struct error **err)
{
    struct job *j = text ? find_put(q, s, name) : NULL;
    struct store_op *op = NULL;
    int r = check_room(q, j, text ? text->used : 0, err);

    if (r < 0)
        return r;
    if (!j)
        j = job_new(q, s, name);
    j->is_delete = !text;
    j->owed |= owed;
    if (text)
        set_text(j, text);
    if (fn) {
        op = xcalloc(1, sizeof(*op));
        op->done = fn;
        op->userdata = userdata;
        list_append(&j->ops, &op->node);
    }
    if (ret)
        *ret = op;
    next(q);
    return 0;
}

void store_forget(struct store_op *op)
{
    if (!op)
        return;
    list_remove(&op->node);
    free(op);
}

/* ---- life */

int store_queue_new(sd_event *event, struct store_queue **ret, struct error **err)
{
    _cleanup_(store_queue_freep) struct store_queue *q = xcalloc(1, sizeof(*q));
    int r;

    list_init(&q->waiting);
    r = worker_new(event, &q->worker, err);
    if (r >= 0)
        r = worker_start(q->worker, err);
    if (r < 0)
        return r;
    *ret = TAKE(q);
    return 0;
}

int store_queue_drain(struct store_queue *q, unsigned timeout_ms)
{
    uint64_t now = clock_mono_ns(), end = now + (uint64_t)timeout_ms * 1000000;
    int r = 0;

    while (q->busy && (r >= 0 || r == -EINTR)) {
        now = clock_mono_ns();
        r = now >= end ? -ETIMEDOUT : worker_wait(q->worker, (unsigned)((end - now) / 1000000) + 1);
    }
    return q->busy ? r : 0;
}

void store_queue_free(struct store_queue *q)
{
    if (!q)
        return;
    worker_free(q->worker);
    if (q->busy) /* the thread is left behind with it: the program ends */
        return;
    while (!list_is_empty(&q->waiting)) {
        struct job *j = list_first(&q->waiting, struct job, node);

        list_remove(&j->node);
        done(&j->job, true);
    }
    free(q);
}
