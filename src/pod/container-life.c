/* SPDX-License-Identifier: Apache-2.0 */
/* Start, stop and removal of a container, as plans. A stop sends the stop signal once, waits for the
 * grace (a later call may shorten it), kills, and waits for the exit; a guest that does not even obey
 * SIGKILL is broken and loses its VM, so that Stop always ends. */
#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"

static bool has_ended(const struct container *c)
{
    return c->status.finished_at_ns != 0;
}

static bool is_connected(const struct container *c)
{
    return c->sandbox->client && !c->sandbox->hello_pending && !c->sandbox->vm_ended;
}

/* A VM that lives without a connection is being connected to again: a caller's retry helps. */
static int require_connection(const struct container *c, struct error **err)
{
    if (is_connected(c) || c->sandbox->vm_ended || c->sandbox->process.pidfd < 0)
        return 0;
    return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN,
                           "nexus-vmm of sandbox %s is not connected at the moment",
                           c->sandbox->id);
}

/* ---- waiting for the exit, and for calls */

/* What the open plan waits for. A step waits for the exit exactly when it armed c->timer. */
void container_plan_poke(struct container *c)
{
    if (!c->plan || !c->timer || !has_ended(c) || c->end_op)
        return;
    c->timer = sd_event_source_disable_unref(c->timer);
    plan_step_done(c->plan, plan_current_step(c->plan), 0, NULL);
}

static void cancel_wait(struct plan_run *run, void *object)
{
    struct container *c = object;

    c->timer = sd_event_source_disable_unref(c->timer);
    vmm_call_cancel(TAKE(c->call));
}

/* A call whose failure is the step's. */
static void on_answer(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct container *c = userdata;
    struct error *copy = NULL;

    c->call = NULL;
    if (r < 0)
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "%s", error_text(err, r));
    if (c->plan)
        plan_step_done(c->plan, plan_current_step(c->plan), r < 0 ? r : 0, copy);
    else
        error_free(copy);
}

/* A call after which the step is done whatever the answer was. */
static void on_tolerant_answer(void *userdata, int r, const Nexus__VmmState *state,
                               const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(container, "container", c->id);

    c->call = NULL;
    if (r < 0)
        log_debug("going on without the guest: %s", error_text(err, r));
    if (c->plan)
        plan_step_done(c->plan, plan_current_step(c->plan), 0, NULL);
}

static int send_signal(struct container *c, unsigned signal, bool all, vmm_reply_fn fn,
                       struct error **err)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__SignalContainer body = NEXUS__SIGNAL_CONTAINER__INIT;

    body.container_id = c->id;
    body.signal = signal;
    body.all = all;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_SIGNAL;
    m.signal = &body;
    return vmm_client_call(c->sandbox->client, &m, NULL, 0, EXIT_TIMEOUT_MS, fn, c, &c->call, err);
}

/* ---- start */

static int start_guest(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__StartContainer body = NEXUS__START_CONTAINER__INIT;
    int r;

    if (!is_connected(c))
        return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN, "nexus-vmm is not connected");
    body.container_id = c->id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_START_CONTAINER;
    m.start_container = &body;
    r = vmm_client_call(c->sandbox->client, &m, NULL, 0, REQUEST_TIMEOUT_MS, on_answer, c, &c->call,
                        err);
    return r < 0 ? r : 1;
}

static void cancel_save(struct plan_run *run, void *object)
{
    struct container *c = object;

    store_forget(TAKE(c->op));
}

/* It runs: a full disk does not change that. */
static void on_start_saved(void *userdata, int r, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(container, "container", c->id);

    c->op = NULL;
    if (r < 0)
        log_error("%s; nexus-vmm still knows that it runs", error_text(err, r));
    plan_step_done(c->plan, plan_current_step(c->plan), 0, NULL);
}

/* The exit of a short process can be told before the answer to its start, and while this is written. */
static int start_commit(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    enum container_state as = c->state == CONTAINER_STARTING ? CONTAINER_RUNNING : c->state;

    if (!c->status.started_at_ns)
        c->status.started_at_ns = clock_real_ns();
    if (c->status.started_at_ns <= c->status.created_at_ns)
        c->status.started_at_ns = c->status.created_at_ns + 1;
    return container_save(c, as, true, on_start_saved, c, &c->op, NULL) < 0 ? 0 : 1;
}

static const struct plan_step start_steps[] = {
    {"guest", 0, 0, 0, start_guest, NULL, cancel_wait},
    {"commit", PLAN_NEEDS(0), PLAN_VOLATILE, 0, start_commit, NULL, cancel_save},
};
const struct plan container_start_plan = {"container.start", PLAN_FORWARD, start_steps,
                                          ARRAY_SIZE(start_steps)};

/* ---- stop */

static int stop_signal(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    int r = has_ended(c) ? 0 : require_connection(c, err);

    if (r < 0)
        return r;
    if (has_ended(c) || c->status.stop_signalled || !is_connected(c) ||
        c->status.stop_deadline_ns <= clock_mono_ns())
        return 0; /* no grace: it is killed at once */
    c->status.stop_signalled = true;
    if (send_signal(c, (unsigned)c->status.stop_signal, false, on_tolerant_answer, NULL) < 0)
        return 0;
    return 1;
}

static int on_grace_over(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct container *c = userdata;

    c->timer = sd_event_source_disable_unref(c->timer);
    plan_step_done(c->plan, plan_current_step(c->plan), 0, NULL);
    return 0;
}

static int stop_grace(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;

    if (has_ended(c) || !is_connected(c) || c->status.stop_deadline_ns <= clock_mono_ns())
        return 0;
    if (sd_event_add_time(c->sandbox->node->event, &c->timer, CLOCK_MONOTONIC,
                          c->status.stop_deadline_ns / 1000, 0, on_grace_over, c) < 0)
        return 0;
    return 1;
}

static int stop_kill(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    int r = has_ended(c) ? 0 : require_connection(c, err);

    if (r < 0)
        return r;
    if (has_ended(c) || !is_connected(c))
        return 0;
    return send_signal(c, SIGKILL, true, on_tolerant_answer, NULL) < 0 ? 0 : 1;
}

static int on_exit_overdue(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct container *c = userdata;
    struct sandbox *s = c->sandbox;
    LOG_SCOPE(pod, "pod", s->id);

    /* stays armed as the mark of waiting; the exit comes through the pidfd */
    (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
    if (has_ended(c)) /* its record is being written */
        return 0;
    log_error("container %s does not end on SIGKILL: its guest is broken, ending the VM", c->id);
    sandbox_kill_vm(s, "AgentUnresponsive", "a container did not end on SIGKILL");
    return 0;
}

static int wait_exit(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;

    if (!c->end_op && (has_ended(c) || c->sandbox->process.pidfd < 0))
        return 0;
    if (sd_event_add_time_relative(c->sandbox->node->event, &c->timer, CLOCK_MONOTONIC,
                                   EXIT_TIMEOUT_MS * 1000ULL, 0, on_exit_overdue, c) < 0)
        return error_set(err, -ENOMEM, "cannot wait for container %s", c->id);
    return 1;
}

static const struct plan_step stop_steps[] = {
    {"signal", 0, 0, 0, stop_signal, NULL, cancel_wait},
    {"grace", PLAN_NEEDS(0), PLAN_VOLATILE, 0, stop_grace, NULL, cancel_wait},
    {"kill", PLAN_NEEDS(1), PLAN_VOLATILE, 0, stop_kill, NULL, cancel_wait},
    {"exit", PLAN_NEEDS(2), PLAN_VOLATILE, 0, wait_exit, NULL, cancel_wait},
};
const struct plan container_stop_plan = {"container.stop", PLAN_FORWARD, stop_steps,
                                         ARRAY_SIZE(stop_steps)};

static void shorten_grace(struct container *c, uint64_t deadline_ns)
{
    if (deadline_ns >= c->status.stop_deadline_ns)
        return;
    c->status.stop_deadline_ns = deadline_ns;
    if (c->timer && plan_current_step(c->plan) == 1)
        (void)sd_event_source_set_time(c->timer, deadline_ns / 1000);
}

void container_begin_stop(struct container *c, uint64_t timeout_ms)
{
    uint64_t now = clock_mono_ns();
    uint64_t deadline =
        timeout_ms > (UINT64_MAX - now) / 1000000 ? UINT64_MAX : now + timeout_ms * 1000000;
    int r;

    if (c->plan && plan_run_plan(c->plan) == &container_stop_plan) {
        shorten_grace(c, deadline);
        return;
    }
    if (c->plan) /* its start is ending, or its removal stops it anyway */
        return;
    c->status.stop_deadline_ns = deadline;
    r = plan_run_new(&container_stop_plan, &container_plan_ops, c, c->sandbox->node->event,
                     &c->plan);
    if (r < 0)
        waiters_complete(&c->stop_waiters, &c->sandbox->node->answers, r, NULL, NULL);
    else
        plan_run_start(c->plan);
}

/* ---- remove */

/* Its guest is told to forget it; a guest that is gone or deaf is not waited for. */
static int remove_guest(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveContainer body = NEXUS__REMOVE_CONTAINER__INIT;

    if (!is_connected(c))
        return 0;
    body.container_id = c->id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_CONTAINER;
    m.remove_container = &body;
    if (vmm_client_call(c->sandbox->client, &m, NULL, 0, EXIT_TIMEOUT_MS, on_tolerant_answer, c,
                        &c->call, NULL) < 0)
        return 0;
    return 1;
}

static void on_record_deleted(void *userdata, int r, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(container, "container", c->id);

    c->op = NULL;
    plan_step_written(c->plan, plan_current_step(c->plan), r, err, "the end of container", c->id);
}

static int remove_record(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    int r =
        store_delete(c->sandbox->node->container_store, c->id, on_record_deleted, c, &c->op, err);

    return r < 0 ? r : 1;
}

static const struct plan_step remove_steps[] = {
    {"kill", 0, 0, 0, stop_kill, NULL, cancel_wait},
    {"exit", PLAN_NEEDS(0), PLAN_VOLATILE, 0, wait_exit, NULL, cancel_wait},
    {"guest", PLAN_NEEDS(1), PLAN_VOLATILE, 0, remove_guest, NULL, cancel_wait},
    {"region", PLAN_NEEDS(2), PLAN_VOLATILE, 0, drop_regions, NULL, cancel_region},
    {"share", PLAN_NEEDS(2), PLAN_VOLATILE, 0, drop_share, NULL, cancel_share},
    {"record", PLAN_NEEDS(3) | PLAN_NEEDS(4), PLAN_VOLATILE, 0, remove_record, NULL, cancel_save},
};
const struct plan container_remove_plan = {"container.remove", PLAN_FORWARD, remove_steps,
                                           ARRAY_SIZE(remove_steps)};

void container_begin_remove(struct container *c)
{
    int r;

    if (c->plan && plan_run_plan(c->plan) == &container_remove_plan)
        return;
    if (c->plan) { /* a stop: cut its grace, remove it then */
        c->remove_wanted = true;
        if (plan_run_plan(c->plan) == &container_stop_plan)
            shorten_grace(c, clock_mono_ns());
        return;
    }
    /* a container that never ran has no exit to wait for */
    if (c->state == CONTAINER_CREATED) {
        c->status.finished_at_ns = clock_real_ns();
        c->told_ended = true;
    }
    c->state = CONTAINER_REMOVING;
    r = plan_run_new(&container_remove_plan, &container_plan_ops, c, c->sandbox->node->event,
                     &c->plan);
    if (r < 0)
        waiters_complete(&c->remove_waiters, &c->sandbox->node->answers, r, NULL, NULL);
    else
        plan_run_start(c->plan);
}

/* ---- the ends of plans */

static void on_journal(void *userdata, int r, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(container, "container", c->id);
    struct error *copy = NULL;

    c->journal_op = NULL;
    if (r < 0)
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "cannot save container %s: %s",
                              c->id, error_text(err, r));
    plan_journal_done(c->plan, r, copy);
}

static int journal(void *object, struct error **err)
{
    struct container *c = object;
    int r = container_save(c, c->state, plan_run_plan(c->plan)->kind == PLAN_FORWARD, on_journal, c,
                           &c->journal_op, err);

    return r < 0 ? r : 1;
}

static void on_undone_deleted(void *userdata, int r, const struct error *err)
{
    struct container *c = userdata;
    struct sandbox *s = c->sandbox;
    LOG_SCOPE(container, "container", c->id);

    c->op = NULL;
    if (r < 0)
        log_error("%s; the next start will", error_text(err, r));
    waiters_complete(&c->create_waiters, &s->node->answers, -c->why->code, c->why, NULL);
    container_free(c);
    volumes_collect(s);
    node_check_ready(s->node);
}

static void create_finished(struct container *c, enum plan_outcome outcome, const struct error *why,
                            const struct error *undo_why)
{
    struct waiter_queue *q = &c->sandbox->node->answers;
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    if (outcome == PLAN_DONE)
        c->state = CONTAINER_CREATED; /* that is durable */
    container_volumes_finish(c, outcome == PLAN_DONE);
    if (outcome == PLAN_DONE) {
        log_info("container %s is created", c->spec.name);
        container_tell_created(c);
        waiters_complete(&c->create_waiters, q, 0, NULL, c->id);
        return;
    }
    log_warning("container %s was not created: %s", c->spec.name, error_text(why, -EIO));
    if (outcome == PLAN_STUCK) /* what is left lives in the VM and ends with it */
        log_warning("undoing that failed: %s", error_text(undo_why, -EIO));
    share_forget(c);
    c->state = CONTAINER_UNDOING; /* its name is free when its record is gone */
    (void)error_set_class(&c->why, (int)error_class_of(why, -EIO), why ? -why->code : -EIO, "%s",
                          error_text(why, -EIO));
    r = store_delete(c->sandbox->node->container_store, c->id, on_undone_deleted, c, &c->op, &err);
    if (r < 0)
        on_undone_deleted(c, r, err);
}

static void start_finished(struct container *c, enum plan_outcome outcome, const struct error *why)
{
    struct waiter_queue *q = &c->sandbox->node->answers;

    if (outcome == PLAN_DONE) {
        if (c->state == CONTAINER_STARTING)
            c->state = CONTAINER_RUNNING;
        log_info("container %s is started", c->spec.name);
        waiters_complete(&c->start_waiters, q, 0, NULL, c->id);
    } else {
        container_end(c, 128, 0, "StartError", error_text(why, -EIO), 0);
        waiters_complete(&c->start_waiters, q, why ? -why->code : -EIO, why, NULL);
    }
    container_tell(c);
}

static void remove_finished(struct container *c, enum plan_outcome outcome, const struct error *why)
{
    struct waiter_queue *q = &c->sandbox->node->answers;
    struct sandbox *s = c->sandbox;

    if (outcome != PLAN_DONE) {
        log_warning("container %s cannot be removed: %s", c->id, error_text(why, -EIO));
        waiters_complete(&c->remove_waiters, q, why ? -why->code : -EIO, why, NULL);
        return;
    }
    log_info("container %s is removed", c->spec.name);
    container_tell_deleted(c);
    container_free(c); /* answers those who wait */
    volumes_collect(s);
}

/* What was asked for while a plan was going on. */
static void next_wish(struct container *c)
{
    bool stop = c->stop_wanted, del = c->remove_wanted;

    c->stop_wanted = c->remove_wanted = false;
    if (del)
        container_begin_remove(c);
    else if (stop && c->state == CONTAINER_RUNNING)
        container_begin_stop(c, c->stop_timeout_ms);
    else if (stop)
        waiters_complete(&c->stop_waiters, &c->sandbox->node->answers, 0, NULL, c->id);
}

static void finished(struct plan_run *run, void *object, enum plan_outcome outcome,
                     const struct error *why, const struct error *undo_why)
{
    struct container *c = object;
    struct node *n = c->sandbox->node;
    const struct plan *plan = plan_run_plan(run);
    char pod[LIMIT_ID_MAX + 1];

    memcpy(pod, c->sandbox->id, sizeof(pod)); /* the container may go below */
    LOG_SCOPE(pod, "pod", pod);
    c->plan = NULL;
    c->timer = sd_event_source_disable_unref(c->timer);
    if (plan == &container_create_plan) {
        create_finished(c, outcome, why, undo_why);
    } else if (plan == &container_start_plan) {
        start_finished(c, outcome, why);
        next_wish(c);
    } else if (plan == &container_stop_plan) {
        waiters_complete(&c->stop_waiters, &n->answers, outcome == PLAN_DONE ? 0 : -EIO, why,
                         c->id);
        next_wish(c);
    } else {
        remove_finished(c, outcome, why);
    }
    plan_run_free(run); /* last: why is its own */
    node_check_ready(n);
}
static const char *log_id(const void *object)
{
    return ((const struct container *)object)->id;
}
const struct plan_ops container_plan_ops = {"container", log_id, journal, finished};

/* ---- after a crash */

void container_adopt(struct container *c, const Nexus__ContainerState *state)
{
    LOG_SCOPE(container, "container", c->id);

    if (c->plan || has_ended(c)) /* answers of open calls tell, or it is known already */
        return;
    if (!state) {
        if (c->state == CONTAINER_STARTING || c->state == CONTAINER_RUNNING ||
            c->state == CONTAINER_CREATED)
            container_end(c, 255, 0, "Unknown", "nexus-vmm does not know it", 0);
        return;
    }
    switch ((int)c->state) {
    case CONTAINER_STARTING: /* the start was on its way when nexusd ended */
        if (state->state == NEXUS__CONTAINER_STATE__STATE__CREATED) {
            c->state = CONTAINER_CREATED;
            break;
        }
        c->status.started_at_ns = state->started_at_ns;
        c->state = CONTAINER_RUNNING;
        container_on_state(c, state);
        container_save_soon(c);
        container_tell(c);
        break;
    case CONTAINER_CREATED: /* started, and the intent was lost with a full disk */
    case CONTAINER_RUNNING:
        if (state->state != NEXUS__CONTAINER_STATE__STATE__CREATED) {
            c->state = CONTAINER_RUNNING;
            container_on_state(c, state);
        }
        break;
    default:
        if (state->state == NEXUS__CONTAINER_STATE__STATE__EXITED)
            container_on_state(c, state);
        break;
    }
}

void container_resume(struct container *c)
{
    const char *name = json_string_value(json_object_get(c->journal, "name"));
    _cleanup_(error_freep) struct error *err = NULL;
    json_t *journal_ = TAKE(c->journal);
    int r = 0;

    if (c->plan || c->op) { /* begun since the start, while its VM was not heard of */
        json_decref(journal_);
        return;
    }
    if (c->state == CONTAINER_CREATING) {
        r = plan_run_restore(&container_create_plan, &container_plan_ops, c,
                             c->sandbox->node->event, journal_, &c->plan, &err);
        if (r >= 0)
            plan_run_start(c->plan);
        else
            container_forget(c); /* recovery collects its volumes */
    } else if (c->state == CONTAINER_REMOVING) {
        container_begin_remove(c);
    } else if (c->state == CONTAINER_RUNNING && str_equal(name, container_stop_plan.name)) {
        uint64_t now = clock_mono_ns(), deadline = c->status.stop_deadline_ns;
        container_begin_stop(c, deadline > now ? (deadline - now) / 1000000 : 0);
    }
    json_decref(journal_);
}
