/* SPDX-License-Identifier: Apache-2.0 */
/* The steps that work in the pod's network namespace: netns, tap, redirect. Each is a child of its own
 * (net/netns.h), one at a time per sandbox. A step that is undone while its child works waits for the
 * child's end first: what a killed child still does in the kernel must not come after the undo. */
#include "base/log.h"
#include "base/str.h"
#include "net/netns.h"
#include "net/tap.h"
#include "pod/node-internal.h"

/* What the open plan's step waits for is over. */
static void task_ended(struct sandbox *s, int r, const struct error *err)
{
    struct error *copy = NULL;
    int (*after)(struct sandbox *, struct error **) = TAKE(s->net_after);

    s->net_task = NULL;
    if (after)
        r = after(s, &copy);
    else if (r < 0)
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "%s", error_text(err, r));
    if (r == 1) /* a child of its own goes on with it */
        return;
    if (s->plan && s->plan == s->net_run)
        plan_step_done(s->plan, s->net_step, r, copy);
    else
        error_free(copy);
}

static int wait_for_task(struct sandbox *s, const struct plan_run *run)
{
    s->net_run = run;
    s->net_step = plan_current_step(run);
    return 1;
}

/* Runs fn, but not beside a child. fn may begin one (1). */
static int after_task(struct sandbox *s, const struct plan_run *run,
                      int (*fn)(struct sandbox *s, struct error **err), struct error **err)
{
    if (!s->net_task) {
        int r = fn(s, err);

        return r == 1 ? wait_for_task(s, run) : r;
    }
    net_task_cancel(s->net_task);
    s->net_after = fn;
    return wait_for_task(s, run);
}

void net_cancel(struct plan_run *run, void *object)
{
    struct sandbox *s = object;

    if (s->net_task)
        net_task_cancel(s->net_task);
}

/* ---- the namespace */

static void on_netns(void *userdata, int r, int fd, const void *data, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->netns_fd = fd;
    task_ended(s, r, err);
}

int net_netns(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    int r = netns_create(s->node->event, s->status.netns_path, on_netns, s, &s->net_task, err);

    return r < 0 ? r : wait_for_task(s, run);
}

static void on_netns_removed(void *userdata, int r, int fd, const void *data,
                             const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    (void)close_fd(fd);
    task_ended(s, r, err);
}

static int remove_netns(struct sandbox *s, struct error **err)
{
    int r;

    s->netns_fd = close_fd(s->netns_fd);
    free(TAKE(s->net));
    if (!s->status.netns_path)
        return 0;
    r = netns_remove_begin(s->node->event, s->status.netns_path, on_netns_removed, s, &s->net_task,
                           err);
    return r < 0 ? r : 1;
}

int release_netns(struct plan_run *run, void *object, struct error **err)
{
    return after_task(object, run, remove_netns, err);
}

/* ---- the TAP */

static void on_tap(void *userdata, int r, int fd, const void *data, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->tap_fd = fd;
    task_ended(s, r, err);
}

int net_tap(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    int r = tap_create(s->node->event, s->netns_fd, TAP_NAME, on_tap, s, &s->net_task, err);

    return r < 0 ? r : wait_for_task(s, run);
}

static int close_tap(struct sandbox *s, struct error **err)
{
    s->tap_fd = close_fd(s->tap_fd);
    return 0;
}

int net_undo_tap(struct plan_run *run, void *object, struct error **err)
{
    return after_task(object, run, close_tap, err);
}

/* ---- the coupling: from here on every frame is the guest's */

static void on_redirected(void *userdata, int r, int fd, const void *data, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    if (r >= 0) {
        free(s->net);
        s->net = xcalloc(1, sizeof(*s->net));
        *s->net = *(const struct net_config *)data;
    }
    /* held until now, so that a VM that ends meanwhile does not take it away and blur the cause */
    s->tap_fd = close_fd(s->tap_fd);
    task_ended(s, r, err);
}

int net_redirect(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    int r = tap_redirect(s->node->event, s->netns_fd, CNI_IFNAME, TAP_NAME, on_redirected, s,
                         &s->net_task, err);

    return r < 0 ? r : wait_for_task(s, run);
}

static int nothing(struct sandbox *s, struct error **err)
{
    return 0;
}

/* It goes with the namespace. */
int net_undo_redirect(struct plan_run *run, void *object, struct error **err)
{
    return after_task(object, run, nothing, err);
}
