/* SPDX-License-Identifier: Apache-2.0 */
/* The plan engine. Everything happens in advance(), called from one deferred event source: a step
 * that ends, fails or times out, and a write that ends, only marks itself and arms that source. So no
 * step function is ever called from inside another one, and finished() may free the run. */
#include "pod/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/str.h"

enum step_state {
    STEP_IDLE,     /* nothing of it happened; also: undone */
    STEP_INTENDED, /* its intent is to be written */
    STEP_WRITTEN,  /* it is: the step begins with the next turn */
    STEP_BEGUN,    /* its effect may exist */
    STEP_RUNNING,  /* returned 1; plan_step_done() is awaited */
    STEP_SAVING,   /* its effect is complete and to be written */
    STEP_DONE,
    STEP_UNDOING, /* its undo returned 1 */
};

struct run_step {
    enum step_state state;
    sd_event_source *timer; /* owned; the deadline */
    uint64_t begun_ns;
    uint64_t took_ns;
};

struct span {
    uint64_t begun_ns, took_ns;
};

struct plan_run {
    const struct plan *plan;
    const struct plan_ops *ops;
    void *object;
    sd_event *event;        /* owned reference */
    sd_event_source *defer; /* owned */
    bool undoing;
    bool halted; /* over: outcome is what finished() is told */
    enum plan_outcome outcome;
    struct error *why;      /* owned; the first failure */
    struct error *undo_why; /* owned */
    unsigned current;
    uint32_t want;    /* bit i: the record is to be written for step i */
    uint32_t covered; /* the same of the write that goes on */
    bool writing;
    bool told; /* finished() was called */
    uint64_t write_begun_ns;
    struct run_step steps[PLAN_STEPS_MAX];
    struct span journals[PLAN_JOURNALS_MAX]; /* the first writes of the record */
    unsigned n_journals;
};

static int hit(const struct plan_run *run, const char *when, const char *step)
{
#ifdef NEXUS_FAILPOINTS
    char name[96];

    (void)snprintf(name, sizeof(name), "%s.%s%s", run->plan->name, when, step);
    return failpoint_hit(name);
#else
    return 0;
#endif
}

void plan_each_failpoint(const struct plan *plan, void (*fn)(const char *name, void *userdata),
                         void *userdata)
{
    static const char *const when[] = {"before_", "after_", "before_undo_", "after_undo_"};
    char name[96];

    for (unsigned i = 0; i < plan->step_count; i++)
        for (size_t k = 0; k < (plan->steps[i].undo ? 4U : 2U); k++) {
            (void)snprintf(name, sizeof(name), "%s.%s%s", plan->name, when[k], plan->steps[i].name);
            fn(name, userdata);
        }
}

static void arm(struct plan_run *run)
{
    if (!run->halted)
        (void)sd_event_source_set_enabled(run->defer, SD_EVENT_ONESHOT);
}

static void step_stop_timer(struct run_step *s)
{
    s->timer = sd_event_source_disable_unref(s->timer);
}

/* Takes the first failure, drops later ones. */
static void keep_error(struct error **slot, struct error *err)
{
    if (*slot)
        error_free(err);
    else
        *slot = err;
}

/* The step does not go on; what of it exists is undone later. */
static void stop_step(struct plan_run *run, unsigned i)
{
    struct run_step *s = &run->steps[i];

    switch ((int)s->state) {
    case STEP_INTENDED:
    case STEP_WRITTEN: /* it never began */
        s->state = STEP_IDLE;
        break;
    case STEP_SAVING:
        s->state = STEP_DONE;
        break;
    case STEP_RUNNING:
        step_stop_timer(s);
        s->state = STEP_BEGUN;
        if (run->plan->steps[i].cancel)
            run->plan->steps[i].cancel(run, run->object);
        break;
    default:
        break;
    }
}

/* What every run of a plan goes through when it may not go on. */
static void turn_back(struct plan_run *run, int r, struct error *err)
{
    if (!err)
        (void)error_set(&err, r < 0 ? r : -EIO, "%s failed: %s", run->plan->name,
                        strerror(r < 0 ? -r : EIO));
    keep_error(&run->why, err);
    if (run->undoing)
        return;
    run->undoing = true;
    run->want = 0;
    for (unsigned i = 0; i < run->plan->step_count; i++)
        stop_step(run, i);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct plan_run *run = userdata;

    for (unsigned i = 0; i < run->plan->step_count; i++) {
        const struct plan_step *step = &run->plan->steps[i];
        struct run_step *s = &run->steps[i];
        struct error *err = NULL;

        if (s->timer != source)
            continue;
        if (step->cancel)
            step->cancel(run, run->object);
        (void)error_set(&err, -ETIMEDOUT, "%s: step %s did not end within %u ms", run->plan->name,
                        step->name, step->deadline_ms);
        plan_step_done(run, i, -ETIMEDOUT, err);
        break;
    }
    return 0;
}

static void start_timer(struct plan_run *run, unsigned i)
{
    const struct plan_step *step = &run->plan->steps[i];
    struct run_step *s = &run->steps[i];

    if (!step->deadline_ms)
        return;
    if (sd_event_add_time_relative(run->event, &s->timer, CLOCK_MONOTONIC,
                                   step->deadline_ms * 1000ULL, 0, on_deadline, run) < 0)
        log_error("%s: step %s runs without a deadline: no timer", run->plan->name, step->name);
}

static void step_finished(struct plan_run *run, unsigned i)
{
    struct run_step *s = &run->steps[i];

    s->state = STEP_DONE;
    s->took_ns = clock_mono_ns() - s->begun_ns;
    log_debug("%s: step %s took %llu us", run->plan->name, run->plan->steps[i].name,
              (unsigned long long)(s->took_ns / 1000));
}

/* ---- writes of the record */

static void written(struct plan_run *run, unsigned i)
{
    struct run_step *s = &run->steps[i];

    if (s->state == STEP_INTENDED)
        s->state = STEP_WRITTEN;
    else if (s->state == STEP_SAVING)
        s->state = STEP_DONE;
}

static void end_write(struct plan_run *run, int r, struct error *err)
{
    uint32_t covered = run->covered;

    run->writing = false;
    run->covered = 0;
    if (run->n_journals < PLAN_JOURNALS_MAX)
        run->journals[run->n_journals++] =
            (struct span){run->write_begun_ns, clock_mono_ns() - run->write_begun_ns};
    if (run->undoing) { /* what it was for is not wanted any more */
        error_free(err);
        return;
    }
    if (r < 0 && run->plan->kind == PLAN_UNDOABLE) {
        turn_back(run, r, err);
        return;
    }
    if (r < 0) /* idempotent: the older record leads to the same end */
        log_warning("%s: cannot write how far it is, going on: %s", run->plan->name,
                    error_text(err, r));
    error_free(err);
    for (unsigned i = 0; i < run->plan->step_count; i++)
        if (covered & PLAN_NEEDS(i))
            written(run, i);
}

/* One at a time: what comes to be written meanwhile goes into the next one together. True if it is over
 * already. */
static bool begin_write(struct plan_run *run)
{
    struct error *err = NULL;
    int r;

    if (!run->want || run->writing)
        return false;
    run->covered = run->want;
    run->want = 0;
    run->writing = true;
    run->write_begun_ns = clock_mono_ns();
    r = run->ops->journal(run->object, &err);
    if (r == 1)
        return false;
    end_write(run, r, err);
    return true;
}

void plan_journal_done(struct plan_run *run, int r, struct error *err)
{
    if (!run->writing) {
        error_free(err);
        return;
    }
    end_write(run, r, err);
    (void)sd_event_source_set_enabled(run->defer, SD_EVENT_ONESHOT);
}

/* ---- steps */

/* The end of a step's effect: the failpoint, and the early save where asked for. */
static void complete(struct plan_run *run, unsigned i)
{
    _cleanup_(error_freep) struct error *err = NULL;
    const struct plan_step *step = &run->plan->steps[i];
    int r = hit(run, "after_", step->name);

    if (r < 0) {
        run->steps[i].state = STEP_BEGUN;
        (void)error_set(&err, r, "%s: failpoint after %s", run->plan->name, step->name);
        turn_back(run, r, TAKE(err));
        return;
    }
    step_finished(run, i);
    if (step->flags & PLAN_SAVE) {
        run->steps[i].state = STEP_SAVING;
        run->want |= PLAN_NEEDS(i);
    }
}

static bool is_ready(const struct plan_run *run, unsigned i)
{
    if (run->steps[i].state != STEP_IDLE)
        return false;
    for (unsigned k = 0; k < run->plan->step_count; k++)
        if (run->plan->steps[i].needs & PLAN_NEEDS(k) && run->steps[k].state != STEP_DONE)
            return false;
    return true;
}

static void run_step(struct plan_run *run, unsigned i)
{
    const struct plan_step *step = &run->plan->steps[i];
    struct run_step *s = &run->steps[i];
    struct error *err = NULL;
    int r;

    run->current = i;
    s->begun_ns = clock_mono_ns();
    r = hit(run, "before_", step->name);
    if (r < 0) {
        (void)error_set(&err, r, "%s: failpoint before %s", run->plan->name, step->name);
    } else {
        s->state = STEP_RUNNING; /* so that it may end within the call */
        r = step->run(run, run->object, &err);
    }
    if (r == 1) {
        if (s->state == STEP_RUNNING)
            start_timer(run, i);
        return;
    }
    if (s->state == STEP_RUNNING)
        s->state = STEP_BEGUN;
    if (r < 0)
        turn_back(run, r, err);
    else
        complete(run, i);
}

static bool end(struct plan_run *run, enum plan_outcome outcome)
{
    run->halted = true;
    run->outcome = outcome;
    return false;
}

/* Begins every step that may begin, or has its intent written first. True if there was any. */
static bool begin_ready(struct plan_run *run)
{
    bool any = false;

    for (unsigned i = 0; i < run->plan->step_count && !run->undoing; i++) {
        struct run_step *s = &run->steps[i];
        bool ready = is_ready(run, i);

        if (ready && !(run->plan->steps[i].flags & PLAN_VOLATILE)) {
            s->state = STEP_INTENDED;
            run->want |= PLAN_NEEDS(i);
        } else if (ready || s->state == STEP_WRITTEN) {
            s->state = STEP_BEGUN;
            run_step(run, i);
            any = true;
        }
    }
    return any;
}

/* True while there may be more to do at once. */
static bool advance_forward(struct plan_run *run)
{
    bool waiting = false;

    if (begin_ready(run) || run->undoing || begin_write(run))
        return true;
    for (unsigned i = 0; i < run->plan->step_count; i++)
        waiting |= run->steps[i].state != STEP_DONE;
    return waiting ? false : end(run, PLAN_DONE);
}

static void undone(struct plan_run *run, unsigned i)
{
    int r = hit(run, "after_undo_", run->plan->steps[i].name);

    if (r < 0)
        (void)error_set(&run->undo_why, r, "%s: failpoint after undoing %s", run->plan->name,
                        run->plan->steps[i].name);
    else
        run->steps[i].state = STEP_IDLE;
}

static void undo_failed(struct plan_run *run, unsigned i, int r, struct error *err)
{
    if (!err)
        (void)error_set(&err, r, "cannot undo %s: %s", run->plan->steps[i].name, strerror(-r));
    keep_error(&run->undo_why, err);
}

static bool undo_step(struct plan_run *run, unsigned i)
{
    const struct plan_step *step = &run->plan->steps[i];
    struct run_step *s = &run->steps[i];
    struct error *err = NULL;
    int r;

    if (!step->undo) {
        s->state = STEP_IDLE;
        return true;
    }
    run->current = i;
    r = hit(run, "before_undo_", step->name);
    if (r < 0) {
        (void)error_set(&err, r, "%s: failpoint before undoing %s", run->plan->name, step->name);
    } else {
        s->state = STEP_UNDOING;
        r = step->undo(run, run->object, &err);
    }
    if (r == 1) {
        if (s->state == STEP_UNDOING)
            start_timer(run, i);
        return s->state != STEP_UNDOING;
    }
    s->state = STEP_BEGUN;
    if (r < 0)
        undo_failed(run, i, r, err);
    else
        undone(run, i);
    return true;
}

static bool advance_back(struct plan_run *run)
{
    if (run->plan->kind == PLAN_FORWARD)
        return end(run, PLAN_HALTED);
    if (run->undo_why)
        return end(run, PLAN_STUCK);
    for (unsigned i = run->plan->step_count; i-- > 0;) {
        if (run->steps[i].state == STEP_UNDOING)
            return false;
        if (run->steps[i].state != STEP_IDLE)
            return undo_step(run, i);
    }
    return end(run, PLAN_UNDONE);
}

static int advance(sd_event_source *source, void *userdata)
{
    struct plan_run *run = userdata;
    char id[80]; /* the object may go below */
    bool more = true;

    (void)snprintf(id, sizeof(id), "%s", run->ops->log_id(run->object));
    LOG_SCOPE(object, run->ops->log_key, id);
    while (more && !run->halted)
        more = run->undoing ? advance_back(run) : advance_forward(run);
    if (run->halted && !run->writing && !run->told) {
        run->told = true; /* it may free the run */
        run->ops->finished(run, run->object, run->outcome, run->why, run->undo_why);
    }
    return 0;
}

int plan_run_new(const struct plan *plan, const struct plan_ops *ops, void *object, sd_event *event,
                 struct plan_run **ret)
{
    struct plan_run *run = xcalloc(1, sizeof(*run));
    int r;

    run->plan = plan;
    run->ops = ops;
    run->object = object;
    run->event = sd_event_ref(event);
    r = sd_event_add_defer(event, &run->defer, advance, run);
    if (r >= 0)
        r = sd_event_source_set_enabled(run->defer, SD_EVENT_OFF);
    if (r < 0) {
        plan_run_free(run);
        return r;
    }
    *ret = run;
    return 0;
}

void plan_run_start(struct plan_run *run)
{
    arm(run);
}

void plan_run_cancel(struct plan_run *run, struct error *err)
{
    if (run->undoing || run->halted) {
        error_free(err);
        return;
    }
    turn_back(run, -ECANCELED, err);
    arm(run);
}

void plan_run_free(struct plan_run *run)
{
    if (!run)
        return;
    for (unsigned i = 0; i < run->plan->step_count; i++) {
        struct run_step *s = &run->steps[i];
        bool waits = s->state == STEP_RUNNING || s->state == STEP_UNDOING;

        step_stop_timer(s);
        s->state = STEP_IDLE;
        if (waits && run->plan->steps[i].cancel)
            run->plan->steps[i].cancel(run, run->object);
    }
    sd_event_source_disable_unref(run->defer);
    sd_event_unref(run->event);
    error_free(run->why);
    error_free(run->undo_why);
    free(run);
}

void plan_step_done(struct plan_run *run, unsigned step, int r, struct error *err)
{
    struct run_step *s = &run->steps[step];

    if (s->state == STEP_RUNNING) {
        step_stop_timer(s);
        s->state = STEP_BEGUN;
        if (r < 0)
            turn_back(run, r, err);
        else
            complete(run, step);
    } else if (s->state == STEP_UNDOING) {
        step_stop_timer(s);
        s->state = STEP_BEGUN;
        if (r < 0)
            undo_failed(run, step, r, err);
        else
            undone(run, step);
    } else {
        error_free(err);
        return;
    }
    arm(run);
}

unsigned plan_current_step(const struct plan_run *run)
{
    return run->current;
}

bool plan_is_undoing(const struct plan_run *run)
{
    return run->undoing;
}

bool plan_step_is_done(const struct plan_run *run, unsigned step)
{
    return run->steps[step].state == STEP_DONE;
}

static size_t add_span(char *text, size_t size, const char *name, uint64_t begun_ns,
                       uint64_t took_ns)
{
    int k = snprintf(text, size, " %s=%llu+%lluus", name, (unsigned long long)(begun_ns / 1000),
                     (unsigned long long)(took_ns / 1000));

    if (k > 0 && (size_t)k < size)
        return (size_t)k;
    text[0] = '\0';
    return 0;
}

void plan_run_times(const struct plan_run *run, uint64_t origin_ns, char *text, size_t size)
{
    size_t n = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < run->plan->step_count; i++) {
        const struct run_step *s = &run->steps[i];
        if (s->state == STEP_DONE)
            n += add_span(text + n, size - n, run->plan->steps[i].name, s->begun_ns - origin_ns,
                          s->took_ns);
    }
    for (unsigned i = 0; i < run->n_journals; i++)
        n += add_span(text + n, size - n, "journal", run->journals[i].begun_ns - origin_ns,
                      run->journals[i].took_ns);
}

const struct plan *plan_run_plan(const struct plan_run *run)
{
    return run->plan;
}

const struct error *plan_run_error(const struct plan_run *run)
{
    return run->why;
}

json_t *plan_run_to_json(const struct plan_run *run)
{
    json_t *begun = json_array(), *done = json_array(), *doc;

    for (unsigned i = 0; i < run->plan->step_count; i++) {
        if (run->steps[i].state == STEP_DONE || run->steps[i].state == STEP_SAVING)
            (void)json_array_append_new(done, json_string(run->plan->steps[i].name));
        else if (run->steps[i].state != STEP_IDLE)
            (void)json_array_append_new(begun, json_string(run->plan->steps[i].name));
    }
    doc = json_pack("{s:s, s:b, s:o, s:o}", "name", run->plan->name, "undoing", run->undoing,
                    "begun", begun, "done", done);
    if (doc && run->why) /* the text may quote a guest; what is no UTF-8 is left out */
        (void)json_object_set_new(doc, "error", json_string(run->why->message));
    return doc;
}

static int restore_states(struct plan_run *run, const json_t *names, enum step_state state)
{
    size_t k;
    json_t *name;

    if (!json_is_array(names))
        return -EBADMSG;
    json_array_foreach (names, k, name) {
        const char *text = json_string_value(name);
        unsigned i = 0;

        while (i < run->plan->step_count && !str_equal(text, run->plan->steps[i].name))
            i++;
        if (i == run->plan->step_count)
            return -EBADMSG;
        run->steps[i].state = state;
    }
    return 0;
}

int plan_run_restore(const struct plan *plan, const struct plan_ops *ops, void *object,
                     sd_event *event, const json_t *doc, struct plan_run **ret, struct error **err)
{
    struct plan_run *run = NULL;
    const char *why;
    int r;

    if (!str_equal(json_string_value(json_object_get(doc, "name")), plan->name))
        return error_set(err, -EBADMSG, "journal of plan %s: another plan's or none", plan->name);
    r = plan_run_new(plan, ops, object, event, &run);
    if (r < 0)
        return error_set(err, r, "cannot restore plan %s", plan->name);
    if (plan->kind == PLAN_UNDOABLE) {
        r = restore_states(run, json_object_get(doc, "begun"), STEP_BEGUN);
        if (r >= 0)
            r = restore_states(run, json_object_get(doc, "done"), STEP_DONE);
        if (r < 0) {
            plan_run_free(run);
            return error_set(err, r, "journal of plan %s names a step it does not have",
                             plan->name);
        }
        why = json_string_value(json_object_get(doc, "error"));
        (void)error_set(&run->why, -ECANCELED, "%s",
                        why ? why : "nexusd ended while the operation was going on");
        run->undoing = true;
    }
    *ret = run;
    return 0;
}
