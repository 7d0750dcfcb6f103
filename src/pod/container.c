/* SPDX-License-Identifier: Apache-2.0 */
/* Containers: their records, and what each event leads to (state.c decides). Creating one is in
 * container-create.c, the rest of its life in container-life.c. */
#include "pod/container.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"
#include "wire/reply.h"

static const struct record_field status_fields[] = {
    RECORD_FIELD(U64, container_status, created_at_ns),
    RECORD_FIELD(U64, container_status, started_at_ns),
    RECORD_FIELD(U64, container_status, finished_at_ns),
    RECORD_FIELD(I32, container_status, exit_code),
    RECORD_FIELD(U32, container_status, exit_signal),
    RECORD_FIELD(STR, container_status, reason),
    RECORD_FIELD(STR, container_status, message),
    RECORD_FIELD(STR, container_status, image_id),
    RECORD_FIELD(STR, container_status, image_ref),
    RECORD_FIELD(STR, container_status, log_path),
    RECORD_FIELD(BOOL, container_status, has_user),
    RECORD_FIELD(U32, container_status, uid),
    RECORD_FIELD(U32, container_status, gid),
    RECORD_FIELD(U32V, container_status, groups),
    RECORD_FIELD(I32, container_status, stop_signal),
    RECORD_FIELD(BOOL, container_status, stop_signalled),
    RECORD_FIELD(U64, container_status, stop_deadline_ns),
    RECORD_SUB(LIST, container_status, volumes, container_volume_desc),
    RECORD_SUB(LIST, container_status, image_mounts, image_mount_desc),
};
static const struct record_desc status_desc = RECORD_DESC(container_status, status_fields);

struct container *container_new(struct sandbox *s, const char *id)
{
    struct container *c = xcalloc(1, sizeof(*c));

    c->sandbox = s;
    (void)snprintf(c->id, sizeof(c->id), "%s", id);
    list_init(&c->create_waiters);
    list_init(&c->start_waiters);
    list_init(&c->stop_waiters);
    list_init(&c->remove_waiters);
    list_append(&s->containers, &c->node);
    (void)hashmap_put(&s->node->containers, c->id, c);
    return c;
}

void container_free(struct container *c)
{
    struct waiter_queue *q;

    if (!c)
        return;
    q = &c->sandbox->node->answers;
    store_forget(TAKE(c->journal_op));
    plan_run_free(c->plan);
    c->plan = NULL;
    store_forget(TAKE(c->op));
    store_forget(TAKE(c->end_op));
    vmm_call_cancel(c->call);
    container_volumes_free(c);
    side_job_cancel(c->region_job.job);
    side_job_cancel(c->files_job.job);
    side_job_cancel(c->share_job.job);
    side_job_cancel(c->modules_job.job);
    vmm_call_cancel(c->modules_call);
    container_shares_free(c);
    container_files_free(c->files);
    sd_event_source_disable_unref(c->region_retry);
    sd_event_source_disable_unref(c->timer);
    waiters_complete(&c->create_waiters, q, -ECANCELED, NULL, NULL);
    waiters_complete(&c->start_waiters, q, -ECANCELED, NULL, NULL);
    waiters_complete(&c->stop_waiters, q, 0, NULL, NULL);
    waiters_complete(&c->remove_waiters, q, 0, NULL, NULL);
    container_release_images(c);
    (void)hashmap_remove(&c->sandbox->node->containers, c->id);
    list_remove(&c->node);
    json_decref(c->journal);
    error_free(c->why);
    free(c->numbers);
    container_spec_clear(&c->spec);
    record_clear(&status_desc, &c->status);
    free(c);
}

static enum container_state state_now(const struct container *c)
{
    if (c->state == CONTAINER_CREATING && c->plan && plan_is_undoing(c->plan))
        return CONTAINER_UNDOING;
    return c->state;
}

bool container_is_listed(const struct container *c)
{
    return c->state != CONTAINER_CREATING && c->state != CONTAINER_UNDOING;
}

enum container_cri_state container_cri_state(const struct container *c)
{
    switch (c->state) {
    case CONTAINER_CREATING:
    case CONTAINER_UNDOING:
    case CONTAINER_CREATED:
    case CONTAINER_STARTING:
        return CONTAINER_CRI_CREATED;
    case CONTAINER_RUNNING:
        return CONTAINER_CRI_RUNNING;
    case CONTAINER_EXITED:
        return CONTAINER_CRI_EXITED;
    case CONTAINER_REMOVING:
        if (c->status.finished_at_ns)
            return CONTAINER_CRI_EXITED;
        return c->status.started_at_ns ? CONTAINER_CRI_RUNNING : CONTAINER_CRI_CREATED;
    }
    return CONTAINER_CRI_UNKNOWN;
}

/* ---- records */

int container_save(struct container *c, enum container_state as, bool owed, store_done_fn done,
                   void *userdata, struct store_op **ret, struct error **err)
{
    json_t *doc =
        json_pack("{s:s, s:s, s:s, s:o, s:o}", "id", c->id, "sandbox", c->sandbox->id, "state",
                  container_state_name(as), "spec", record_to_json(&container_spec_desc, &c->spec),
                  "status", record_to_json(&status_desc, &c->status));
    int r = FP("pod.container.save");

    if (!doc)
        return error_set(err, -ENOMEM, "cannot describe container %s", c->id);
    if (c->plan && as != CONTAINER_CREATED && as != CONTAINER_EXITED)
        (void)json_object_set_new(doc, "plan", plan_run_to_json(c->plan));
    if (r < 0)
        (void)error_set(err, r, "failpoint while saving a container");
    else
        r = store_put(c->sandbox->node->container_store, c->id, doc, owed ? STORE_OWED : 0, done,
                      userdata, ret, err);
    json_decref(doc);
    return r < 0 ? error_prefix(err, r, "cannot save container %s", c->id) : 0;
}

static void on_saved_soon(void *userdata, int r, const struct error *err)
{
    if (r < 0)
        log_error("%s; nexus-vmm still knows better", error_text(err, r));
}

void container_save_soon(struct container *c)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = container_save(c, c->state, true, on_saved_soon, NULL, NULL, &err);

    if (r < 0)
        on_saved_soon(NULL, r, err);
}

static int check_mounts(const struct container *c, struct error **err)
{
    for (size_t i = 0; i < c->spec.mounts.count; i++) {
        const struct mount_spec *m = &c->spec.mounts.items[i];

        if (!m->container_path || !(m->host_path || m->image))
            return error_set(err, -EBADMSG, "a mount without its path or what is mounted");
    }
    for (size_t i = 0; i < c->status.image_mounts.count; i++) {
        const struct image_mount *m = &c->status.image_mounts.items[i];

        if (!m->destination || !m->image_id)
            return error_set(err, -EBADMSG, "an image that is mounted without its path or id");
    }
    return 0;
}

static int parse(struct container *c, const json_t *doc, struct error **err)
{
    int state = container_state_parse(json_string_value(json_object_get(doc, "state")));
    int r;

    if (!str_equal(json_string_value(json_object_get(doc, "id")), c->id))
        return error_set(err, -EBADMSG, "it holds another container's id");
    if (state < 0)
        return error_set(err, -EBADMSG, "unknown state");
    c->state = (enum container_state)state;
    r = record_from_json(&container_spec_desc, json_object_get(doc, "spec"), &c->spec, err);
    if (r < 0)
        return r;
    r = record_from_json(&status_desc, json_object_get(doc, "status"), &c->status, err);
    if (r < 0)
        return r;
    if (!c->spec.name || !c->spec.image || !c->status.image_id)
        return error_set(err, -EBADMSG, "name or image is missing");
    return check_mounts(c, err);
}

int container_load(struct node *n, const char *id, const json_t *doc, struct container **ret,
                   struct error **err)
{
    const char *owner = json_string_value(json_object_get(doc, "sandbox"));
    struct sandbox *s = owner ? hashmap_get(&n->sandboxes, owner) : NULL;
    struct container *c;
    int r;

    if (strlen(id) > LIMIT_ID_MAX || hashmap_get(&n->containers, id))
        return error_set(err, -EBADMSG, "no container id, or a second one: %.80s", id);
    if (!s)
        return error_set(err, -ENOENT, "container %s: its sandbox has no record", id);
    c = container_new(s, id);
    r = parse(c, doc, err);
    if (r < 0) {
        container_free(c);
        return error_prefix(err, r, "container %s", id);
    }
    c->told_started = c->status.started_at_ns != 0;
    c->told_ended = c->status.finished_at_ns != 0;
    c->journal = json_incref(json_object_get(doc, "plan"));
    c->image = image_ref(n->images, c->status.image_id);
    (void)container_hold_images(c);
    *ret = c;
    return 0;
}

static void on_forgotten(void *userdata, int r, const struct error *err)
{
    if (r < 0)
        log_error("%s; the next start will", error_text(err, r));
}

void container_forget(struct container *c)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = store_delete(c->sandbox->node->container_store, c->id, on_forgotten, NULL, NULL, &err);

    if (r < 0)
        on_forgotten(NULL, r, err);
    container_free(c);
}

/* ---- the end of a container */

/* Only now others are told that it is over: they may have it on record as well. */
static void on_end_saved(void *userdata, int r, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(container, "container", c->id);

    c->end_op = NULL;
    if (r < 0)
        log_error("%s; nexus-vmm still knows how it ended", error_text(err, r));
    container_tell(c);
    container_plan_poke(c);
}

void container_end(struct container *c, int exit_code, unsigned signal, const char *reason,
                   const char *message, uint64_t finished_at_ns)
{
    _cleanup_(error_freep) struct error *err = NULL;
    LOG_SCOPE(container, "container", c->id);
    int r;

    if (c->status.finished_at_ns)
        return; /* it ends once */
    if (c->state != CONTAINER_REMOVING)
        c->state = CONTAINER_EXITED;
    c->status.exit_code = exit_code;
    c->status.exit_signal = signal;
    c->status.finished_at_ns = finished_at_ns ? finished_at_ns : clock_real_ns();
    if (c->status.finished_at_ns <= c->status.started_at_ns) /* the clock was set back */
        c->status.finished_at_ns = c->status.started_at_ns + 1;
    free(c->status.reason);
    c->status.reason = str_dup(reason);
    free(c->status.message);
    c->status.message = message && message[0] ? str_dup(message) : NULL;
    log_info("container %s exited: code %d, %s", c->spec.name, exit_code, reason);
    r = container_save(c, c->state, true, on_end_saved, c, &c->end_op, &err);
    if (r < 0)
        on_end_saved(c, r, err);
    sandbox_poke(c->sandbox);
}

/* What nexus-vmm says of the guest: kept within what an exit can be. */
static void end_as_told(struct container *c, const Nexus__ContainerState *state)
{
    const Nexus__ExitInfo *exit = state->exit;
    char text[LIMIT_ERROR_TEXT_BYTES];
    int code = exit && exit->code >= 0 && exit->code <= 255 ? exit->code : 255;
    bool failed_start = state->started_at_ns == 0 && state->error && state->error[0];

    reply_clean_text(text, sizeof(text), state->error);
    if (state->started_at_ns && !c->status.started_at_ns)
        c->status.started_at_ns = state->started_at_ns;
    if (failed_start)
        container_end(c, 128, 0, "StartError", text, state->finished_at_ns);
    else if (exit && exit->oom_killed)
        container_end(c, 137, exit->signal, "OOMKilled", NULL, state->finished_at_ns);
    else if (!exit || code == 255)
        container_end(c, 255, 0, exit ? "Error" : "Unknown", text, state->finished_at_ns);
    else
        container_end(c, code, exit->signal < 65 ? exit->signal : 0, code ? "Error" : "Completed",
                      NULL, state->finished_at_ns);
}

/* Told by the guest: shown to whoever asks, and nothing more. */
static void take_user(struct container *c, const Nexus__Identity *user)
{
    struct container_status *s = &c->status;
    size_t n;

    if (!user || s->has_user)
        return;
    n = user->n_groups < LIMIT_GROUPS_TOLD ? user->n_groups : LIMIT_GROUPS_TOLD;
    s->has_user = true;
    s->uid = user->uid;
    s->gid = user->gid;
    if (n == 0)
        return;
    s->groups.items = xcalloc(n, sizeof(*s->groups.items));
    s->groups.count = n;
    memcpy(s->groups.items, user->groups, n * sizeof(*s->groups.items));
}

void container_on_state(struct container *c, const Nexus__ContainerState *state)
{
    take_user(c, state->user);
    if (state->state == NEXUS__CONTAINER_STATE__STATE__EXITED &&
        container_on(state_now(c), CONTAINER_EV_EXITED) == CONTAINER_DO_END)
        end_as_told(c, state);
}

void container_vm_gone(struct container *c, bool oom)
{
    struct error *err = NULL;

    switch ((int)container_on(state_now(c), CONTAINER_EV_VM_GONE)) {
    case CONTAINER_DO_FAIL_PLAN:
        (void)error_set_class(&err, ERROR_UNAVAILABLE, -ECONNRESET, "its VM ended");
        if (c->plan)
            plan_run_cancel(c->plan, err);
        else
            error_free(err);
        break;
    case CONTAINER_DO_END:
        if (oom)
            container_end(c, 137, 9, "OOMKilled", "the VM was out of memory on the host", 0);
        else
            container_end(c, 255, 0, "Unknown", "its VM ended before it did", 0);
        break;
    default:
        break;
    }
    container_plan_poke(c);
}

/* ---- operations */

static int find(struct node *n, const char *id, struct container **ret, struct error **err)
{
    return node_find_container(n, id, ret, err);
}

static int refuse(const struct container *c, const char *what, struct error **err)
{
    return error_set_class(err, ERROR_PRECONDITION, -ESTALE, "cannot %s container %s: it is %s",
                           what, c->id, container_state_name(state_now(c)));
}

int node_start_container(struct node *n, const char *id, waiter_fn fn, void *userdata,
                         struct waiter **ret, struct error **err)
{
    struct container *c = NULL;
    int r = find(n, id, &c, err);

    if (r < 0)
        return r;
    if (sandbox_on(c->sandbox->state, SANDBOX_EV_USE) != SANDBOX_DO_ALLOW)
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE,
                               "cannot start container %s: sandbox %s is not ready", c->id,
                               c->sandbox->id);
    if (container_on(state_now(c), CONTAINER_EV_START) != CONTAINER_DO_BEGIN_START || c->plan)
        return refuse(c, "start", err);
    r = plan_run_new(&container_start_plan, &container_plan_ops, c, n->event, &c->plan);
    if (r < 0)
        return error_set(err, r, "cannot start container %s", c->id);
    c->state = CONTAINER_STARTING;
    *ret = waiter_new(&c->start_waiters, fn, userdata);
    plan_run_start(c->plan);
    return 0;
}

/* An unknown id: done, told from the loop. */
static int answer_unknown(struct node *n, int r, struct error **why, waiter_fn fn, void *userdata,
                          struct waiter **ret, struct error **err)
{
    struct list none;

    if (r != -ENOENT)
        return error_set_class(err, (int)(*why)->class, r, "%s", (*why)->message);
    list_init(&none);
    *ret = waiter_new(&none, fn, userdata);
    waiter_complete(*ret, &n->answers, 0, NULL, NULL);
    return 0;
}

static void cancel_create(struct container *c)
{
    struct error *err = NULL;

    (void)error_set(&err, -ECANCELED, "the container was removed while it was created");
    plan_run_cancel(c->plan, err);
}

int node_stop_container(struct node *n, const char *id, uint64_t timeout_ms, waiter_fn fn,
                        void *userdata, struct waiter **ret, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    struct container *c = NULL;
    int r = find(n, id, &c, &why);

    if (r < 0)
        return answer_unknown(n, r, &why, fn, userdata, ret, err);
    *ret = waiter_new(&c->stop_waiters, fn, userdata);
    switch ((int)container_on(state_now(c), CONTAINER_EV_STOP)) {
    case CONTAINER_DO_ANSWER:
        waiter_complete(*ret, &n->answers, 0, NULL, c->id);
        break;
    case CONTAINER_DO_CANCEL_CREATE:
        cancel_create(c);
        break;
    case CONTAINER_DO_AFTER_START:
        c->stop_timeout_ms =
            c->stop_wanted && c->stop_timeout_ms < timeout_ms ? c->stop_timeout_ms : timeout_ms;
        c->stop_wanted = true;
        break;
    case CONTAINER_DO_BEGIN_STOP:
        container_begin_stop(c, timeout_ms);
        break;
    case CONTAINER_DO_JOIN_REMOVE:
        container_begin_remove(c);
        break;
    default: /* WAIT_UNDO */
        break;
    }
    return 0;
}

int node_remove_container(struct node *n, const char *id, waiter_fn fn, void *userdata,
                          struct waiter **ret, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    struct container *c = NULL;
    int r = find(n, id, &c, &why);

    if (r < 0)
        return answer_unknown(n, r, &why, fn, userdata, ret, err);
    *ret = waiter_new(&c->remove_waiters, fn, userdata);
    switch ((int)container_on(state_now(c), CONTAINER_EV_REMOVE)) {
    case CONTAINER_DO_CANCEL_CREATE:
        cancel_create(c);
        break;
    case CONTAINER_DO_AFTER_START:
        c->remove_wanted = true;
        break;
    case CONTAINER_DO_BEGIN_REMOVE:
    case CONTAINER_DO_JOIN_REMOVE:
        container_begin_remove(c);
        break;
    default: /* WAIT_UNDO */
        break;
    }
    return 0;
}
