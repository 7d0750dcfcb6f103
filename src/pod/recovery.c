/* SPDX-License-Identifier: Apache-2.0 */
/* The start of nexusd: records are read, every nexus-vmm is found again and asked what happened, open
 * plans are finished or undone, and what belongs to no record is removed. Until the first attempt at
 * all of that is over nothing but UNAVAILABLE is answered. */
#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/str.h"
#include "net/netns.h"
#include "pod/node-internal.h"
#include "pod/scratch.h"

/* A plan that cannot end (a CNI DEL that hangs) must not keep the node from serving. */
#define PATIENCE_MS 10000U
#define NETNS_PREFIX "nexus-"
#define NETNS_ID_CHARS 12

/* ---- readiness */

/* Or the deletion of a record that ends one. */
static bool any_plan(const struct node *n)
{
    size_t i;
    struct container *c;
    struct sandbox *s;

    list_foreach (s, &n->order, order)
        if (s->plan || s->op)
            return true;
    hashmap_foreach (c, i, &n->containers) {
        if (c->plan || c->op)
            return true;
    }
    return false;
}

static void become_ready(struct node *n)
{
    n->ready = true;
    n->recovery_timer = sd_event_source_disable_unref(n->recovery_timer);
    image_store_settle(n->images);
    log_info("recovered: %zu sandboxes, %zu containers", hashmap_count(&n->sandboxes),
             hashmap_count(&n->containers));
    n->on_ready(n->on_ready_userdata);
}

void node_check_ready(struct node *n)
{
    void (*on_idle)(void *userdata) = n->on_idle;

    if (any_plan(n))
        return;
    if (n->loaded && !n->ready && n->adopting == 0)
        become_ready(n);
    (void)malloc_trim(0); /* plans and their records leave a heap of holes */
    if (on_idle) {
        n->on_idle = NULL;
        on_idle(n->on_idle_userdata);
    }
}

void node_when_idle(struct node *n, void (*fn)(void *userdata), void *userdata)
{
    n->on_idle = fn;
    n->on_idle_userdata = userdata;
    node_check_ready(n);
}

static int on_patience_over(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct node *n = userdata;

    log_warning("recovery is not over after %u ms, serving all the same", PATIENCE_MS);
    become_ready(n);
    return 0;
}

static int on_loaded(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct node *n = userdata;

    n->recovery_timer = sd_event_source_disable_unref(n->recovery_timer);
    n->loaded = true;
    node_check_ready(n);
    if (!n->ready)
        (void)sd_event_add_time_relative(n->event, &n->recovery_timer, CLOCK_MONOTONIC,
                                         PATIENCE_MS * 1000ULL, 0, on_patience_over, n);
    return 0;
}

/* ---- one sandbox */

static void resume_containers(struct sandbox *s)
{
    struct container *c, *next;

    list_foreach_safe (c, next, &s->containers, node)
        container_resume(c);
    if (s->state == SANDBOX_READY)
        volumes_collect(s);
}

/* Its VM has said all it knows, or is gone. */
static void go_on(struct sandbox *s)
{
    resume_containers(s);
    if (s->state == SANDBOX_STOPPING)
        sandbox_begin_stop(s);
    else if (s->state == SANDBOX_REMOVING)
        sandbox_begin_remove(s);
    else if (s->state == SANDBOX_STOPPED && s->desired == SANDBOX_WANT_REMOVED)
        sandbox_begin_remove(s);
}

void recovery_adopted(struct sandbox *s)
{
    if (!s->adopting)
        return;
    s->adopting = false;
    s->node->adopting--;
    go_on(s);
    node_check_ready(s->node);
}

static void undo_run(struct sandbox *s)
{
    _cleanup_(error_freep) struct error *err = NULL;
    json_t *journal = TAKE(s->journal);
    int r = plan_run_restore(&sandbox_run_plan, &sandbox_plan_ops, s, s->node->event, journal,
                             &s->plan, &err);

    json_decref(journal);
    if (r >= 0) {
        log_info("undoing a start that was cut off");
        plan_run_start(s->plan);
        return;
    }
    log_error("%s; releasing whatever there may be", error_text(err, r));
    s->status.network_owed = true;
    s->desired = SANDBOX_WANT_REMOVED;
    sandbox_begin_stop(s);
}

/* The VM of a READY or STOPPING sandbox, if it lives. */
static void find_vm(struct sandbox *s)
{
    _cleanup_(error_freep) struct error *err = NULL;
    char name[LIMIT_ID_MAX + 8];
    int r;

    sandbox_pid_name(s, name);
    r = vmm_process_load(s->node->vmm_dirfd, name, s->node->boot_id, &s->process, &err);
    if (r >= 0)
        r = sandbox_watch_process(s, &err);
    if (r < 0) {
        log_warning("its VM is gone: %s", error_text(err, r));
        sandbox_vm_gone(s, "VMMCrashed", "nexus-vmm ended while nexusd was not there", false);
        go_on(s);
        return;
    }
    r = sandbox_connect(s, &err);
    if (r < 0) {
        log_error("its nexus-vmm cannot be reached: %s", error_text(err, r));
        sandbox_kill_vm(s, "VMMUnreachable", error_text(err, r));
    }
    s->adopting = true; /* until hello is answered, or the process has ended */
    s->node->adopting++;
}

static void recover_sandbox(struct sandbox *s)
{
    LOG_SCOPE(pod, "pod", s->id);
    bool same_boot = str_equal(s->status.boot_id, s->node->boot_id);

    switch (s->state) {
    case SANDBOX_CREATING:
    case SANDBOX_UNDOING:
        undo_run(s);
        break;
    case SANDBOX_READY:
    case SANDBOX_STOPPING:
        if (same_boot) {
            find_vm(s);
            break;
        }
        if (s->state == SANDBOX_READY)
            log_info("the node was restarted since it ran");
        sandbox_vm_gone(s, "NodeRestarted", "the node was restarted", false);
        go_on(s);
        break;
    case SANDBOX_STOPPED:
    case SANDBOX_REMOVING:
        go_on(s);
        break;
    }
}

/* ---- records */

static void on_sandbox(const char *name, const json_t *doc, void *userdata)
{
    struct node *n = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    struct sandbox *s = NULL;
    int r = sandbox_load(n, name, doc, &s, &err);

    if (r < 0) {
        log_error("%s; its resources are released", error_text(err, r));
        strv_push(&n->strangers, name);
    }
}

static void on_damaged_sandbox(const char *name, const char *reason, void *userdata)
{
    struct node *n = userdata;

    log_error("record of sandbox %s is damaged and was set aside (%s); its resources are released",
              name, reason);
    strv_push(&n->strangers, name);
}

static void on_container(const char *name, const json_t *doc, void *userdata)
{
    struct node *n = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    struct container *c = NULL;
    int r = container_load(n, name, doc, &c, &err);

    if (r >= 0)
        return;
    log_error("dropping a container: %s", error_text(err, r));
    (void)store_delete(n->container_store, name, NULL, NULL, NULL, NULL);
}

static void on_damaged_container(const char *name, const char *reason, void *userdata)
{
    log_error("record of container %s is damaged and was set aside (%s)", name, reason);
}

/* ---- what belongs to no record */

static bool is_sandbox_id(const char *text, size_t len)
{
    return len == LIMIT_ID_MAX && strspn(text, "0123456789abcdef") >= len;
}

/* A sandbox without a readable record: made up to go through the ordinary stop and removal. */
static void add_ghost(struct node *n, const char *id)
{
    struct sandbox *s;

    if (!is_sandbox_id(id, strlen(id)) || hashmap_get(&n->sandboxes, id))
        return;
    s = sandbox_new(n, id);
    s->spec.name = str_dup("unknown");
    s->spec.namespace = str_dup("unknown");
    s->spec.uid = str_dup(id);
    s->state = SANDBOX_STOPPING;
    s->desired = SANDBOX_WANT_REMOVED;
    s->status.ghost = true;
    s->status.created_at_ns = clock_real_ns();
    s->status.boot_id = str_dup(n->boot_id);
    s->status.netns_path =
        str_printf("%s/" NETNS_PREFIX "%.*s", n->config.netns_dir, NETNS_ID_CHARS, id);
    s->status.network_owed = true;
    log_warning("releasing what is left of sandbox %s, which has no record", id);
}

/* Files <id>.<suffix> of a directory. */
static void ghosts_from_files(struct node *n, int dirfd)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d)
        return;
    while ((e = readdir(d))) {
        const char *dot = strchr(e->d_name, '.');
        char id[LIMIT_ID_MAX + 1];

        if (!dot || !is_sandbox_id(e->d_name, (size_t)(dot - e->d_name)))
            continue;
        (void)snprintf(id, sizeof(id), "%.*s", LIMIT_ID_MAX, e->d_name);
        add_ghost(n, id);
    }
    (void)closedir(d);
}

static bool netns_is_known(const struct node *n, const char *file)
{
    const struct sandbox *s;

    list_foreach (s, &n->order, order)
        if (s->status.netns_path && str_ends(s->status.netns_path, file))
            return true;
    return false;
}

static void remove_strange_netns(struct node *n)
{
    DIR *d = opendir(n->config.netns_dir);
    struct dirent *e;

    if (!d)
        return;
    while ((e = readdir(d))) {
        _cleanup_(freep) char *path = NULL;

        if (!str_starts(e->d_name, NETNS_PREFIX) ||
            strlen(e->d_name) != strlen(NETNS_PREFIX) + NETNS_ID_CHARS ||
            netns_is_known(n, e->d_name))
            continue;
        path = str_printf("%s/%s", n->config.netns_dir, e->d_name);
        log_warning("removing network namespace %s, which belongs to no sandbox", path);
        (void)netns_remove(path, NULL);
    }
    (void)closedir(d);
}

/* Leaves that nobody is in and no sandbox knows. One with processes in it is left alone: without a
 * record or pid file of ours it may be somebody else's. */
static int on_cgroup(const char *path, void *userdata)
{
    struct node *n = userdata;
    struct cgroup_usage usage = {0};
    const char *name = strrchr(path, '/');

    if (!name || !str_starts(name, "/vmm-") || hashmap_get(&n->sandboxes, name + 5))
        return 0;
    if (cgroup_read_usage(n->cgroups, path, &usage, NULL) >= 0 && usage.pids_current == 0 &&
        is_sandbox_id(name + 5, strlen(name + 5))) {
        log_warning("removing cgroup %s, which belongs to no sandbox", path);
        (void)cgroup_remove(n->cgroups, path, 0, NULL);
    }
    return 0;
}

/* Plugins of an ADD that was going on when nexusd ended would race with the DEL that undoes it. */
static int end_leftover_plugins(struct node *n, struct error **err)
{
    _cleanup_(strv_freep) char **ids = NULL;
    struct sandbox *s;

    list_foreach (s, &n->order, order)
        if (s->state != SANDBOX_READY && s->state != SANDBOX_STOPPED)
            strv_push(&ids, s->id);
    return ids ? cni_kill_leftovers(ids, err) : 0;
}

/* ---- all */

static int load(struct node *n, struct error **err)
{
    int r = store_scan(n->sandbox_store, on_sandbox, on_damaged_sandbox, n, err);

    if (r < 0)
        return error_prefix(err, r, "sandboxes");
    r = store_scan(n->container_store, on_container, on_damaged_container, n, err);
    return r < 0 ? error_prefix(err, r, "containers") : 0;
}

int node_recover(struct node *n, void (*ready)(void *userdata), void *userdata, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    struct sandbox *s, *next;
    int r;

    n->on_ready = ready;
    n->on_ready_userdata = userdata;
    r = load(n, err);
    if (r < 0)
        return r;
    for (char **id = n->strangers; id && *id; id++)
        add_ghost(n, *id);
    ghosts_from_files(n, n->vmm_dirfd);
    ghosts_from_files(n, n->scratch_dirfd);
    r = FP("pod.recover.loaded");
    if (r < 0)
        return error_set(err, r, "failpoint in recovery");
    r = end_leftover_plugins(n, &why);
    if (r < 0)
        log_warning("%s", error_text(why, r));
    list_foreach_safe (s, next, &n->order, order)
        recover_sandbox(s);
    remove_strange_netns(n);
    (void)cgroup_find(n->cgroups, "/", "vmm-", on_cgroup, n, NULL);
    r = scratch_make_template(n->scratch_dirfd, n->config.mkfs_path, n->config.scratch_bytes, &why);
    if (r < 0)
        log_error("%s", error_text(why, r));
    r = sd_event_add_time_relative(n->event, &n->recovery_timer, CLOCK_MONOTONIC, 0, 0, on_loaded,
                                   n);
    return r < 0 ? error_set(err, r, "cannot set up the event loop: %s", strerror(-r)) : 0;
}
