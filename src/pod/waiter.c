/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/waiter.h"

#include <stdio.h>

#include "base/limit.h"
#include "base/str.h"

struct waiter {
    struct list node; /* in the object's list, then in the queue's */
    waiter_fn fn;
    void *userdata;
    int r;
    struct error *err; /* owned */
    char id[LIMIT_ID_MAX + 1];
};

static void waiter_free(struct waiter *w)
{
    list_remove(&w->node);
    error_free(w->err);
    free(w);
}

static int on_deferred(sd_event_source *source, void *userdata)
{
    struct waiter_queue *q = userdata;

    while (!list_is_empty(&q->done)) {
        struct waiter *w = list_first(&q->done, struct waiter, node);

        list_remove(&w->node);
        w->fn(w->userdata, w->r, w->err, w->id);
        waiter_free(w);
    }
    return 0;
}

int waiter_queue_init(struct waiter_queue *q, sd_event *event)
{
    int r;

    list_init(&q->done);
    r = sd_event_add_defer(event, &q->defer, on_deferred, q);
    return r < 0 ? r : sd_event_source_set_enabled(q->defer, SD_EVENT_OFF);
}

void waiter_queue_done(struct waiter_queue *q)
{
    while (!list_is_empty(&q->done))
        waiter_free(list_first(&q->done, struct waiter, node));
    q->defer = sd_event_source_disable_unref(q->defer);
}

struct waiter *waiter_new(struct list *list, waiter_fn fn, void *userdata)
{
    struct waiter *w = xcalloc(1, sizeof(*w));

    w->fn = fn;
    w->userdata = userdata;
    list_append(list, &w->node);
    return w;
}

void waiter_cancel(struct waiter *w)
{
    if (w)
        waiter_free(w);
}

void waiter_complete(struct waiter *w, struct waiter_queue *q, int r, const struct error *err,
                     const char *id)
{
    list_remove(&w->node);
    list_append(&q->done, &w->node);
    w->r = r;
    if (r < 0)
        (void)error_set_class(&w->err, (int)error_class_of(err, r), r, "%s", error_text(err, r));
    (void)snprintf(w->id, sizeof(w->id), "%s", id ? id : "");
    (void)sd_event_source_set_enabled(q->defer, SD_EVENT_ONESHOT);
}

void waiters_complete(struct list *list, struct waiter_queue *q, int r, const struct error *err,
                      const char *id)
{
    while (!list_is_empty(list))
        waiter_complete(list_first(list, struct waiter, node), q, r, err, id);
}
