/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: an operation as data. A plan is a table of steps, each with what it does and how that is
 * undone; the engine runs it from the event loop, writes the intent of a step durably before the
 * step's first external effect (a write is an event like any other; one at a time), and undoes what was begun, backwards, when a step fails. A crash is a
 * failure found at the next start: the journal lives in the object's own record.
 *
 * Kinds: PLAN_UNDOABLE (run, create) ends done or undone; PLAN_FORWARD (stop, remove) only goes on,
 * its steps are idempotent, and what failed is tried again from the top.
 *
 * Steps that do not need each other overlap: the engine begins every step whose needs are done.
 * Nobody's call is part of a plan: callers wait beside it (pod/waiter.h) and may leave.
 *
 * Failpoints, per step (the plan's name in front): <plan>.before_<step> (intent durable, effect not
 * begun), <plan>.after_<step> (effect complete, not recorded), <plan>.before_undo_<step>,
 * <plan>.after_undo_<step>. An error there is an error of the step.
 * Single thread. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"

#define PLAN_STEPS_MAX 16
#define PLAN_JOURNALS_MAX 12

struct plan_run;

/* 0: done. 1: goes on, plan_step_done() tells the end. Negative: failed, *err set. */
typedef int (*plan_step_fn)(struct plan_run *run, void *object, struct error **err);
typedef void (*plan_cancel_fn)(struct plan_run *run, void *object);

#define PLAN_VOLATILE 1U /* leaves nothing behind that a crash could strand: no intent is written */
#define PLAN_SAVE 2U     /* what it found out is written before it counts as done */

struct plan_step {
    const char *name;     /* [a-z_]: in records, failpoints, logs */
    uint32_t needs;       /* bit i: step i is done before this one begins (PLAN_NEEDS) */
    unsigned flags;       /* PLAN_* */
    unsigned deadline_ms; /* for run and for undo alike; 0: none. Over: cancel, then -ETIMEDOUT */
    plan_step_fn run;
    plan_step_fn undo; /* idempotent, also after a run that got half way; NULL: nothing to undo */
    plan_cancel_fn cancel; /* drops what run or undo waits for; NULL: nothing is ever waited for */
};
#define PLAN_NEEDS(i) (1U << (i))

enum plan_kind { PLAN_UNDOABLE, PLAN_FORWARD };

struct plan {
    const char *name; /* "pod.run" */
    enum plan_kind kind;
    const struct plan_step *steps;
    unsigned step_count; /* <= PLAN_STEPS_MAX */
};

enum plan_outcome {
    PLAN_DONE,   /* every step is done; the owner commits */
    PLAN_UNDONE, /* failed, and everything begun is undone */
    PLAN_STUCK,  /* failed, and undoing failed too: debts are left */
    PLAN_HALTED, /* PLAN_FORWARD: a step failed; the rest is still to do */
};

struct plan_ops {
    const char *log_key; /* "pod", "container": the object's name in log lines … */
    const char *(*log_id)(const void *object); /* … and its id, borrowed */
    /* Writes the object's record as it is now, with plan_run_to_json() in it. 1: goes on, and
     * plan_journal_done() tells when it is durable (unless the run is freed before: the object sees to
     * that). 0: durable already. Negative: failed. */
    int (*journal)(void *object, struct error **err);
    /* The last call of a run, when no write goes on; frees it (plan_run_free) when it likes. why: the first failure, or NULL
     * for PLAN_DONE; borrowed. undo_why: PLAN_STUCK only. */
    void (*finished)(struct plan_run *run, void *object, enum plan_outcome outcome,
                     const struct error *why, const struct error *undo_why);
};

/* A run that has not begun. plan, ops: static. object: outlives the run. */
int plan_run_new(const struct plan *plan, const struct plan_ops *ops, void *object, sd_event *event,
                 struct plan_run **ret);
/* Begins from the loop: finished() is never called before this returns. */
void plan_run_start(struct plan_run *run);
/* A run that a crash cut off, from its journal. Undoable: what was begun will be undone; forward:
 * everything is done again. -EBADMSG: no such plan's journal. */
int plan_run_restore(const struct plan *plan, const struct plan_ops *ops, void *object,
                     sd_event *event, const json_t *journal, struct plan_run **ret,
                     struct error **err);
/* Fails the run now, as if a step had failed. Ignored when it is failing already. Consumes err. */
void plan_run_cancel(struct plan_run *run, struct error *err);
/* Only between runs or in finished(). Cancels what is waited for, undoes nothing. NULL is allowed. */
void plan_run_free(struct plan_run *run);

/* The end of a step (or of its undo) that returned 1. r negative: failed; consumes err, which may
 * only be set then. Ignored for a step that does not wait (a late answer). */
void plan_step_done(struct plan_run *run, unsigned step, int r, struct error *err);
/* The end of a write that returned 1. Consumes err. */
void plan_journal_done(struct plan_run *run, int r, struct error *err);
/* The step whose function runs right now. */
unsigned plan_current_step(const struct plan_run *run);
bool plan_is_undoing(const struct plan_run *run);
bool plan_step_is_done(const struct plan_run *run, unsigned step);
/* Where the time went: " name=BEGIN+TOOKus" of each step that is done and of each write of the record
 * (journal=…, the first PLAN_JOURNALS_MAX of them), microseconds since origin_ns (clock_mono_ns).
 * text always ends with a NUL; what has no room is left out. */
void plan_run_times(const struct plan_run *run, uint64_t origin_ns, char *text, size_t size);
const struct plan *plan_run_plan(const struct plan_run *run);
/* The failure that made it turn back, or NULL. Borrowed. */
const struct error *plan_run_error(const struct plan_run *run);

/* {"name": "pod.run", "undoing": false, "begun": [...], "done": [...], "error": "…"}; a new reference. */
json_t *plan_run_to_json(const struct plan_run *run);

/* Calls fn with each failpoint name of the plan. */
void plan_each_failpoint(const struct plan *plan, void (*fn)(const char *name, void *userdata),
                         void *userdata);
