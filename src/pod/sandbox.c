/* SPDX-License-Identifier: Apache-2.0 */
/* Sandboxes: their records, their place in the node, and what each event leads to (state.c decides).
 * The steps of their plans are in sandbox-run.c and sandbox-release.c, their VM in sandbox-vm.c. */
#include "pod/sandbox.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/str.h"
#include "net/netns.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"

#define RETRY_FIRST_MS 500ULL
#define RETRY_LAST_MS 60000

static const struct record_field status_fields[] = {
    RECORD_FIELD(U64, sandbox_status, created_at_ns),
    RECORD_FIELD(STR, sandbox_status, boot_id),
    RECORD_FIELD(STR, sandbox_status, reason),
    RECORD_FIELD(STR, sandbox_status, message),
    RECORD_FIELD(U32, sandbox_status, cpus),
    RECORD_FIELD(U64, sandbox_status, memory_bytes),
    RECORD_FIELD(STR, sandbox_status, netns_path),
    RECORD_FIELD(STR, sandbox_status, cni_config),
    RECORD_FIELD(STR, sandbox_status, cni_result),
    RECORD_FIELD(BOOL, sandbox_status, network_owed),
    RECORD_FIELD(STRV, sandbox_status, ips),
    RECORD_FIELD(STR, sandbox_status, cgroup_path),
    RECORD_FIELD(STR, sandbox_status, guest_kernel),
    RECORD_FIELD(BOOL, sandbox_status, ghost),
};
static const struct record_desc status_desc = RECORD_DESC(sandbox_status, status_fields);

static const char *const desired_names[] = {"ready", "stopped", "removed"};

/* ---- objects and records */

struct sandbox *sandbox_new(struct node *n, const char *id)
{
    struct sandbox *s = xcalloc(1, sizeof(*s));

    s->node = n;
    (void)snprintf(s->id, sizeof(s->id), "%s", id);
    list_init(&s->containers);
    list_init(&s->volumes);
    list_init(&s->regions);
    list_init(&s->run_waiters);
    list_init(&s->stop_waiters);
    list_init(&s->remove_waiters);
    s->process = VMM_PROCESS_NONE;
    vmm_files_init(&s->files);
    s->netns_fd = s->tap_fd = s->scratch_fd = s->cgroup_fd = -EBADF;
    (void)hashmap_put(&n->sandboxes, s->id, s);
    list_append(&n->order, &s->order);
    return s;
}

char *sandbox_name_key(const struct sandbox_spec *spec)
{
    return str_printf("%s\n%s\n%s\n%u", spec->name, spec->namespace, spec->uid, spec->attempt);
}

static void forget_name(struct sandbox *s)
{
    _cleanup_(freep) char *key = NULL;

    if (!s->spec.name)
        return;
    key = sandbox_name_key(&s->spec);
    if (hashmap_get(&s->node->names, key) == s)
        (void)hashmap_remove(&s->node->names, key);
}

void sandbox_free(struct sandbox *s)
{
    if (!s)
        return;
    store_forget(TAKE(s->journal_op));
    plan_run_free(s->plan);
    s->plan = NULL;
    store_forget(TAKE(s->op));
    volumes_end(s);
    regions_clear(s);
    sandbox_stats_free(s);
    share_free(s);
    while (!list_is_empty(&s->containers))
        container_free(list_first(&s->containers, struct container, node));
    waiters_complete(&s->run_waiters, &s->node->answers, -ECANCELED, NULL, NULL);
    waiters_complete(&s->stop_waiters, &s->node->answers, 0, NULL, NULL);
    waiters_complete(&s->remove_waiters, &s->node->answers, 0, NULL, NULL);
    forget_name(s);
    (void)hashmap_remove(&s->node->sandboxes, s->id);
    list_remove(&s->order);
    sandbox_disconnect(s);
    sd_event_source_disable_unref(s->retry);
    sd_event_source_disable_unref(s->reconnect);
    sd_event_source_disable_unref(s->wait_timer);
    sd_event_source_disable_unref(s->process_io);
    sd_event_source_disable_unref(s->cni_timer);
    cni_call_free(s->cni);
    cni_network_free(s->cni_net);
    net_task_free(s->net_task);
    side_job_cancel(s->cgroup_job.job);
    side_job_cancel(s->scratch_job.job);
    side_job_cancel(s->files_job.job);
    vmm_files_done(&s->files);
    free(s->net);
    vmm_process_close(&s->process);
    (void)close_fd(s->netns_fd);
    (void)close_fd(s->tap_fd);
    (void)close_fd(s->scratch_fd);
    (void)close_fd(s->cgroup_fd);
    json_decref(s->journal);
    error_free(s->owed);
    error_free(s->why);
    error_free(s->pending);
    sandbox_spec_clear(&s->spec);
    record_clear(&status_desc, &s->status);
    free(s);
}

static enum sandbox_state state_now(const struct sandbox *s)
{
    if (s->state == SANDBOX_CREATING && s->plan && plan_is_undoing(s->plan))
        return SANDBOX_UNDOING;
    return s->state;
}

bool sandbox_is_listed(const struct sandbox *s)
{
    return !s->status.ghost && s->state != SANDBOX_CREATING && s->state != SANDBOX_UNDOING;
}

bool sandbox_is_ready(const struct sandbox *s)
{
    return s->state == SANDBOX_READY;
}

int sandbox_save(struct sandbox *s, enum sandbox_state as, bool owed, store_done_fn done,
                 void *userdata, struct store_op **ret, struct error **err)
{
    json_t *doc = json_pack("{s:s, s:s, s:s, s:o, s:o}", "id", s->id, "state",
                            sandbox_state_name(as), "desired", desired_names[s->desired], "spec",
                            record_to_json(&sandbox_spec_desc, &s->spec), "status",
                            record_to_json(&status_desc, &s->status));
    int r = FP("pod.sandbox.save");

    if (!doc)
        return error_set(err, -ENOMEM, "cannot describe sandbox %s", s->id);
    if (!list_is_empty(&s->volumes))
        (void)json_object_set_new(doc, "volumes", volumes_to_json(s));
    if (s->plan && as != SANDBOX_READY && as != SANDBOX_STOPPED)
        (void)json_object_set_new(doc, "plan", plan_run_to_json(s->plan));
    if (r < 0)
        (void)error_set(err, r, "failpoint while saving a sandbox");
    else
        r = store_put(s->node->sandbox_store, s->id, doc, owed ? STORE_OWED : 0, done, userdata,
                      ret, err);
    json_decref(doc);
    return r < 0 ? error_prefix(err, r, "cannot save sandbox %s", s->id) : 0;
}

static void on_saved_soon(void *userdata, int r, const struct error *err)
{
    if (r < 0)
        log_error("%s; the older record leads to the same end", error_text(err, r));
}

void sandbox_save_soon(struct sandbox *s)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = sandbox_save(s, s->state, true, on_saved_soon, NULL, NULL, &err);

    if (r < 0)
        on_saved_soon(NULL, r, err);
}

void plan_step_written(struct plan_run *run, unsigned step, int r, const struct error *err,
                       const char *what, const char *id)
{
    struct error *copy = NULL;

    if (r < 0)
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "cannot save %s %s: %s", what,
                              id, error_text(err, r));
    plan_step_done(run, step, r, copy);
}

void plan_step_ended(struct plan_run *run, unsigned step, int r, const struct error *err)
{
    struct error *copy = NULL;

    if (r < 0)
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "%s", error_text(err, r));
    plan_step_done(run, step, r < 0 ? r : 0, copy);
}

static int find_name(const char *const *names, size_t n, const json_t *v)
{
    for (size_t i = 0; i < n; i++)
        if (str_equal(names[i], json_string_value(v)))
            return (int)i;
    return -EBADMSG;
}

static int parse(struct sandbox *s, const json_t *doc, struct error **err)
{
    int state = sandbox_state_parse(json_string_value(json_object_get(doc, "state")));
    int desired =
        find_name(desired_names, ARRAY_SIZE(desired_names), json_object_get(doc, "desired"));
    int r;

    if (!str_equal(json_string_value(json_object_get(doc, "id")), s->id))
        return error_set(err, -EBADMSG, "it holds another sandbox's id");
    if (state < 0 || desired < 0)
        return error_set(err, -EBADMSG, "unknown state");
    s->state = (enum sandbox_state)state;
    s->desired = (enum sandbox_desired)desired;
    r = record_from_json(&sandbox_spec_desc, json_object_get(doc, "spec"), &s->spec, err);
    if (r < 0)
        return r;
    r = record_from_json(&status_desc, json_object_get(doc, "status"), &s->status, err);
    if (r < 0)
        return r;
    r = volumes_from_json(s, json_object_get(doc, "volumes"), err);
    if (r < 0)
        return r;
    if (!s->spec.name || !s->spec.namespace || !s->spec.uid || !s->status.boot_id)
        return error_set(err, -EBADMSG, "name, namespace, uid or boot id is missing");
    return 0;
}

int sandbox_load(struct node *n, const char *id, const json_t *doc, struct sandbox **ret,
                 struct error **err)
{
    struct sandbox *s;
    _cleanup_(freep) char *key = NULL;
    int r;

    if (strlen(id) > LIMIT_ID_MAX || hashmap_get(&n->sandboxes, id))
        return error_set(err, -EBADMSG, "no sandbox id, or a second one: %.80s", id);
    s = sandbox_new(n, id);
    r = parse(s, doc, err);
    if (r >= 0) {
        key = sandbox_name_key(&s->spec);
        r = hashmap_put(&n->names, key, s);
        if (r == -EEXIST) /* an older attempt keeps the name; this one is still cleaned up */
            r = 0;
    }
    if (r < 0) {
        sandbox_free(s);
        return error_prefix(err, r, "sandbox %s", id);
    }
    node_order_sandbox(n, s);
    s->journal = json_incref(json_object_get(doc, "plan"));
    *ret = s;
    return 0;
}

void sandbox_set_reason(struct sandbox *s, const char *reason, const char *message)
{
    if (s->status.reason) /* the first cause counts */
        return;
    s->status.reason = str_dup(reason);
    s->status.message = str_dup(message);
}

/* ---- the ends of plans */

static void on_journal(void *userdata, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);
    struct error *copy = NULL;

    s->journal_op = NULL;
    if (r < 0)
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "cannot save sandbox %s: %s",
                              s->id, error_text(err, r));
    plan_journal_done(s->plan, r, copy);
}

static int journal(void *object, struct error **err)
{
    struct sandbox *s = object;
    int r = sandbox_save(s, s->state, plan_run_plan(s->plan)->kind == PLAN_FORWARD, on_journal, s,
                         &s->journal_op, err);

    return r < 0 ? r : 1;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->retry = sd_event_source_disable_unref(s->retry);
    if (s->state == SANDBOX_REMOVING)
        sandbox_begin_remove(s);
    else
        sandbox_begin_stop(s);
    return 0;
}

static void retry_later(struct sandbox *s)
{
    uint64_t ms = RETRY_FIRST_MS << (s->retries < 8 ? s->retries : 8);

    if (ms > RETRY_LAST_MS)
        ms = RETRY_LAST_MS;
    s->retries++;
    s->retry = sd_event_source_disable_unref(s->retry);
    (void)sd_event_add_time_relative(s->node->event, &s->retry, CLOCK_MONOTONIC, ms * 1000, 0,
                                     on_retry, s);
}

static void set_owed(struct sandbox *s, const struct error *why)
{
    error_free(s->owed);
    s->owed = NULL;
    (void)error_set_class(&s->owed, (int)error_class_of(why, -EIO), why ? -why->code : -EIO, "%s",
                          error_text(why, -EIO));
}

/* Stages as BEGIN+TOOK since the call came (asked: on the monotonic clock); they overlap. */
static void log_stages(const struct sandbox *s, const struct plan_run *run)
{
    char text[768];

    plan_run_times(run, s->asked_ns, text, sizeof(text));
    log_info("sandbox is ready: asked=%lluus prepare=0+%lluus%s total=%lluus",
             (unsigned long long)(s->asked_ns / 1000), (unsigned long long)(s->prepare_ns / 1000),
             text, (unsigned long long)((clock_mono_ns() - s->asked_ns) / 1000));
}

static void undone(struct sandbox *s)
{
    struct node *n = s->node;
    struct error *why = s->why;

    waiters_complete(&s->run_waiters, &n->answers, why ? -why->code : -EIO, why, NULL);
    waiters_complete(&s->stop_waiters, &n->answers, 0, NULL, NULL);
    waiters_complete(&s->remove_waiters, &n->answers, 0, NULL, NULL);
    sandbox_free(s);
    node_check_ready(n);
}

static void on_undone_deleted(void *userdata, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->op = NULL;
    if (r < 0)
        log_error("cannot delete its record, the next start will: %s", error_text(err, r));
    undone(s);
}

/* Its name is free again, and the caller is told, when its record is gone. */
static void run_undone(struct sandbox *s, const struct error *why)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    log_warning("sandbox was not started and is undone: %s", error_text(why, -EIO));
    s->state = SANDBOX_UNDOING;
    (void)error_set_class(&s->why, (int)error_class_of(why, -EIO), why ? -why->code : -EIO, "%s",
                          error_text(why, -EIO));
    r = store_delete(s->node->sandbox_store, s->id, on_undone_deleted, s, &s->op, &err);
    if (r < 0)
        on_undone_deleted(s, r, err);
}

static void on_stuck_saved(void *userdata, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    struct waiter_queue *q = &s->node->answers;
    _cleanup_(error_freep) struct error *why = TAKE(s->why);
    LOG_SCOPE(pod, "pod", s->id);

    s->op = NULL;
    if (r < 0)
        log_error("cannot save what is owed, the journal of its start still tells: %s",
                  error_text(err, r));
    waiters_complete(&s->run_waiters, q, -why->code, why, NULL);
    waiters_complete(&s->stop_waiters, q, -s->owed->code, s->owed, NULL);
    waiters_complete(&s->remove_waiters, q, -s->owed->code, s->owed, NULL);
    retry_later(s);
    node_check_ready(s->node);
}

/* It is stopped by and by; whoever is told that finds it so after a restart, too. */
static void run_stuck(struct sandbox *s, const struct error *why, const struct error *undo_why)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    log_error("sandbox was not started, and undoing it failed: %s; %s", error_text(why, -EIO),
              error_text(undo_why, -EIO));
    (void)error_set_class(&s->why, (int)error_class_of(why, -EIO), why ? -why->code : -EIO,
                          "%s; undoing it failed too and is tried again: %s", error_text(why, -EIO),
                          error_text(undo_why, -EIO));
    s->state = SANDBOX_STOPPING;
    if (s->desired == SANDBOX_WANT_READY)
        s->desired = SANDBOX_WANT_STOPPED;
    sandbox_set_reason(s, "StartFailed", s->why->message);
    set_owed(s, undo_why);
    r = sandbox_save(s, SANDBOX_STOPPING, true, on_stuck_saved, s, &s->op, &err);
    if (r < 0)
        on_stuck_saved(s, r, err);
}

static void run_finished(struct sandbox *s, struct plan_run *run, enum plan_outcome outcome,
                         const struct error *why, const struct error *undo_why)
{
    struct node *n = s->node;

    if (outcome == PLAN_DONE) {
        s->state = SANDBOX_READY; /* that is durable */
        log_stages(s, run);
        sandbox_tell(s, NODE_EVENT_CREATED);
        sandbox_tell(s, NODE_EVENT_STARTED);
        waiters_complete(&s->run_waiters, &n->answers, 0, NULL, s->id);
        return;
    }
    if (outcome == PLAN_UNDONE) {
        run_undone(s, why);
        return;
    }
    run_stuck(s, why, undo_why);
}

static void stop_finished(struct sandbox *s, enum plan_outcome outcome, const struct error *why)
{
    struct node *n = s->node;

    if (outcome == PLAN_DONE) {
        s->state = SANDBOX_STOPPED; /* that is durable, or leads to the same end */
        log_info("sandbox is stopped");
        sandbox_tell(s, NODE_EVENT_STOPPED);
        s->retries = 0;
        waiters_complete(&s->stop_waiters, &n->answers, 0, NULL, s->id);
        if (s->desired == SANDBOX_WANT_REMOVED)
            sandbox_begin_remove(s);
        return;
    }
    log_warning("sandbox cannot be released yet, it is tried again: %s", error_text(why, -EIO));
    set_owed(s, why);
    waiters_complete(&s->stop_waiters, &n->answers, -s->owed->code, s->owed, NULL);
    waiters_complete(&s->remove_waiters, &n->answers, -s->owed->code, s->owed, NULL);
    retry_later(s);
}

static void remove_finished(struct sandbox *s, enum plan_outcome outcome, const struct error *why)
{
    struct node *n = s->node;

    if (outcome != PLAN_DONE) {
        log_warning("sandbox cannot be removed yet, it is tried again: %s", error_text(why, -EIO));
        set_owed(s, why);
        waiters_complete(&s->remove_waiters, &n->answers, -s->owed->code, s->owed, NULL);
        retry_later(s);
        return;
    }
    log_info("sandbox is removed");
    sandbox_tell(s, NODE_EVENT_DELETED);
    waiters_complete(&s->stop_waiters, &n->answers, 0, NULL, s->id);
    waiters_complete(&s->remove_waiters, &n->answers, 0, NULL, s->id);
    sandbox_free(s);
}

static void finished(struct plan_run *run, void *object, enum plan_outcome outcome,
                     const struct error *why, const struct error *undo_why)
{
    struct sandbox *s = object;
    struct node *n = s->node;

    s->plan = NULL;
    s->cni_run = s->net_run = NULL;
    s->net_after = NULL;
    s->wait = SANDBOX_WAIT_NONE;
    if (plan_run_plan(run) == &sandbox_run_plan)
        run_finished(s, run, outcome, why, undo_why);
    else if (plan_run_plan(run) == &sandbox_stop_plan)
        stop_finished(s, outcome, why);
    else
        remove_finished(s, outcome, why);
    plan_run_free(run); /* last: why is its own */
    node_check_ready(n);
}

static const char *log_id(const void *object)
{
    return ((const struct sandbox *)object)->id;
}
const struct plan_ops sandbox_plan_ops = {"pod", log_id, journal, finished};

static void begin(struct sandbox *s, const struct plan *plan, enum sandbox_state state)
{
    int r;

    s->retry = sd_event_source_disable_unref(s->retry);
    if (s->plan)
        return;
    s->state = state;
    r = plan_run_new(plan, &sandbox_plan_ops, s, s->node->event, &s->plan);
    if (r < 0) {
        log_error_errno(r, "cannot begin %s, trying again", plan->name);
        retry_later(s);
        return;
    }
    plan_run_start(s->plan);
}

void sandbox_begin_stop(struct sandbox *s)
{
    if (s->desired == SANDBOX_WANT_READY)
        s->desired = SANDBOX_WANT_STOPPED;
    volumes_end(s); /* its regions go with the VM */
    begin(s, &sandbox_stop_plan, SANDBOX_STOPPING);
}

void sandbox_begin_remove(struct sandbox *s)
{
    s->desired = SANDBOX_WANT_REMOVED;
    begin(s, &sandbox_remove_plan, SANDBOX_REMOVING);
}

/* ---- events */

static void fail_run(struct sandbox *s, const char *reason, const char *message)
{
    struct error *err = NULL;

    (void)error_set_class(&err, ERROR_UNAVAILABLE, -ECONNRESET,
                          "the VM ended while starting: %s: %s", reason, message);
    plan_run_cancel(s->plan, err);
}

void sandbox_vm_gone(struct sandbox *s, const char *reason, const char *message, bool oom)
{
    struct container *c;

    s->vm_ended = true;
    regions_clear(s);
    switch ((int)sandbox_on(state_now(s), SANDBOX_EV_VM_GONE)) {
    case SANDBOX_DO_FAIL_RUN:
        if (s->plan)
            fail_run(s, reason, message);
        break;
    case SANDBOX_DO_LOSE_VM:
        log_error("VM ended: %s: %s", reason, message);
        sandbox_set_reason(s, reason, message);
        list_foreach (c, &s->containers, node)
            container_vm_gone(c, oom);
        sandbox_begin_stop(s);
        break;
    default: /* it was to end */
        list_foreach (c, &s->containers, node)
            container_vm_gone(c, oom);
        break;
    }
    sandbox_poke(s);
}

static int refuse_other(const struct sandbox *s, struct error **err)
{
    return error_set(err, -EEXIST,
                     "sandbox %s/%s (uid %s, attempt %u) exists as %s with another configuration",
                     s->spec.namespace, s->spec.name, s->spec.uid, s->spec.attempt, s->id);
}

/* RunPodSandbox for a name that is taken. */
static int run_again(struct sandbox *s, const struct sandbox_spec *spec, waiter_fn fn,
                     void *userdata, struct waiter **ret, struct error **err)
{
    enum sandbox_action action = sandbox_on(state_now(s), SANDBOX_EV_RUN);

    if (action != SANDBOX_DO_JOIN_RUN && action != SANDBOX_DO_ANSWER_RUN)
        return error_set(
            err, -EEXIST,
            "sandbox %s/%s (attempt %u) exists as %s and is not ready any more; remove "
            "it first or use another attempt",
            s->spec.namespace, s->spec.name, s->spec.attempt, s->id);
    if (!record_equal(&sandbox_spec_desc, spec, &s->spec))
        return refuse_other(s, err);
    *ret = waiter_new(&s->run_waiters, fn, userdata);
    if (action == SANDBOX_DO_ANSWER_RUN)
        waiter_complete(*ret, &s->node->answers, 0, NULL, s->id);
    return 0;
}

static int run_new(struct node *n, struct sandbox_spec *spec, waiter_fn fn, void *userdata,
                   struct waiter **ret, struct error **err)
{
    _cleanup_(freep) char *key = sandbox_name_key(spec);
    struct sandbox *s = hashmap_get(&n->names, key);
    uint64_t asked_ns = clock_mono_ns();
    char id[LIMIT_ID_MAX + 1];
    int r;

    if (s)
        return run_again(s, spec, fn, userdata, ret, err);
    if (hashmap_count(&n->sandboxes) >= LIMIT_PODS)
        return error_set(err, -EDQUOT, "this node has %d sandboxes, its limit", LIMIT_PODS);
    random_hex(id, LIMIT_ID_MAX);
    s = sandbox_new(n, id);
    s->spec = *spec;
    s->asked_ns = asked_ns;
    memset(spec, 0, sizeof(*spec));
    (void)hashmap_put(&n->names, key, s);
    r = sandbox_prepare_run(s, err);
    if (r >= 0) {
        r = plan_run_new(&sandbox_run_plan, &sandbox_plan_ops, s, n->event, &s->plan);
        if (r < 0)
            (void)error_set(err, r, "cannot start a sandbox: %s", strerror(-r));
    }
    if (r < 0) {
        sandbox_free(s);
        return r;
    }
    log_info("starting sandbox %s for pod %s/%s", s->id, s->spec.namespace, s->spec.name);
    *ret = waiter_new(&s->run_waiters, fn, userdata);
    s->prepare_ns = clock_mono_ns() - asked_ns;
    plan_run_start(s->plan);
    return 0;
}

int node_run_sandbox(struct node *n, struct sandbox_spec *spec, waiter_fn fn, void *userdata,
                     struct waiter **ret, struct error **err)
{
    int r = node_require_ready(n, err);

    if (r >= 0)
        r = run_new(n, spec, fn, userdata, ret, err);
    sandbox_spec_clear(spec);
    return r;
}

/* A stop or remove of something unknown: done, told from the loop like everything else. */
static int answer_unknown(struct node *n, waiter_fn fn, void *userdata, struct waiter **ret,
                          struct error **err)
{
    struct list none;

    error_free(*err);
    *err = NULL;
    list_init(&none);
    *ret = waiter_new(&none, fn, userdata);
    waiter_complete(*ret, &n->answers, 0, NULL, NULL);
    return 0;
}

static void cancel_run(struct sandbox *s)
{
    struct error *err = NULL;

    (void)error_set(&err, -ECANCELED, "the sandbox was stopped while it started");
    plan_run_cancel(s->plan, err);
}

int node_stop_sandbox(struct node *n, const char *id, waiter_fn fn, void *userdata,
                      struct waiter **ret, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    struct sandbox *s = NULL;
    int r = node_find_sandbox(n, id, &s, &why);

    if (r == -ENOENT)
        return answer_unknown(n, fn, userdata, ret, &why);
    if (r < 0)
        return error_set_class(err, (int)why->class, r, "%s", why->message);
    LOG_SCOPE(pod, "pod", s->id);
    if (s->desired == SANDBOX_WANT_READY)
        s->desired = SANDBOX_WANT_STOPPED;
    *ret = waiter_new(&s->stop_waiters, fn, userdata);
    switch ((int)sandbox_on(state_now(s), SANDBOX_EV_STOP)) {
    case SANDBOX_DO_CANCEL_RUN:
        cancel_run(s);
        break;
    case SANDBOX_DO_BEGIN_STOP:
        log_info("stopping sandbox");
        sandbox_begin_stop(s);
        break;
    case SANDBOX_DO_JOIN_STOP:
        sandbox_begin_stop(s); /* a halted one begins again at once */
        break;
    case SANDBOX_DO_JOIN_REMOVE:
        sandbox_begin_remove(s);
        break;
    case SANDBOX_DO_ANSWER:
        waiter_complete(*ret, &n->answers, 0, NULL, s->id);
        break;
    default: /* WAIT_UNDO: the waiter is told when it is over */
        break;
    }
    return 0;
}

int node_remove_sandbox(struct node *n, const char *id, waiter_fn fn, void *userdata,
                        struct waiter **ret, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    struct sandbox *s = NULL;
    int r = node_find_sandbox(n, id, &s, &why);

    if (r == -ENOENT)
        return answer_unknown(n, fn, userdata, ret, &why);
    if (r < 0)
        return error_set_class(err, (int)why->class, r, "%s", why->message);
    LOG_SCOPE(pod, "pod", s->id);
    s->desired = SANDBOX_WANT_REMOVED;
    *ret = waiter_new(&s->remove_waiters, fn, userdata);
    switch ((int)sandbox_on(state_now(s), SANDBOX_EV_REMOVE)) {
    case SANDBOX_DO_CANCEL_RUN:
        cancel_run(s);
        break;
    case SANDBOX_DO_STOP_REMOVE:
        log_info("stopping and removing sandbox");
        sandbox_begin_stop(s);
        break;
    case SANDBOX_DO_BEGIN_REMOVE:
    case SANDBOX_DO_JOIN_REMOVE:
        sandbox_begin_remove(s);
        break;
    default: /* WAIT_UNDO */
        break;
    }
    return 0;
}
