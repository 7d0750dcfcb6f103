/* SPDX-License-Identifier: Apache-2.0 */
/* The images a container is made of, as read-only regions of its VM: the one it runs, and those it
 * mounts. A region's key is the image's id, so all containers of a pod share it. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"

#define RETRY_MS 100U
#define RETRIES_NS \
    30000000000ULL /* the image's last container of before has gone by then, or does not go */

static const struct record_field image_mount_fields[] = {
    RECORD_FIELD(STR, image_mount, destination),
    RECORD_FIELD(STR, image_mount, image_id),
};
const struct record_desc image_mount_desc = RECORD_DESC(image_mount, image_mount_fields);

/* ---- which */

static size_t image_count(const struct container *c)
{
    return 1 + c->status.image_mounts.count;
}

static const char *image_id(const struct container *c, size_t i)
{
    return i == 0 ? c->status.image_id : c->status.image_mounts.items[i - 1].image_id;
}

static const struct image *image_at(const struct container *c, size_t i)
{
    return i == 0 ? c->image : c->mounted_images[i - 1];
}

static bool came_before(const struct container *c, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (str_equal(image_id(c, k), image_id(c, i)))
            return true;
    return false;
}

static bool others_use(const struct container *c, const char *id)
{
    const struct container *other;

    list_foreach (other, &c->sandbox->containers, node)
        for (size_t i = 0; other != c && i < image_count(other); i++)
            if (str_equal(image_id(other, i), id))
                return true;
    return false;
}

static int no_image(const struct mount_spec *m, const char *why, struct error **err)
{
    return error_set(err, -ENOENT, "ImageVolumeMountFailed: image %s for %s %s", m->image,
                     m->container_path, why);
}

int container_find_images(struct container *c, struct error **err)
{
    struct image_store *images = c->sandbox->node->images;

    for (size_t i = 0; i < c->spec.mounts.count; i++) {
        const struct mount_spec *m = &c->spec.mounts.items[i];
        const struct image *image;
        struct image_mount *im;

        if (!m->image)
            continue;
        image = image_lookup(images, m->image);
        if (!image)
            return no_image(m, "is not there: pull it first", err);
        im = record_list_add(&c->status.image_mounts, sizeof(*im));
        im->destination = str_dup(m->container_path);
        im->image_id = str_dup(image->id);
    }
    return container_hold_images(c) ? 0
                                    : error_set(err, -ENOENT,
                                                "ImageVolumeMountFailed: an image is going "
                                                "away: pull it again");
}

bool container_hold_images(struct container *c)
{
    bool all = true;

    c->mounted_images = xcalloc(c->status.image_mounts.count, sizeof(*c->mounted_images));
    for (size_t i = 0; i < c->status.image_mounts.count; i++) {
        const char *id = c->status.image_mounts.items[i].image_id;

        c->mounted_images[i] = id ? image_ref(c->sandbox->node->images, id) : NULL;
        all &= c->mounted_images[i] != NULL;
    }
    return all;
}

void container_release_images(struct container *c)
{
    struct image_store *images = c->sandbox->node->images;

    for (size_t i = 0; c->mounted_images && i < c->status.image_mounts.count; i++)
        if (c->mounted_images[i])
            image_unref(images, c->mounted_images[i]);
    free(TAKE(c->mounted_images));
    if (c->image)
        image_unref(images, TAKE(c->image));
}

const struct image_mount *container_image_mount(const struct container *c, const char *destination)
{
    for (size_t i = 0; i < c->status.image_mounts.count; i++)
        if (str_equal(c->status.image_mounts.items[i].destination, destination))
            return &c->status.image_mounts.items[i];
    return NULL;
}

/* ---- the step "region" of the plan of CreateContainer: one after the other */

int container_connected(const struct container *c, struct error **err)
{
    const struct sandbox *s = c->sandbox;

    if (!s->client || s->hello_pending)
        return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN,
                               "nexus-vmm of sandbox %s is not connected at the moment", s->id);
    return 0;
}

int container_add_region(struct container *c, const struct region_files *f, vmm_reply_fn fn,
                         struct vmm_call **ret, struct error **err)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__AddRegion body = NEXUS__ADD_REGION__INIT;
    int r = container_connected(c, err);

    if (r < 0)
        return r;
    body.key = (char *)(uintptr_t)f->key; /* only read, as what is */
    body.what = (char *)(uintptr_t)f->what;
    body.segment_bytes = f->bytes;
    body.n_segment_bytes = f->n;
    body.segment_names = f->names;
    body.n_segment_names = f->n;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_ADD_REGION;
    m.add_region = &body;
    r = vmm_client_call(c->sandbox->client, &m, f->fds, f->n, REQUEST_TIMEOUT_MS, fn, c, ret, err);
    return r < 0 ? r : 1;
}

static int add_next(struct container *c, struct error **err);

/* One image of many is done with r; err: borrowed. */
static void added(struct container *c, int r, const struct error *err)
{
    struct error *why = NULL;

    if (r < 0) {
        (void)error_set_class(&why, (int)error_class_of(err, r), r, "image %s: %s",
                              image_id(c, c->region_at), error_text(err, r));
    } else {
        c->region_at++;
        r = add_next(c, &why);
        if (r > 0)
            return;
    }
    plan_step_done(c->plan, c->region_job.step, r, why);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct container *c = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    int r;
    LOG_SCOPE(pod, "pod", c->sandbox->id);

    c->region_retry = sd_event_source_disable_unref(c->region_retry);
    r = add_next(c, &err);
    if (r < 0)
        added(c, r, err);
    return 0;
}

static bool ask_again(struct container *c)
{
    return clock_mono_ns() < c->region_until_ns &&
           sd_event_add_time_relative(c->sandbox->node->event, &c->region_retry, CLOCK_MONOTONIC,
                                      RETRY_MS * 1000, 0, on_retry, c) >= 0;
}

static void on_added(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(pod, "pod", c->sandbox->id);

    c->call = NULL;
    /* the region of another container's that is just being removed: a guest takes its time for that */
    if (r == -EAGAIN && ask_again(c))
        return;
    added(c, r, err);
}

static int add_region(struct container *c, const struct image_region *region, struct error **err)
{
    const char *name = c->region_at > 0               ? image_id(c, c->region_at)
                       : c->spec.user_specified_image ? c->spec.user_specified_image
                                                      : c->spec.image;
    _cleanup_(freep) char *what = str_printf("image %.200s", name);
    const struct region_files files = {.key = image_id(c, c->region_at),
                                       .what = what,
                                       .n = region->n,
                                       .bytes = region->bytes,
                                       .names = region->names,
                                       .fds = region->fds};

    return container_add_region(c, &files, on_added, &c->call, err);
}

static int open_region(void *payload, struct error **err)
{
    return image_region_open(payload, err);
}

static void on_region_open(void *userdata, void *payload, int r, const struct error *err)
{
    struct container *c = userdata;
    _cleanup_(error_freep) struct error *why = NULL;
    LOG_SCOPE(pod, "pod", c->sandbox->id);

    c->region_job.job = NULL;
    if (r >= 0)
        r = add_region(c, payload, &why);
    if (r < 0)
        added(c, r, why ? why : err);
}

static void free_region(void *payload)
{
    image_region_free(payload);
}

/* 0: all are there. 1: added() is called for the next. */
static int add_next(struct container *c, struct error **err)
{
    static const struct side_job_ops ops = {open_region, on_region_open, free_region};
    struct image_region *region = NULL;
    int r;

    while (c->region_at < image_count(c) && came_before(c, c->region_at))
        c->region_at++;
    if (c->region_at == image_count(c))
        return 0;
    r = container_connected(c, err);
    if (r >= 0)
        r = image_region_new(c->sandbox->node->images, image_at(c, c->region_at), &region, err);
    if (r >= 0)
        r = side_job_start(c->sandbox->node->host_worker, &ops, region, "opening the image's files",
                           FILES_TIMEOUT_MS, c, &c->region_job.job, err);
    return r < 0 ? r : 1;
}

int create_region(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;

    c->region_at = 0;
    c->region_until_ns = clock_mono_ns() + RETRIES_NS;
    c->region_job.step = plan_current_step(run);
    return add_next(c, err);
}

void cancel_region(struct plan_run *run, void *object)
{
    struct container *c = object;

    c->region_retry = sd_event_source_disable_unref(c->region_retry);
    side_job_cancel(TAKE(c->region_job.job));
    vmm_call_cancel(TAKE(c->call));
}

/* ---- away again: those that no other container of the pod uses */

static int drop_next(struct container *c);

static void on_dropped(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(pod, "pod", c->sandbox->id);

    c->call = NULL;
    if (r < 0) /* it ends with the VM */
        log_debug("region %s stays: %s", image_id(c, c->region_at), error_text(err, r));
    c->region_at++;
    if (drop_next(c) == 0)
        plan_step_done(c->plan, c->region_job.step, 0, NULL);
}

static int drop_next(struct container *c)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveRegion body = NEXUS__REMOVE_REGION__INIT;

    while (c->region_at < image_count(c) &&
           (came_before(c, c->region_at) || others_use(c, image_id(c, c->region_at))))
        c->region_at++;
    if (c->region_at == image_count(c) || container_connected(c, NULL) < 0 || c->sandbox->vm_ended)
        return 0;
    body.key = (char *)(uintptr_t)image_id(c, c->region_at);
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_REGION;
    m.remove_region = &body;
    return vmm_client_call(c->sandbox->client, &m, NULL, 0, EXIT_TIMEOUT_MS, on_dropped, c,
                           &c->call, NULL) < 0
               ? 0
               : 1;
}

int drop_regions(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;

    c->region_at = 0;
    c->region_job.step = plan_current_step(run);
    return drop_next(c);
}
