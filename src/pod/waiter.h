/* SPDX-License-Identifier: Apache-2.0 */
/* Who waits for an operation on a sandbox or container. A plan belongs to its object; callers wait
 * beside it and may leave at any time without any effect on it.
 * A waiter's function is called exactly once, from the loop, never before the call that made the
 * waiter returned; or not at all once waiter_cancel() was called. */
#pragma once

#include <systemd/sd-event.h>

#include "base/error.h"
#include "base/list.h"

/* r: 0 or errno; err: set when r is negative, borrowed; id: of the object, "" if there is none. */
typedef void (*waiter_fn)(void *userdata, int r, const struct error *err, const char *id);

struct waiter;

/* Answers waiters that are complete, from the loop. One per node. */
struct waiter_queue {
    struct list done;
    sd_event_source *defer; /* owned */
};
int waiter_queue_init(struct waiter_queue *q, sd_event *event);
/* Answers nobody any more: the waiters are freed. */
void waiter_queue_done(struct waiter_queue *q);

/* A waiter in list (a struct list head of the object). */
struct waiter *waiter_new(struct list *list, waiter_fn fn, void *userdata);
/* Forgets it; its function is not called any more. NULL is allowed. */
void waiter_cancel(struct waiter *w);
/* Completes one. The error is copied. */
void waiter_complete(struct waiter *w, struct waiter_queue *q, int r, const struct error *err,
                     const char *id);
/* Completes all waiters of the list. */
void waiters_complete(struct list *list, struct waiter_queue *q, int r, const struct error *err,
                      const char *id);
