/* SPDX-License-Identifier: Apache-2.0 */
/* The volumes of a container that is being created: its mounts are told apart, what the pod has is
 * shared, the rest is read and goes into one region. One container of a pod at a time does that, so that
 * two that are created together share, too. */
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/pod-volume.h"
#include "pod/volume-update.h"

/* What the worker does for it, in two turns with the watching between them: find, then read. */
struct volumes_job {
    struct worker_job job;
    struct container *container;    /* valid unless cancelled */
    struct volume_roots roots;      /* borrowed: the configuration */
    bool has_shares;                /* host directories can be served */
    size_t termination;             /* the mount that is its termination log; SIZE_MAX: none */
    struct container_share *shares; /* owned; for each mount */
    enum volume_data data;
    size_t n;
    struct mount_spec *mounts;          /* owned copies */
    struct volume_mount *found;         /* owned */
    char **names;                       /* owned; of the volumes that are read; else NULL */
    struct volume_identity *identities; /* owned */
    uint64_t *links;                    /* owned */
    bool read;
    int r;
    struct error *err;            /* owned */
    struct volume_layout *layout; /* owned */
};

struct container_volumes {
    unsigned step; /* of the plan, which waits */
    struct volumes_job *job;
    struct volume_layout *layout;
    struct region_add *add;
    char *key; /* of the region being added */
    bool waits_turn, waits_still, pinned;
};

static void job_free(struct volumes_job *j)
{
    for (size_t i = 0; i < j->n; i++) {
        volume_mount_done(&j->found[i]);
        free(j->mounts[i].host_path);
        free(j->mounts[i].container_path);
        free(j->names[i]);
        if (j->shares)
            free(j->shares[i].name);
    }
    free(j->shares);
    free(j->mounts);
    free(j->found);
    free(j->names);
    free(j->identities);
    free(j->links);
    volume_layout_free(j->layout);
    error_free(j->err);
    free(j);
}

static void close_work(struct worker_job *job)
{
    struct volumes_job *j = container_of(job, struct volumes_job, job);

    for (size_t i = 0; i < j->n; i++)
        volume_mount_done(&j->found[i]);
}

static void close_done(struct worker_job *job, bool cancelled)
{
    job_free(container_of(job, struct volumes_job, job));
}

/* Each volume was opened in a mount of its own, and with the last descriptor of a mount the kernel waits for
 * an RCU grace period: in the worker's thread, not here. */
static void job_end(struct container *c, struct volumes_job *j)
{
    j->job.work = close_work;
    j->job.done = close_done;
    if (worker_submit(c->sandbox->node->worker, &j->job, NULL) < 0)
        job_free(j);
}

static void job_done(struct worker_job *job, bool cancelled);
static void job_work(struct worker_job *job);

static size_t termination_index(const struct container *c)
{
    const struct mount_spec *m = guest_termination_mount(c);

    return m ? (size_t)(m - c->spec.mounts.items) : SIZE_MAX;
}

static struct volumes_job *job_new(struct container *c)
{
    const struct node_config *config = &c->sandbox->node->config;
    struct volumes_job *j = xcalloc(1, sizeof(*j));
    size_t n = c->spec.mounts.count;

    j->job.work = job_work;
    j->job.done = job_done;
    j->container = c;
    j->roots = config->volume_roots;
    j->data = config->volume_data;
    j->has_shares = share_program(config) != NULL;
    j->termination = termination_index(c);
    j->shares = xcalloc(n, sizeof(*j->shares));
    j->n = n;
    j->mounts = xcalloc(n, sizeof(*j->mounts));
    j->found = xcalloc(n, sizeof(*j->found));
    j->names = xcalloc(n, sizeof(*j->names));
    j->identities = xcalloc(n, sizeof(*j->identities));
    j->links = xcalloc(n, sizeof(*j->links));
    for (size_t i = 0; i < n; i++) {
        j->mounts[i].host_path = str_dup_or_null(c->spec.mounts.items[i].host_path);
        j->mounts[i].container_path = str_dup(c->spec.mounts.items[i].container_path);
        j->mounts[i].readonly = c->spec.mounts.items[i].readonly;
        j->shares[i].name = str_printf("c%.12s-%zu", c->id, i);
        j->found[i].fd = -EBADF;
    }
    return j;
}

/* ---- in the worker's thread */

static int mount_error(struct error **err, const struct mount_spec *m, int r, struct error *why)
{
    /* "no such object" would be the container's */
    int class = r == -ENOENT ? (int)ERROR_INVALID : (int)error_class_of(why, r);

    (void)error_set_class(err, class, r, "mount of %s at %s: %s", m->host_path, m->container_path,
                          error_text(why, r));
    error_free(why);
    return r;
}

/* A small file that cannot be written to is copied in, which costs no virtiofsd. */
static bool is_copied(const struct volumes_job *j, size_t i)
{
    const struct mount_spec *m = &j->mounts[i];
    struct stat st;

    if (j->found[i].kind == VOLUME_SMALL_FILE || i == j->termination)
        return true;
    return m->readonly && stat(m->host_path, &st) == 0 && S_ISREG(st.st_mode) &&
           st.st_size <= (off_t)GUEST_FILE_BYTES;
}

/* A mount that is no mapped volume. */
static int find_share(struct volumes_job *j, size_t i)
{
    struct container_share memory = {0};

    if (share_is_memory(&j->roots, j->mounts[i].host_path, &memory)) {
        free(j->shares[i].name);
        j->shares[i] = memory;
        return 0;
    }
    if (share_is_part_of_memory(&j->roots, j->mounts[i].host_path))
        return error_set(
            &j->err, -EOPNOTSUPP,
            "mount of %s at %s: a part of an emptyDir in memory, which is the guest's own; "
            "mount all of it",
            j->mounts[i].host_path, j->mounts[i].container_path);
    if (!j->has_shares || is_copied(j, i))
        return guest_check_mount(&j->mounts[i], &j->err);
    j->shares[i].kind = SHARE_HOST;
    return 0;
}

static int find_all(struct volumes_job *j)
{
    for (size_t i = 0; i < j->n; i++) {
        struct error *why = NULL;
        int r;

        if (!j->mounts[i].host_path) /* an image */
            continue;
        r = volume_find(&j->roots, j->mounts[i].host_path, &j->found[i], &why);

        if (r < 0)
            return mount_error(&j->err, &j->mounts[i], r, why);
        if (j->found[i].kind != VOLUME_MAPPED)
            r = find_share(j, i);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_all(struct volumes_job *j)
{
    struct volume_part *parts = xcalloc(j->n, sizeof(*parts));
    size_t n = 0;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < j->n; i++) {
        struct error *why = NULL;

        if (!j->names[i])
            continue;
        r = volume_scan(j->found[i].fd, j->found[i].live, &volume_limits_default, &parts[n].scan,
                        &why);
        if (r < 0) {
            (void)mount_error(&j->err, &j->mounts[i], r, why);
            break;
        }
        j->identities[i] = parts[n].scan->identity;
        j->links[i] = parts[n].scan->links;
        parts[n++].name = j->names[i];
    }
    if (r >= 0)
        r = volume_layout_new(parts, n, j->data, &j->layout, &j->err);
    for (size_t i = 0; i < n; i++)
        volume_scan_free(parts[i].scan);
    free(parts);
    return r;
}

static void job_work(struct worker_job *job)
{
    struct volumes_job *j = container_of(job, struct volumes_job, job);

    j->r = j->read ? read_all(j) : find_all(j);
}

/* ---- the step "volumes" */

static void step_over(struct container *c, int r, struct error *err)
{
    plan_step_done(c->plan, c->volumes->step, r < 0 ? r : 0, err);
}

static int share_or_make(struct container *c, struct volumes_job *j, size_t i, struct error **err)
{
    struct sandbox *s = c->sandbox;
    const struct volume_mount *m = &j->found[i];
    struct pod_volume *v = m->live ? volume_by_place(s, m->base, m->rel) : NULL;
    struct container_volume *ref;
    int r = 0;

    if (!v) {
        v = volume_new(s);
        v->fresh = true;
        v->rec.title = str_dup(m->name);
        v->rec.plugin = str_dup(volume_plugin_name(m->plugin));
        v->rec.base = str_dup(m->base);
        v->rec.rel = str_dup(m->rel);
        v->rec.live = m->live;
        j->names[i] = str_dup(v->rec.name);
        r = volume_watch(v, m, err);
        if (r < 0)
            (void)error_prefix(err, r, "mount of %s at %s", j->mounts[i].host_path,
                               j->mounts[i].container_path);
    }
    ref = record_list_add(&c->status.volumes, sizeof(*ref));
    ref->volume = str_dup(v->rec.name);
    ref->destination = str_dup(j->mounts[i].container_path);
    return r;
}

static void submit(struct container *c, struct volumes_job *j)
{
    struct error *err = NULL;
    int r = worker_submit(c->sandbox->node->worker, &j->job, &err);

    if (r < 0) {
        job_free(j);
        step_over(c, r, err);
        return;
    }
    c->volumes->job = j;
}

static void take_found(struct container *c, struct volumes_job *j)
{
    struct error *err = NULL;
    bool any = false;
    int r = j->r;

    if (r < 0) {
        err = TAKE(j->err);
    } else {
        volumes_catch_up(c->sandbox->node);
        container_shares_free(c);
        c->shares = TAKE(j->shares);
        for (size_t i = 0; r >= 0 && i < j->n; i++) {
            if (j->found[i].kind != VOLUME_MAPPED)
                continue;
            r = share_or_make(c, j, i, &err);
            any |= j->names[i] != NULL;
        }
    }
    if (r >= 0 && any) {
        j->read = true;
        submit(c, j);
        return;
    }
    job_end(c, j);
    step_over(c, r, err);
}

static void take_read(struct container *c, struct volumes_job *j)
{
    struct error *err = TAKE(j->err);
    int r = j->r;

    for (size_t i = 0; r >= 0 && i < j->n; i++) {
        struct pod_volume *v = j->names[i] ? volume_by_name(c->sandbox, j->names[i]) : NULL;

        if (!v)
            continue;
        v->rec.identity = str_dup(j->identities[i].text);
        v->links = j->links[i];
    }
    c->volumes->layout = TAKE(j->layout);
    job_end(c, j);
    step_over(c, r, err);
}

static void job_done(struct worker_job *job, bool cancelled)
{
    struct volumes_job *j = container_of(job, struct volumes_job, job);
    struct container *c = j->container;

    if (cancelled) {
        job_free(j);
        return;
    }
    LOG_SCOPE(pod, "pod", c->sandbox->id);
    c->volumes->job = NULL;
    if (j->read)
        take_read(c, j);
    else
        take_found(c, j);
}

static void begin(struct container *c)
{
    c->volumes->waits_turn = false;
    c->sandbox->volumes_creator = c;
    submit(c, job_new(c));
}

int create_volumes(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;

    if (c->spec.mounts.count == 0)
        return 0;
    c->volumes = xcalloc(1, sizeof(*c->volumes));
    c->volumes->step = plan_current_step(run);
    if (c->sandbox->volumes_creator)
        c->volumes->waits_turn = true;
    else
        begin(c);
    return 1;
}

void cancel_volumes(struct plan_run *run, void *object)
{
    struct container *c = object;
    struct container_volumes *cv = c->volumes;

    if (!cv)
        return;
    cv->waits_turn = cv->waits_still = false;
    if (cv->job)
        worker_cancel(&cv->job->job);
    cv->job = NULL;
    region_add_cancel(TAKE(cv->add));
}

static void forget_mounts(struct container *c)
{
    for (size_t i = 0; i < c->status.volumes.count; i++)
        record_clear(&container_volume_desc, &c->status.volumes.items[i]);
    free(c->status.volumes.items);
    c->status.volumes.items = NULL;
    c->status.volumes.count = 0;
}

int undo_volumes(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;

    container_volumes_release(c);
    forget_mounts(c);
    volumes_collect(c->sandbox);
    return 0;
}

/* ---- the step "bundle": what is new in the pod, in one region */

static void each_fresh(struct container *c, void (*fn)(struct pod_volume *v, const char *key))
{
    for (size_t i = 0; i < c->status.volumes.count; i++) {
        struct pod_volume *v = volume_by_name(c->sandbox, c->status.volumes.items[i].volume);

        if (v && v->fresh)
            fn(v, c->volumes ? c->volumes->key : NULL);
    }
}

static void set_region(struct pod_volume *v, const char *key)
{
    free(v->rec.region);
    v->rec.region = str_dup_or_null(key);
    v->rec.generation = 1;
}

static void unset_region(struct pod_volume *v, const char *key)
{
    free(TAKE(v->rec.region));
}

static void on_added(void *userdata, int r, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(pod, "pod", c->sandbox->id);
    struct error *copy = NULL;

    c->volumes->add = NULL;
    if (r < 0) {
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "volumes: %s",
                              error_text(err, r));
    } else {
        each_fresh(c, set_region);
        region_named(c->sandbox, c->volumes->key);
    }
    step_over(c, r, copy);
}

/* "secret db, configmap app": all that go into the region. */
static char *bundle_what(struct container *c)
{
    char *what = str_dup("");

    for (size_t i = 0; i < c->status.volumes.count; i++) {
        struct pod_volume *v = volume_by_name(c->sandbox, c->status.volumes.items[i].volume);
        char *one, *more;

        if (!v || !v->fresh)
            continue;
        one = volume_what(v);
        more = str_printf("%s%s%s", what, what[0] ? ", " : "", one);
        free(one);
        free(what);
        what = more;
    }
    return what;
}

int create_bundle(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    struct container_volumes *cv = c->volumes;
    _cleanup_(freep) char *what = NULL;
    int r;

    if (!cv || !cv->layout)
        return 0;
    what = bundle_what(c);
    cv->step = plan_current_step(run);
    cv->key = region_new_key(c->sandbox);
    r = region_add(c->sandbox, cv->key, what, cv->layout, on_added, c, &cv->add, err);
    return r < 0 ? error_prefix(err, r, "volumes") : 1;
}

int undo_bundle(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;

    each_fresh(c, unset_region);
    if (c->volumes)
        region_named(c->sandbox, c->volumes->key); /* the sweep of undo_volumes removes it */
    return 0;
}

/* ---- while the guest makes the container its volumes stay as they are */

static int look(struct container *c, struct error **err)
{
    for (size_t i = 0; i < c->status.volumes.count; i++) {
        const struct container_volume *ref = &c->status.volumes.items[i];
        const struct pod_volume *v = volume_by_name(c->sandbox, ref->volume);

        if (!v || !v->rec.region)
            return error_set_class(err, ERROR_PRECONDITION, -ESTALE,
                                   "mount at %s: its volume is gone", ref->destination);
        if (v->fresh)
            continue;
        if (volume_is_moving(v))
            return 1;
        if (v->rec.next_region)
            return error_set_class(err, ERROR_UNAVAILABLE, -EAGAIN,
                                   "mount at %s: the guest has not answered yet to an update of it",
                                   ref->destination);
    }
    return 0;
}

static void hurry_all(struct container *c)
{
    for (size_t i = 0; i < c->status.volumes.count; i++) {
        struct pod_volume *v = volume_by_name(c->sandbox, c->status.volumes.items[i].volume);

        if (v && volume_is_moving(v))
            volume_hurry(v);
    }
}

int container_volumes_hold(struct container *c, struct error **err)
{
    int r;

    if (!c->volumes || c->volumes->pinned)
        return 0;
    r = look(c, err);
    c->volumes->waits_still = r > 0;
    if (r > 0)
        hurry_all(c);
    if (r != 0)
        return r;
    c->volumes->pinned = true;
    for (size_t i = 0; i < c->status.volumes.count; i++)
        volume_pin(volume_by_name(c->sandbox, c->status.volumes.items[i].volume));
    return 0;
}

void container_volumes_release(struct container *c)
{
    if (!c->volumes || !c->volumes->pinned)
        return;
    c->volumes->pinned = false;
    for (size_t i = 0; i < c->status.volumes.count; i++) {
        struct pod_volume *v = volume_by_name(c->sandbox, c->status.volumes.items[i].volume);
        if (v)
            volume_unpin(v);
    }
}

void container_volumes_poke(struct sandbox *s)
{
    struct container *c;

    list_foreach (c, &s->containers, node) {
        struct container_volumes *cv = c->volumes;

        if (cv && cv->waits_turn && !s->volumes_creator)
            begin(c);
        else if (cv && cv->waits_still)
            container_create_go_on(c);
    }
}

/* ---- the end */

void container_volumes_free(struct container *c)
{
    struct sandbox *s = c->sandbox;

    cancel_volumes(NULL, c);
    if (s->volumes_creator == c)
        s->volumes_creator = NULL;
    if (!c->volumes)
        return;
    container_volumes_release(c);
    region_named(s, c->volumes->key);
    volume_layout_free(c->volumes->layout);
    free(c->volumes->key);
    free(TAKE(c->volumes));
}

static void settle(struct pod_volume *v, const char *key)
{
    v->fresh = false;
    volume_settled(v);
}

void container_volumes_finish(struct container *c, bool created)
{
    if (created)
        each_fresh(c, settle);
    container_volumes_free(c);
    container_volumes_poke(c->sandbox);
}
