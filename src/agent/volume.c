/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/volume.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/container.h"
#include "agent/control.h"
#include "agent/mountapi.h"
#include "agent/region-wait.h"
#include "agent/rootfs.h"
#include "agent/share.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"

static struct volume *find(struct agent *a, const char *name)
{
    struct volume *v;

    list_foreach (v, &a->volumes, link)
        if (strcmp(v->name, name) == 0)
            return v;
    return NULL;
}

/* ---- what the host may ask for */

static bool name_is_valid(const char *name)
{
    size_t n = strlen(name);

    return n > 0 && n <= LIMIT_ID_MAX && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static bool part_is_valid(const char *part)
{
    return *part && strlen(part) <= LIMIT_VOLUME_NAME_BYTES && !strchr(part, '/') &&
           strcmp(part, ".") != 0 && strcmp(part, "..") != 0;
}

static bool has_dot_dot(const char *path)
{
    return strcmp(path, "..") == 0 || str_starts(path, "../") || strstr(path, "/../") ||
           str_ends(path, "/..");
}

static bool is_live(const Nexus__VolumeMount *m)
{
    return m->live && !*m->sub_path && !is_shared(m);
}

int volumes_check(const Nexus__ContainerSpec *spec, struct error **err)
{
    if (spec->n_volumes > VOLUMES_MAX)
        return error_set(err, -E2BIG, "more than %d volumes", VOLUMES_MAX);
    for (size_t i = 0; i < spec->n_volumes; i++) {
        const Nexus__VolumeMount *m = spec->volumes[i];

        if (!name_is_valid(m->volume) ||
            !(part_is_valid(m->part) ||
              (!*m->part && !m->live && !m->share))) /* none: the whole region */
            return error_set(err, -EINVAL, "volume \"%.80s\": no name, or part \"%.80s\" is none",
                             m->volume, m->part);
        if (m->destination[0] != '/' || has_dot_dot(m->destination) ||
            m->destination[strspn(m->destination, "/")] == '\0')
            return error_set(err, -EINVAL, "volume %s: \"%.256s\" is no place for it", m->volume,
                             m->destination);
        if (m->sub_path[0] == '/' || has_dot_dot(m->sub_path))
            return error_set(err, -EINVAL, "volume %s: path \"%.256s\" below it", m->volume,
                             m->sub_path);
    }
    return 0;
}

/* ---- held by containers */

static char *part_path(const struct region *region, const char *part)
{
    return *part ? str_printf("%s/%s", region->path, part) : str_dup(region->path);
}

static int show(struct agent *a, struct volume *v, struct error **err)
{
    int r = v->is_shown ? 0 : facade_new(a, v->name, v->region, v->part, &v->generation, err);

    v->is_shown = r == 0;
    return r;
}

/* One of them a turn; the error of one that fails is told by the start that needs it. */
static void on_time_to_show(struct loop_source *s, void *userdata)
{
    struct agent *a = userdata;
    struct volume *v;

    list_foreach (v, &a->volumes, link)
        if (!v->is_shown) {
            if (show(a, v, NULL) == 0)
                loop_defer_arm(s);
            return;
        }
}

static int volume_new(struct agent *a, const Nexus__VolumeMount *m, struct region *region,
                      struct volume **ret, struct error **err)
{
    struct volume *v;
    int r = facade_check(region, m->part, err);

    if (r == 0 && !a->show_volumes)
        r = loop_add_defer(a->loop, on_time_to_show, a, &a->show_volumes);
    if (r < 0)
        return error_prefix(err, r, "volume %s", m->volume);
    v = xcalloc(1, sizeof(*v));
    v->name = str_dup(m->volume);
    v->part = str_dup(m->part);
    v->region = region;
    list_append(&a->volumes, &v->link);
    loop_defer_arm(a->show_volumes);
    *ret = v;
    return 0;
}

static void volume_free(struct volume *v)
{
    list_remove(&v->link);
    free(v->name);
    free(v->part);
    free(v);
}

static void volume_put(struct agent *a, struct volume *v)
{
    if (--v->users)
        return;
    if (v->is_shown)
        facade_remove(a, v->name, &v->generation);
    region_put(v->region);
    volume_free(v);
}

void volumes_put(struct agent *a, struct volume_hold *holds, size_t n)
{
    for (size_t i = 0; holds && i < n; i++) {
        if (holds[i].volume)
            volume_put(a, holds[i].volume);
        region_put(holds[i].region);
    }
    free(holds);
}

/* A part that is not there is told now, not when the container starts. */
static int check_part(const struct region *region, const Nexus__VolumeMount *m, struct error **err)
{
    _cleanup_(freep) char *path = part_path(region, m->part);
    _cleanup_(closep) int part = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    _cleanup_(closep) int below = -EBADF;

    if (part < 0)
        return error_set(err, -errno, "volume %s: no part \"%.80s\" in its region", m->volume,
                         m->part);
    if (!*m->sub_path)
        return 0;
    below = open_in_root(part, m->sub_path, O_PATH, true);
    return below < 0 ? error_set_class(err, ERROR_INVALID, below, "volume %s: %.256s: %s",
                                       m->volume, m->sub_path, strerror(-below))
                     : 0;
}

static struct region_place place_of(const Nexus__VolumeMount *m)
{
    return (struct region_place){m->gpa, m->device};
}

void volumes_want(struct agent *a, const Nexus__ContainerSpec *spec)
{
    for (size_t i = 0; i < spec->n_volumes; i++)
        if (!spec->volumes[i]->memory_bytes &&
            (!is_live(spec->volumes[i]) || !find(a, spec->volumes[i]->volume)))
            region_want(a, place_of(spec->volumes[i]));
}

/* The regions first: nothing is made before all of them are there. */
static int get_regions(struct agent *a, const Nexus__ContainerSpec *spec, struct volume_hold *holds,
                       struct error **err)
{
    int r = 0;

    for (size_t i = 0; i < spec->n_volumes && r == 0; i++) {
        const Nexus__VolumeMount *m = spec->volumes[i];

        if (is_shared(m)) {
            r = share_get(a, m, err);
            continue;
        }
        if (is_live(m) && find(a, m->volume))
            continue; /* it has its own */
        r = region_get(a, place_of(m), &holds[i].region, err);
        if (r == 0)
            r = check_part(holds[i].region, m, err);
    }
    return r;
}

static int get_facades(struct agent *a, const Nexus__ContainerSpec *spec, struct volume_hold *holds,
                       struct error **err)
{
    int r = 0;

    for (size_t i = 0; i < spec->n_volumes && r == 0; i++) {
        const Nexus__VolumeMount *m = spec->volumes[i];
        struct volume *v = is_live(m) ? find(a, m->volume) : NULL;

        if (!is_live(m))
            continue;
        if (!v) {
            r = volume_new(a, m, holds[i].region, &v, err);
            if (r == 0)
                holds[i].region = NULL; /* the volume's use of it now */
        } else {
            region_put(TAKE(holds[i].region));
        }
        if (r == 0) {
            v->users++;
            holds[i].volume = v;
        }
    }
    return r;
}

int volumes_get(struct agent *a, const Nexus__ContainerSpec *spec, struct volume_hold **ret,
                struct error **err)
{
    struct volume_hold *holds;
    int r;

    *ret = NULL;
    if (!spec->n_volumes)
        return 0;
    holds = xcalloc(spec->n_volumes, sizeof(*holds));
    r = get_regions(a, spec, holds, err);
    if (r == 0)
        r = get_facades(a, spec, holds, err);
    if (r < 0)
        volumes_put(a, holds, spec->n_volumes);
    else
        *ret = holds;
    return r;
}

static size_t depth_of(const char *path)
{
    size_t n = 0;

    for (const char *p = path; *p; p++)
        n += p[0] == '/' && p[1] != '/' && p[1] != '\0';
    return n;
}

static int show_all(const struct container *k, struct error **err)
{
    int r = 0;

    for (size_t i = 0; i < k->spec->n_volumes && r == 0; i++)
        if (k->volumes[i].volume)
            r = show(k->agent, k->volumes[i].volume, err);
    return r;
}

int volumes_plan(const struct container *k, struct rootfs_plan *p, struct error **err)
{
    const Nexus__ContainerSpec *spec = k->spec;
    int r = show_all(k, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < spec->n_volumes; i++) {
        const Nexus__VolumeMount *m = spec->volumes[i];
        const struct volume_hold *h = &k->volumes[i];
        struct rootfs_volume v = {
            .source = is_shared(m) ? share_path(k->agent, m)
                      : h->volume  ? facade_path(k->agent, h->volume->name)
                                   : part_path(h->region, m->part),
            .sub_path = m->sub_path,
            .target = m->destination,
            .live = h->volume != NULL,
            .shared = is_shared(m),
            .writable = m->writable,
        };
        size_t at = p->n_volumes++;

        for (; at && depth_of(p->volumes[at - 1].target) > depth_of(v.target); at--)
            p->volumes[at] = p->volumes[at - 1];
        p->volumes[at] = v;
    }
    return 0;
}

/* ---- updates */

struct update {
    struct list link;
    struct agent *agent;
    char *volume, *part; /* owned */
    bool same_links;
    struct region_place place;
    uint64_t request;
    struct region_wait wait;
};

static void update_free(struct update *u)
{
    region_wait_end(&u->wait);
    list_remove(&u->link);
    free(u->volume);
    free(u->part);
    free(u);
}

static void update_end(struct update *u, int r, const struct error *err)
{
    control_reply(u->agent, u->request, r, err);
    update_free(u);
}

/* start_ns: when the region's device was there. */
static int move(struct agent *a, struct volume *v, struct region *region, const struct update *u,
                uint64_t start_ns, struct error **err)
{
    bool was_shown = v->is_shown; /* else the next generation is the first */
    struct generation old;
    int r = !was_shown ? facade_check(region, u->part, err)
                       : facade_update(a, v->name, region, u->part, u->same_links, &v->generation,
                                       &old, err);

    if (r < 0) {
        region_put(region);
        return r;
    }
    region_put(v->region);
    v->region = region;
    free(v->part);
    v->part = str_dup(u->part);
    if (!was_shown)
        return 0;
    log_info("volume %s: now %s, %" PRIu64 " us to mount it", v->name, v->generation.name,
             (clock_mono_ns() - start_ns) / 1000);
    facade_retire(a, v->name, &old);
    return 0;
}

static void want_region(void *userdata)
{
    struct update *u = userdata;

    region_want(u->agent, u->place);
}

/* True: it was answered and u is gone. */
static bool try_update(void *userdata)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct update *u = userdata;
    struct agent *a = u->agent;
    struct volume *v = find(a, u->volume);
    uint64_t start = clock_mono_ns();
    struct region *region;
    int r = 0;

    if (!v)
        r = error_set(&err, -ENOENT, "no container has the volume %s", u->volume);
    else if (v->region->place.gpa != u->place.gpa || strcmp(v->part, u->part) != 0) {
        if (a->n_entering)
            return false;
        r = region_get(a, u->place, &region, &err);
        if (r == -EAGAIN && !err)
            return false;
        if (r == 0)
            r = move(a, v, region, u, start, &err);
    }
    update_end(u, r, err);
    return true;
}

static void on_timed_out(void *userdata)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct update *u = userdata;
    int r;

    r = error_set(&err, -ETIMEDOUT, "volume %s: %s", u->volume,
                  u->agent->n_entering ? "a container is being started all the time"
                                       : "the device of its region does not come");
    update_end(u, r, err);
}

void volume_updates_run(struct agent *a)
{
    struct update *u, *tmp;

    list_foreach_safe (u, tmp, &a->updates, link)
        (void)try_update(u);
}

static int check_update(struct agent *a, const Nexus__UpdateVolume *m, struct error **err)
{
    struct update *u;

    if (!find(a, m->volume))
        return error_set(err, -ENOENT, "no container has the volume %.80s", m->volume);
    if (!part_is_valid(m->part))
        return error_set(err, -EINVAL, "volume %s: part \"%.80s\"", m->volume, m->part);
    list_foreach (u, &a->updates, link)
        if (strcmp(u->volume, m->volume) == 0)
            return error_set(err, -EAGAIN, "volume %s is being updated", m->volume);
    return 0;
}

void volume_update(struct agent *a, const Nexus__UpdateVolume *m, uint64_t id)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct update *u;
    int r = check_update(a, m, &err);

    if (r < 0) {
        control_reply(a, id, r, err);
        return;
    }
    u = xcalloc(1, sizeof(*u));
    u->agent = a;
    u->volume = str_dup(m->volume);
    u->part = str_dup(m->part);
    u->same_links = m->same_links;
    u->place = (struct region_place){m->gpa, m->device};
    u->request = id;
    u->wait = (struct region_wait){.agent = a,
                                   .attempt = try_update,
                                   .want = want_region,
                                   .timed_out = on_timed_out,
                                   .userdata = u};
    list_append(&a->updates, &u->link);
    r = region_wait_begin(&u->wait);
    if (r < 0)
        update_end(u, r, NULL);
}

void volumes_free(struct agent *a)
{
    while (!list_is_empty(&a->updates))
        update_free(list_first(&a->updates, struct update, link));
    while (!list_is_empty(&a->volumes))
        volume_free(list_first(&a->volumes, struct volume, link));
    facades_free(a);
}
