/* SPDX-License-Identifier: Apache-2.0 */
/* Each function is one arrow of the drawing in pod-volume.h. Whatever ends an update, well or badly, goes
 * through idle(): it lets those go on who waited for it. */
#include "pod/volume-update.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/pod-volume.h"
#include "pod/vmm-client.h"

#define UPDATES_PER_POD 3 /* with a container being created: as many as nexus-vmm takes in pieces */
#define UNSETTLED_FIRST_MS \
    10ULL /* doubled each time: kubelet is between the rename and the links */
#define UNSETTLED_TRIES 6
#define RETRY_FIRST_MS 500ULL
#define RETRY_LAST_MS 60000

static const char *const failpoints[] = {
    "pod.update.before_scan",    "pod.update.after_scan",    "pod.update.before_add",
    "pod.update.after_add",      "pod.update.before_next",   "pod.update.after_next",
    "pod.update.before_switch",  "pod.update.after_switch",  "pod.update.after_commit",
    "pod.update.before_release", "pod.update.after_release",
};

void volume_update_each_failpoint(void (*fn)(const char *name, void *userdata), void *userdata)
{
    for (size_t i = 0; i < ARRAY_SIZE(failpoints); i++)
        fn(failpoints[i], userdata);
}

struct update_job {
    struct worker_job job;
    struct pod_volume *volume; /* valid unless cancelled */
    struct volume_roots roots; /* borrowed: the configuration */
    char *base, *rel, *name;   /* owned */
    enum volume_data data;
    bool find;
    int r;
    struct error *err;            /* owned */
    struct volume_mount mount;    /* find; owned */
    struct volume_layout *layout; /* owned */
    struct volume_identity identity;
    uint64_t links;
    bool is_settled;
};

static void job_free(struct update_job *j)
{
    volume_mount_done(&j->mount);
    volume_layout_free(j->layout);
    error_free(j->err);
    free(j->base);
    free(j->rel);
    free(j->name);
    free(j);
}

static bool may_go_on(const struct sandbox *s)
{
    return s->state == SANDBOX_READY && s->client && !s->hello_pending && !s->vm_ended;
}

static void forget_new(struct pod_volume *v)
{
    char *key = TAKE(v->new_region);

    region_add_cancel(TAKE(v->add));
    vmm_call_cancel(TAKE(v->call));
    store_forget(TAKE(v->op));
    region_named(v->sandbox, key);
    free(key);
    free(TAKE(v->new_identity));
    v->new_links = 0;
    volume_layout_free(TAKE(v->layout));
}

static void idle(struct pod_volume *v)
{
    struct sandbox *s = v->sandbox;

    forget_new(v);
    v->step = VOLUME_IDLE;
    regions_sweep(s);
    container_volumes_poke(s);
    volume_update_kick_all(s);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct pod_volume *v = userdata;
    LOG_SCOPE(pod, "pod", v->sandbox->id);

    v->retry = sd_event_source_disable_unref(v->retry);
    volume_update_kick(v);
    return 0;
}

static void try_later(struct pod_volume *v, uint64_t ms)
{
    v->retry = sd_event_source_disable_unref(v->retry);
    (void)sd_event_add_time_relative(v->sandbox->node->event, &v->retry, CLOCK_MONOTONIC, ms * 1000,
                                     0, on_retry, v);
}

static void fail(struct pod_volume *v, int r, const struct error *err)
{
    uint64_t ms = RETRY_FIRST_MS << (v->retries < 8 ? v->retries : 8);

    ms = ms > RETRY_LAST_MS ? RETRY_LAST_MS : ms;
    v->retries++;
    v->changed = v->step != VOLUME_FINDING || v->changed;
    log_warning("volume %s (%s) stays at generation %llu, the next try is in %llu ms: %s",
                v->rec.name, v->rec.title, (unsigned long long)v->rec.generation,
                (unsigned long long)ms, error_text(err, r));
    try_later(v, ms);
    idle(v);
}

static bool hit(struct pod_volume *v, int r)
{
    if (r < 0)
        fail(v, r, NULL);
    return r < 0;
}

/* ---- the last arrows: next → UpdateVolume → record */

static void on_committed(void *userdata, int r, const struct error *err)
{
    struct pod_volume *v = userdata;
    LOG_SCOPE(pod, "pod", v->sandbox->id);

    v->op = NULL;
    if (r < 0) /* the older record leads to the same end */
        log_error("%s", error_text(err, r));
    log_info("volume %s (%s) is at generation %llu, region %s", v->rec.name, v->rec.title,
             (unsigned long long)v->rec.generation, v->rec.region);
    (void)FP("pod.update.after_commit");
    volume_follow(v);
    idle(v);
}

static void commit(struct pod_volume *v)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct sandbox *s = v->sandbox;
    int r;

    free(v->rec.region);
    free(v->rec.identity);
    v->rec.region = TAKE(v->rec.next_region);
    v->rec.identity = TAKE(v->rec.next_identity);
    v->rec.generation++;
    v->links = v->new_links;
    v->retries = 0;
    r = sandbox_save(s, s->state, true, on_committed, v, &v->op, &err);
    if (r < 0)
        on_committed(v, r, err);
}

static void forget_next(struct pod_volume *v)
{
    free(TAKE(v->rec.next_region));
    free(TAKE(v->rec.next_identity));
    sandbox_save_soon(v->sandbox);
}

/* Whether the guest may have done it all the same. */
static bool is_uncertain(int r, const struct error *err)
{
    enum error_class class = error_class_of(err, r);

    return class == ERROR_UNAVAILABLE || class == ERROR_DEADLINE;
}

static void on_switched(void *userdata, int r, const Nexus__VmmState *state,
                        const struct error *err)
{
    struct pod_volume *v = userdata;
    LOG_SCOPE(pod, "pod", v->sandbox->id);
    int k = FP("pod.update.after_switch");

    v->call = NULL;
    if (k < 0) {
        fail(v, k, NULL);
        return;
    }
    /* no container of the guest has it any more: the next one gets the newest */
    if (r >= 0 || error_class_of(err, r) == ERROR_NOT_FOUND) {
        commit(v);
        return;
    }
    if (!is_uncertain(r, err))
        forget_next(v);
    fail(v, r, err);
}

static int send_switch(struct pod_volume *v, struct error **err)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__UpdateVolume body = NEXUS__UPDATE_VOLUME__INIT;

    body.volume = v->rec.name;
    body.region = v->rec.next_region;
    body.part = v->rec.name;
    body.same_links = v->links && v->links == v->new_links;
    v->links = 0; /* until it is known which it has */
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_UPDATE_VOLUME;
    m.update_volume = &body;
    return vmm_client_call(v->sandbox->client, &m, NULL, 0, CREATE_TIMEOUT_MS, on_switched, v,
                           &v->call, err);
}

static void switch_now(struct pod_volume *v)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = FP("pod.update.before_switch");

    if (r >= 0)
        r = send_switch(v, &err);
    if (r < 0)
        fail(v, r, err);
}

static void on_next_recorded(void *userdata, int r, const struct error *err)
{
    struct pod_volume *v = userdata;
    LOG_SCOPE(pod, "pod", v->sandbox->id);

    v->op = NULL;
    if (r < 0) {
        free(TAKE(v->rec.next_region));
        free(TAKE(v->rec.next_identity));
        fail(v, r, err);
        return;
    }
    if (!hit(v, FP("pod.update.after_next")))
        switch_now(v);
}

static void record_next(struct pod_volume *v)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct sandbox *s = v->sandbox;
    int r;

    if (hit(v, FP("pod.update.before_next")))
        return;
    v->rec.next_region = str_dup(v->new_region);
    v->rec.next_identity = TAKE(v->new_identity);
    r = sandbox_save(s, s->state, false, on_next_recorded, v, &v->op, &err);
    if (r < 0)
        on_next_recorded(v, r, err);
}

/* The region is in the VM, or was before a crash: hand it over. */
static void switch_over(struct pod_volume *v)
{
    v->step = VOLUME_HOLDING;
    if (v->pins)
        return; /* volume_unpin goes on */
    v->step = VOLUME_SWITCHING;
    if (v->rec.next_region)
        switch_now(v);
    else
        record_next(v);
}

/* ---- the first ones: scan → layout → AddRegion */

static void on_added(void *userdata, int r, const struct error *err)
{
    struct pod_volume *v = userdata;
    LOG_SCOPE(pod, "pod", v->sandbox->id);

    v->add = NULL;
    if (r < 0) {
        fail(v, r, err);
        return;
    }
    if (!hit(v, FP("pod.update.after_add")))
        switch_over(v);
}

static void add(struct pod_volume *v)
{
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(freep) char *what = NULL;
    int r;

    pace_take(&v->pace, &v->sandbox->node->config.volume_pace, clock_mono_ns());
    if (hit(v, FP("pod.update.before_add")))
        return;
    v->step = VOLUME_ADDING;
    v->new_region = region_new_key(v->sandbox);
    what = volume_what(v);
    r = region_add(v->sandbox, v->new_region, what, v->layout, on_added, v, &v->add, &err);
    if (r < 0)
        fail(v, r, err);
}

static void take_scan(struct pod_volume *v, struct update_job *j)
{
    if (j->r < 0) {
        fail(v, j->r, j->err);
        return;
    }
    if (hit(v, FP("pod.update.after_scan")))
        return;
    if (str_equal(j->identity.text, v->rec.identity)) {
        v->retries = 0;
        volume_follow(v);
        idle(v);
        return;
    }
    if (!j->is_settled && v->unsettled < UNSETTLED_TRIES) { /* one swap is to be one generation */
        v->changed = true;
        try_later(v, UNSETTLED_FIRST_MS << v->unsettled++);
        idle(v);
        return;
    }
    v->unsettled = 0;
    v->layout = TAKE(j->layout);
    v->new_identity = str_dup(j->identity.text);
    v->new_links = j->links;
    add(v);
}

/* After a restart: only what is as it was can be watched; the generation on record is compared then. */
static void take_find(struct pod_volume *v, struct update_job *j)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = j->r;

    if (r == -ENOENT ||
        (r >= 0 && (j->mount.kind != VOLUME_MAPPED || j->mount.live != v->rec.live))) {
        log_warning("volume %s (%s): it is gone from the host; its last generation stays",
                    v->rec.name, v->rec.title);
        v->gone = true;
        idle(v);
        return;
    }
    if (r >= 0)
        r = volume_watch(v, &j->mount, &err);
    if (r < 0) {
        fail(v, r, j->err ? j->err : err);
        return;
    }
    volume_follow(v);
    idle(v);
}

static void job_done(struct worker_job *job, bool cancelled)
{
    struct update_job *j = container_of(job, struct update_job, job);

    if (!cancelled) {
        struct pod_volume *v = j->volume;
        LOG_SCOPE(pod, "pod", v->sandbox->id);

        v->job = NULL;
        if (j->find)
            take_find(v, j);
        else
            take_scan(v, j);
    }
    job_free(j);
}

/* In the worker's thread. */
static void job_work(struct worker_job *job)
{
    struct update_job *j = container_of(job, struct update_job, job);
    _cleanup_(volume_scan_freep) struct volume_scan *scan = NULL;
    _cleanup_(closep) int fd = -EBADF;
    struct volume_part part = {.name = j->name};

    if (j->find) {
        _cleanup_(freep) char *path = str_printf("%s%s%s", j->base, j->rel[0] ? "/" : "", j->rel);

        j->r = volume_find(&j->roots, path, &j->mount, &j->err);
        return;
    }
    j->r = fd = volume_reopen(j->base, j->rel);
    if (fd < 0) {
        (void)error_set(&j->err, fd, "cannot open it again: %s", strerror(-fd));
        return;
    }
    j->r = volume_scan(fd, true, &volume_limits_default, &scan, &j->err);
    if (j->r < 0)
        return;
    j->identity = scan->identity;
    j->is_settled = scan->is_settled;
    j->links = scan->links;
    part.scan = scan;
    j->r = volume_layout_new(&part, 1, j->data, &j->layout, &j->err);
}

static void submit(struct pod_volume *v, bool find)
{
    struct node *n = v->sandbox->node;
    _cleanup_(error_freep) struct error *err = NULL;
    struct update_job *j = xcalloc(1, sizeof(*j));
    int r;

    j->job.work = job_work;
    j->job.done = job_done;
    j->mount.fd = -EBADF;
    j->volume = v;
    j->roots = n->config.volume_roots;
    j->data = n->config.volume_data;
    j->base = str_dup(v->rec.base);
    j->rel = str_dup(v->rec.rel);
    j->name = str_dup(v->rec.name);
    j->find = find;
    v->step = find ? VOLUME_FINDING : VOLUME_SCANNING;
    r = worker_submit(n->worker, &j->job, &err);
    if (r < 0) {
        job_free(j);
        fail(v, r, err);
        return;
    }
    v->job = j;
}

/* ---- what is next */

static unsigned count_busy(const struct sandbox *s)
{
    const struct pod_volume *v;
    unsigned n = 0;

    list_foreach (v, &s->volumes, node)
        n += v->step != VOLUME_IDLE;
    return n;
}

static int on_wait_over(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct pod_volume *v = userdata;
    LOG_SCOPE(pod, "pod", v->sandbox->id);

    v->wait = sd_event_source_disable_unref(v->wait);
    volume_update_kick(v);
    return 0;
}

static void tell_paced(struct pod_volume *v, const struct pace_rule *rule)
{
    if (v->paced)
        return;
    v->paced = true;
    log_limited(LOG_NOTICE,
                "volume %s (%s) changes all the time: it is updated once in %llu ms for now, "
                "always to what it is then",
                v->rec.name, v->rec.title, (unsigned long long)(rule->interval_ns / 1000000));
}

/* True: not yet, on_wait_over goes on. */
static bool has_to_wait(struct pod_volume *v)
{
    struct node *n = v->sandbox->node;
    const struct pace_rule *rule = &n->config.volume_pace;
    uint64_t now_ns = clock_mono_ns(), wait_ns = pace_wait_ns(&v->pace, rule, now_ns);

    if (pace_is_rested(&v->pace, now_ns))
        v->paced = false;
    if (wait_ns == 0 || v->hurry)
        return false;
    if (sd_event_add_time_relative(n->event, &v->wait, CLOCK_MONOTONIC, wait_ns / 1000 + 1, 1000,
                                   on_wait_over, v) < 0)
        return false;
    v->waits++;
    tell_paced(v, rule);
    return true;
}

void volume_hurry(struct pod_volume *v)
{
    if (v->step != VOLUME_IDLE) /* it is asked again when that is over */
        return;
    v->hurry = true;
    if (v->wait)
        (void)sd_event_source_set_time_relative(v->wait, 0);
}

static bool has_work(const struct pod_volume *v)
{
    return v->rec.region && v->step == VOLUME_IDLE && !v->retry && !v->wait &&
           (v->rec.next_region || (!v->gone && (v->changed || (!v->watched && !v->fresh))));
}

void volume_update_kick(struct pod_volume *v)
{
    struct sandbox *s = v->sandbox;

    if (!may_go_on(s) || !has_work(v) || count_busy(s) >= UPDATES_PER_POD)
        return;
    if (v->rec.next_region) {
        switch_over(v);
    } else if (!v->watched) {
        submit(v, true);
    } else if (!has_to_wait(v) && !hit(v, FP("pod.update.before_scan"))) {
        v->changed = v->hurry = false;
        submit(v, false);
    }
}

void volume_update_kick_all(struct sandbox *s)
{
    struct pod_volume *v;

    s->kick_again = true;
    if (s->kicking) /* idle() of one that is kicked; what fails has its timer, so this ends */
        return;
    s->kicking = true;
    while (s->kick_again) {
        s->kick_again = false;
        list_foreach (v, &s->volumes, node)
            volume_update_kick(v);
    }
    s->kicking = false;
}

void volume_update_cancel(struct pod_volume *v)
{
    if (v->job)
        worker_cancel(&v->job->job);
    v->job = NULL;
    v->retry = sd_event_source_disable_unref(v->retry);
    v->wait = sd_event_source_disable_unref(v->wait);
    forget_new(v);
    v->step = VOLUME_IDLE;
}

bool volume_is_moving(const struct pod_volume *v)
{
    switch (v->step) {
    case VOLUME_IDLE:
        return v->changed && v->watched && (!v->retry || v->unsettled);
    case VOLUME_FINDING:
    case VOLUME_HOLDING: /* for another container: one more does not matter */
        return false;
    case VOLUME_SCANNING:
    case VOLUME_ADDING:
    case VOLUME_SWITCHING:
        break;
    }
    return true;
}

void volume_pin(struct pod_volume *v)
{
    v->pins++;
}

void volume_unpin(struct pod_volume *v)
{
    if (v->pins && --v->pins == 0 && v->step == VOLUME_HOLDING)
        switch_over(v);
}

void volumes_resume(struct sandbox *s)
{
    struct pod_volume *v;

    list_foreach (v, &s->volumes, node)
        if (v->rec.next_region && !region_find(s, v->rec.next_region))
            forget_next(v);
    volumes_collect(s);
    volume_update_kick_all(s);
}
