/* SPDX-License-Identifier: Apache-2.0 */
/* Creation of containers: checks, then waits for the image's region, which is hot-added meanwhile. */
#include <stdio.h>
#include <string.h>

#include "agent/container-files.h"
#include "agent/control.h"
#include "agent/module.h"
#include "agent/region-wait.h"
#include "agent/rootfs.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "wire/message.h"

struct creation {
    struct list link;
    struct agent *agent;
    Nexus__ContainerSpec *spec; /* owned */
    uint64_t request;
    struct region_wait wait;
};

static void creation_free(struct creation *c)
{
    region_wait_end(&c->wait);
    list_remove(&c->link);
    c->agent->n_creating--;
    if (c->spec)
        message_free(&c->spec->base);
    free(c);
}

static void creation_end(struct creation *c, int r, const struct error *err)
{
    control_reply(c->agent, c->request, r, err);
    creation_free(c);
}

void creations_free(struct agent *a)
{
    while (!list_is_empty(&a->creating))
        creation_free(list_first(&a->creating, struct creation, link));
}

static struct creation *creation_find(struct agent *a, const char *id)
{
    struct creation *c;

    list_foreach (c, &a->creating, link)
        if (strcmp(c->spec->id, id) == 0)
            return c;
    return NULL;
}

void creation_cancel(struct agent *a, const char *id)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct creation *c = creation_find(a, id);

    if (!c)
        return;
    int r = error_set(&err, -ECANCELED, "container %s was removed", id);
    creation_end(c, r, err);
}

/* Everything but the regions. */
static int build(struct creation *c, struct region *region, struct volume_hold *volumes,
                 struct error **err)
{
    struct container *k = xcalloc(1, sizeof(*k));
    struct agent *a = c->agent;
    int r;

    k->agent = a;
    k->state = CONTAINER_CREATED;
    k->spec = TAKE(c->spec);
    k->region = region;
    k->volumes = volumes;
    k->entering = -EBADF;
    k->devpts = -EBADF;
    list_init(&k->streams);
    list_append(&a->containers, &k->link);
    a->n_containers++;
    r = loop_add_defer(a->loop, container_on_finish, k, &k->finish);
    if (r < 0)
        r = error_set(err, r, "container");
    if (r == 0)
        r = container_files_make(k, err);
    if (r == 0)
        r = container_prepare(k, err);
    if (r < 0) {
        r = error_prefix(err, r, "container %s", k->spec->id);
        if (k->cgroup)
            cgroup_reap(a, TAKE(k->cgroup), NULL, NULL);
        container_forget(k);
        return r;
    }
    log_info("container %s: created", k->spec->id);
    return 0;
}

static struct region_place rootfs_place(const Nexus__ContainerSpec *spec)
{
    return (struct region_place){spec->rootfs_gpa, spec->rootfs_device};
}

static void want_regions(void *userdata)
{
    struct creation *c = userdata;

    region_want(c->agent, rootfs_place(c->spec));
    modules_want(c->agent, c->spec);
    volumes_want(c->agent, c->spec);
}

/* True: it was answered and c is gone. */
static bool try_regions(void *userdata)
{
    struct creation *c = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    struct volume_hold *volumes = NULL;
    struct region *region = NULL;
    int r = modules_get(c->agent, c->spec, &err);

    if (r == 0)
        r = region_get(c->agent, rootfs_place(c->spec), &region, &err);
    if (r == 0) {
        r = volumes_get(c->agent, c->spec, &volumes, &err);
        if (r < 0)
            region_put(region);
    }
    if (r == -EAGAIN && !err)
        return false;
    if (r == 0)
        r = build(c, region, volumes, &err);
    else
        r = error_prefix(&err, r, "container %s", c->spec->id);
    creation_end(c, r, err);
    return true;
}

static void on_timed_out(void *userdata)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct creation *c = userdata;
    int r;

    r = error_set(&err, -ETIMEDOUT,
                  "container %s: no device with its image at %#llx, or with one of its %zu volumes",
                  c->spec->id, (unsigned long long)c->spec->rootfs_gpa, c->spec->n_volumes);
    creation_end(c, r, err);
}

static bool id_is_valid(const char *id)
{
    size_t len = strlen(id);

    return len > 0 && len <= LIMIT_ID_MAX &&
           strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == len && id[0] != '-';
}

static int check(struct agent *a, const Nexus__ContainerSpec *spec, struct error **err)
{
    struct process_plan plan;
    int r;

    if (!id_is_valid(spec->id))
        return error_set(err, -EINVAL, "container id \"%.80s\"", spec->id);
    if (container_find(a, spec->id) || creation_find(a, spec->id))
        return error_set(err, -EEXIST, "container %s exists", spec->id);
    if (a->n_containers + a->n_creating >= LIMIT_CONTAINERS_PER_POD)
        return error_set(err, -E2BIG, "more than %d containers", LIMIT_CONTAINERS_PER_POD);
    if (!a->sandbox_ready)
        return error_set_class(err, ERROR_PRECONDITION, -ENOENT, "the sandbox is not configured");
    if (a->shutdown)
        return error_set_class(err, ERROR_PRECONDITION, -ESHUTDOWN, "the guest is shutting down");
    r = volumes_check(spec, err);
    if (r < 0)
        return r;
    r = rootfs_check_devices(spec->devices, spec->n_devices, err);
    if (r == 0)
        r = plan_for_container(spec, &plan, err);
    if (r == 0)
        plan_done(&plan);
    return r;
}

void container_create(struct agent *a, Nexus__ContainerSpec *spec, uint64_t id)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct creation *c;
    int r = check(a, spec, &err);

    if (r < 0) {
        control_reply(a, id, r, err);
        message_free(&spec->base);
        return;
    }
    c = xcalloc(1, sizeof(*c));
    c->agent = a;
    c->spec = spec;
    c->request = id;
    c->wait = (struct region_wait){.agent = a,
                                   .attempt = try_regions,
                                   .want = want_regions,
                                   .timed_out = on_timed_out,
                                   .userdata = c};
    list_append(&a->creating, &c->link);
    a->n_creating++;
    r = region_wait_begin(&c->wait);
    if (r < 0)
        creation_end(c, r, NULL);
}
