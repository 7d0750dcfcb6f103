/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of CreateContainer: the image's read-only region is in the VM, the agent has the container,
 * the record says CREATED. What an undo cannot take back lives in the VM and ends with it. */
#include <signal.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/signal-name.h"
#include "pod/vmm-client.h"

#define SPEC_ARENA_BYTES (8U << 20)
#define VOLUMES_TIMEOUT_MS 60000 /* a file system that hangs; others of the pod wait as long */

enum create_step {
    CREATE_REGION,
    CREATE_VOLUMES,
    CREATE_FILES,
    CREATE_BUNDLE,
    CREATE_SHARE,
    CREATE_MODULES,
    CREATE_GUEST,
    CREATE_COMMIT
};

static void cancel_call(struct plan_run *run, void *object)
{
    struct container *c = object;

    vmm_call_cancel(TAKE(c->call));
}

/* What kubelet looks for in an error, or "". The guest calls a path wrong only where an image has none of it. */
static const char *known_word(const struct container *c, int r, const struct error *err)
{
    bool by_path = r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EXDEV;

    if (by_path && error_class_of(err, r) == ERROR_INVALID)
        for (size_t i = 0; i < c->spec.mounts.count; i++)
            if (c->spec.mounts.items[i].image_sub_path)
                return "ImageVolumeMountFailed: ";
    return "";
}

static void on_answer(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct container *c = userdata;
    struct error *copy = NULL;

    c->call = NULL;
    container_volumes_release(c);
    if (r < 0 && plan_is_undoing(c->plan)) { /* it ends with the VM */
        log_warning("guest did not undo the container: %s", error_text(err, r));
        r = 0;
    }
    if (r < 0)
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "%s%s", known_word(c, r, err),
                              error_text(err, r));
    plan_step_done(c->plan, c->call_step, r < 0 ? r : 0, copy);
}

static int call(struct container *c, unsigned step, Nexus__ControlMessage *m, const int *fds,
                size_t n_fds, unsigned deadline_ms, struct error **err)
{
    int r = vmm_client_call(c->sandbox->client, m, fds, n_fds, deadline_ms, on_answer, c, &c->call,
                            err);

    c->call_step = step;
    return r < 0 ? r : 1;
}

/* ---- guest */

static int tell_guest(struct container *c, struct error **err)
{
    _cleanup_(arena_freep) struct arena *a = arena_new(SPEC_ARENA_BYTES);
    _cleanup_(container_files_freep) struct container_files *f = TAKE(c->files);
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__CreateContainer body = NEXUS__CREATE_CONTAINER__INIT;
    int r = container_connected(c, err);

    if (r < 0)
        return r;
    body.spec = guest_container_spec(a, c, f, err);
    if (!body.spec)
        return -EINVAL;
    body.rootfs_region = c->status.image_id;
    body.termination_log = f->termination;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_CREATE_CONTAINER;
    m.create_container = &body;
    return call(c, CREATE_GUEST, &m, f->fds, f->n_fds, CREATE_TIMEOUT_MS, err);
}

static int create_guest(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    int r = container_volumes_hold(c, err);

    return r != 0 ? r : tell_guest(c, err);
}

void container_create_go_on(struct container *c)
{
    struct error *err = NULL;
    int r = container_volumes_hold(c, &err);

    if (r == 0)
        r = tell_guest(c, &err);
    if (r < 0)
        plan_step_done(c->plan, CREATE_GUEST, r, err);
}

static void cancel_guest(struct plan_run *run, void *object)
{
    cancel_call(run, object);
    cancel_volumes(run, object);
    container_volumes_release(object);
}

static int undo_guest(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveContainer body = NEXUS__REMOVE_CONTAINER__INIT;

    if (container_connected(c, NULL) < 0 || c->sandbox->vm_ended)
        return 0;
    body.container_id = c->id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_CONTAINER;
    m.remove_container = &body;
    return call(c, CREATE_GUEST, &m, NULL, 0, EXIT_TIMEOUT_MS, NULL) < 0 ? 0 : 1;
}

static void cancel_save(struct plan_run *run, void *object)
{
    struct container *c = object;

    store_forget(TAKE(c->op));
}

static void on_saved(void *userdata, int r, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(container, "container", c->id);

    c->op = NULL;
    plan_step_written(c->plan, CREATE_COMMIT, r, err, "container", c->id);
}

static int save_as(struct container *c, enum container_state as, bool owed, struct error **err)
{
    int r = container_save(c, as, owed, on_saved, c, &c->op, err);

    return r < 0 ? r : 1;
}

static void on_volumes_saved(void *userdata, int r, const struct error *err)
{
    struct container *c = userdata;
    _cleanup_(error_freep) struct error *why = NULL;
    LOG_SCOPE(container, "container", c->id);

    c->op = NULL;
    if (r >= 0)
        r = save_as(c, CONTAINER_CREATED, false, &why);
    if (r < 0)
        plan_step_written(c->plan, CREATE_COMMIT, r, why ? why : err, "container", c->id);
}

/* Its record says CREATED; the container is it when the plan is over. Volumes without a user are
 * forgotten at the next start, a container without its volumes is not: so theirs first. */
static int create_commit(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    int r;

    if (!c->status.volumes.count)
        return save_as(c, CONTAINER_CREATED, false, err);
    r = sandbox_save(c->sandbox, c->sandbox->state, false, on_volumes_saved, c, &c->op, err);
    return r < 0 ? r : 1;
}

static int undo_commit(struct plan_run *run, void *object, struct error **err)
{
    return save_as(object, CONTAINER_CREATING, true, err);
}

static const struct plan_step create_steps[] = {
    [CREATE_REGION] = {"region", 0, 0, 0, create_region, drop_regions, cancel_region},
    [CREATE_VOLUMES] = {"volumes", 0, PLAN_VOLATILE, VOLUMES_TIMEOUT_MS, create_volumes,
                        undo_volumes, cancel_volumes},
    /* a log that was made stays, as on any node */
    [CREATE_FILES] = {"files", PLAN_NEEDS(CREATE_VOLUMES), PLAN_VOLATILE, 0, create_files,
                      undo_files, cancel_files},
    /* a region that a crash leaves is one that no record names, see region.h */
    [CREATE_BUNDLE] = {"bundle", PLAN_NEEDS(CREATE_REGION) | PLAN_NEEDS(CREATE_VOLUMES),
                       PLAN_VOLATILE, 0, create_bundle, undo_bundle, cancel_volumes},
    /* what is bound is found by its name, when the container is forgotten */
    [CREATE_SHARE] = {"share", PLAN_NEEDS(CREATE_VOLUMES), PLAN_VOLATILE, 0, create_share, NULL,
                      cancel_share},
    /* the region stays until the VM ends */
    [CREATE_MODULES] = {"modules", PLAN_NEEDS(CREATE_VOLUMES), PLAN_VOLATILE, 0, create_modules,
                        NULL, cancel_modules},
    [CREATE_GUEST] = {"guest",
                      PLAN_NEEDS(CREATE_BUNDLE) | PLAN_NEEDS(CREATE_FILES) |
                          PLAN_NEEDS(CREATE_SHARE) | PLAN_NEEDS(CREATE_MODULES),
                      0, 0, create_guest, undo_guest, cancel_guest},
    [CREATE_COMMIT] = {"commit", PLAN_NEEDS(CREATE_GUEST), PLAN_VOLATILE, 0, create_commit,
                       undo_commit, cancel_save},
};
const struct plan container_create_plan = {"container.create", PLAN_UNDOABLE, create_steps,
                                           ARRAY_SIZE(create_steps)};

/* ---- the request */

static struct container *find_name(struct sandbox *s, const struct container_spec *spec)
{
    struct container *c;

    list_foreach (c, &s->containers, node)
        if (c->spec.attempt == spec->attempt && strcmp(c->spec.name, spec->name) == 0)
            return c;
    return NULL;
}

static int create_again(struct container *c, const struct container_spec *spec, waiter_fn fn,
                        void *userdata, struct waiter **ret, struct error **err)
{
    bool undoing = c->plan && plan_is_undoing(c->plan);
    enum container_state state = undoing ? CONTAINER_UNDOING : c->state;
    enum container_action action = container_on(state, CONTAINER_EV_CREATE);

    if (action == CONTAINER_DO_REFUSE)
        return error_set_class(err, ERROR_UNAVAILABLE, -EBUSY,
                               "container %s with that name is being removed", c->id);
    if (!record_equal(&container_spec_desc, spec, &c->spec))
        return error_set(err, -EEXIST,
                         "container %s (attempt %u) exists as %s with another "
                         "configuration",
                         spec->name, spec->attempt, c->id);
    *ret = waiter_new(&c->create_waiters, fn, userdata);
    if (action == CONTAINER_DO_ANSWER_CREATE)
        waiter_complete(*ret, &c->sandbox->node->answers, 0, NULL, c->id);
    return 0;
}

static int prepare(struct container *c, struct error **err)
{
    struct sandbox *s = c->sandbox;
    const struct image *image = image_lookup(s->node->images, c->spec.image);
    int signal, r;

    if (!image)
        return error_set(err, -ENOENT, "image %s is not there: pull it first", c->spec.image);
    c->image = image_ref(s->node->images, image->id);
    if (!c->image)
        return error_set(err, -ENOENT, "image %s is going away: pull it again", c->spec.image);
    r = container_find_images(c, err);
    if (r < 0)
        return r;
    c->state = CONTAINER_CREATING;
    c->status.created_at_ns = clock_real_ns();
    if (c->status.created_at_ns <= s->status.created_at_ns)
        c->status.created_at_ns = s->status.created_at_ns + 1;
    c->status.image_id = str_dup(image->id);
    c->status.image_ref = str_dup(image->id);
    signal = c->spec.stop_signal;
    if (!signal && image->process.stop_signal && image->process.stop_signal[0])
        signal = signal_parse(image->process.stop_signal);
    c->status.stop_signal = signal > 0 ? signal : SIGTERM; /* a bad one of the image: the default */
    if (s->spec.log_directory && c->spec.log_path)
        c->status.log_path = str_printf("%s/%s", s->spec.log_directory, c->spec.log_path);
    return 0;
}

/* Whose PID namespace it is to join: it has one as long as it runs. */
static int check_target(const struct sandbox *s, const struct container_spec *spec,
                        struct error **err)
{
    const char *id = spec->security.namespaces.target_id;
    struct container *c;

    if (spec->security.namespaces.pid != NAMESPACE_TARGET)
        return 0;
    list_foreach (c, &s->containers, node)
        if (str_equal(c->id, id))
            return c->state == CONTAINER_RUNNING
                       ? 0
                       : error_set_class(err, ERROR_PRECONDITION, -ESRCH,
                                         "target container %s is not running", id);
    return error_set(err, -EINVAL, "target container %.64s is none of the sandbox", id);
}

static int create(struct node *n, const char *sandbox_id, struct container_spec *spec, waiter_fn fn,
                  void *userdata, struct waiter **ret, struct error **err)
{
    struct sandbox *s = NULL;
    struct container *c;
    char id[LIMIT_ID_MAX + 1];
    size_t count = 0;
    int r = node_find_sandbox(n, sandbox_id, &s, err);

    if (r < 0)
        return r;
    if (sandbox_on(s->state, SANDBOX_EV_USE) != SANDBOX_DO_ALLOW)
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE,
                               "cannot create a container: sandbox %s is not ready", s->id);
    c = find_name(s, spec);
    if (c)
        return create_again(c, spec, fn, userdata, ret, err);
    r = check_target(s, spec, err);
    if (r < 0)
        return r;
    list_foreach (c, &s->containers, node)
        count++;
    if (count >= LIMIT_CONTAINERS_PER_POD || hashmap_count(&n->containers) >= LIMIT_CONTAINERS)
        return error_set(err, -EDQUOT, "too many containers: %zu in the pod, %zu on the node",
                         count, hashmap_count(&n->containers));
    random_hex(id, LIMIT_ID_MAX);
    c = container_new(s, id);
    c->spec = *spec;
    memset(spec, 0, sizeof(*spec));
    r = prepare(c, err);
    if (r >= 0) {
        r = plan_run_new(&container_create_plan, &container_plan_ops, c, n->event, &c->plan);
        if (r < 0)
            (void)error_set(err, r, "cannot create a container: %s", strerror(-r));
    }
    if (r < 0) {
        container_free(c);
        return r;
    }
    *ret = waiter_new(&c->create_waiters, fn, userdata);
    plan_run_start(c->plan);
    return 0;
}

int node_create_container(struct node *n, const char *sandbox_id, struct container_spec *spec,
                          waiter_fn fn, void *userdata, struct waiter **ret, struct error **err)
{
    int r = create(n, sandbox_id, spec, fn, userdata, ret, err);

    container_spec_clear(spec);
    return r;
}
