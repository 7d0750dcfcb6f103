/* SPDX-License-Identifier: Apache-2.0 */
/* Regions and the volumes made of them: what nexusd asks for, and which container holds what. The counts
 * kept here are for people and for early refusals; the agent knows what the guest really uses. */
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "vmm/supervisor-internal.h"

#define KEY_MAX 256
#define RELEASES_MAX 16

static char *const *names_of(const Nexus__AddRegion *add)
{
    return add->n_segment_names ? add->segment_names : NULL;
}

/* ---- regions that come in several messages */

static struct partial *partial_find(struct supervisor *sup, const char *key)
{
    struct partial *p;

    list_foreach (p, &sup->partials, link)
        if (strcmp(p->key, key) == 0)
            return p;
    return NULL;
}

/* The machine has taken it, or forgotten it already. */
static void partial_free(struct supervisor *sup, struct partial *p)
{
    if (!p)
        return;
    list_remove(&p->link);
    sup->n_partials--;
    free(p->key);
    free(p);
}

static void partial_drop(struct supervisor *sup, struct partial *p)
{
    if (p)
        sup->ops->forget_region(sup->ud, p->key);
    partial_free(sup, p);
}

void supervisor_drop_partials(struct supervisor *sup, uint64_t connection)
{
    struct partial *p, *tmp;

    list_foreach_safe (p, tmp, &sup->partials, link)
        if (!connection || p->connection == connection)
            partial_drop(sup, p);
}

/* What an earlier connection left under the key is not this one's beginning. */
static int partial_get(struct supervisor *sup, struct control_caller who, const char *key,
                       struct partial **ret, struct error **err)
{
    struct partial *p = partial_find(sup, key);

    if (p && p->connection != who.connection) {
        partial_drop(sup, p);
        p = NULL;
    }
    if (!p && sup->n_partials >= SUPERVISOR_PARTIALS)
        return error_set(err, -EAGAIN, "%d regions are on their way in pieces already",
                         SUPERVISOR_PARTIALS);
    if (!p) {
        p = xcalloc(1, sizeof(*p));
        p->connection = who.connection;
        p->key = str_dup(key);
        list_append(&sup->partials, &p->link);
        sup->n_partials++;
    }
    *ret = p;
    return 0;
}

static int add_pieces(struct supervisor *sup, struct control_caller who,
                      const Nexus__AddRegion *add, const int *fds, size_t n_fds, struct error **err)
{
    struct partial *p = NULL;
    uint64_t gpa, bytes;
    int r = partial_get(sup, who, add->key, &p, err);

    if (r < 0)
        return r;
    r = sup->ops->add_region(sup->ud, add->key, add->what, fds, add->segment_bytes, names_of(add),
                             n_fds, true, &gpa, &bytes, err);
    if (r < 0) {
        partial_free(sup, p);
        return error_prefix(err, r, "region %s", add->key);
    }
    supervisor_answer(sup, who, 0, NULL);
    return 0;
}

/* ---- adding */

static int check_add(struct supervisor *sup, const Nexus__AddRegion *add, size_t n_fds,
                     struct error **err)
{
    if (n_fds == 0 || n_fds != add->n_segment_bytes)
        return error_set(err, -EINVAL, "region %s: %zu files for %zu segments", add->key, n_fds,
                         add->n_segment_bytes);
    if (add->n_segment_names && add->n_segment_names != n_fds)
        return error_set(err, -EINVAL, "region %s: %zu names for %zu files", add->key,
                         add->n_segment_names, n_fds);
    if (sup->phase == NEXUS__VMM_STATE__PHASE__ENDED)
        return supervisor_check_guest(sup, err);
    if (sup->n_regions >= LIMIT_REGIONS)
        return error_set(err, -ENOSPC, "region %s: the VM has %d regions already", add->key,
                         LIMIT_REGIONS);
    return 0;
}

int supervisor_add_region(struct supervisor *sup, struct control_caller who,
                          const Nexus__AddRegion *add, const int *fds, size_t n_fds,
                          struct error **err)
{
    struct region *region = supervisor_region(sup, add->key);
    struct partial *p = partial_find(sup, add->key);
    uint64_t gpa = 0, bytes = 0;
    int r;

    if (add->key[0] == '\0' || strlen(add->key) > KEY_MAX)
        return error_set(err, -EINVAL, "a region key has 1 to %d bytes", KEY_MAX);
    if (strlen(add->what) > KEY_MAX)
        return error_set(err, -EINVAL, "region %s: what it is has more than %d bytes", add->key,
                         KEY_MAX);
    if (region && region->releasing)
        return error_set(err, -EAGAIN, "region %s is being removed", add->key);
    if (region) {
        supervisor_answer(sup, who, 0, NULL);
        return 0;
    }
    r = check_add(sup, add, n_fds, err);
    if (r < 0) {
        partial_drop(sup, p);
        return r;
    }
    if (add->more)
        return add_pieces(sup, who, add, fds, n_fds, err);
    if (p && p->connection != who.connection)
        partial_drop(sup, TAKE(p));
    r = sup->ops->add_region(sup->ud, add->key, add->what, fds, add->segment_bytes, names_of(add),
                             n_fds, false, &gpa, &bytes, err);
    partial_free(sup, p);
    if (r < 0)
        return error_prefix(err, r, "region %s", add->key);
    region = xcalloc(1, sizeof(*region));
    region->key = str_dup(add->key);
    region->what = str_dup(add->what);
    region->gpa = gpa;
    region->device = sup->ops->region_device ? sup->ops->region_device(sup->ud, gpa) : 0;
    region->bytes = bytes;
    list_append(&sup->regions, &region->link);
    sup->n_regions++;
    supervisor_answer(sup, who, 0, NULL);
    return 0;
}

/* ---- removing */

static int drop_region(struct supervisor *sup, struct region *region, struct error **err)
{
    bool park = region->parking && sup->phase != NEXUS__VMM_STATE__PHASE__ENDED;
    int r = (park ? sup->ops->park_region : sup->ops->remove_region)(sup->ud, region->gpa);

    if (r < 0)
        return error_set(err, r, "cannot remove region %s from the VM", region->key);
    supervisor_drop_region(sup, region);
    return 0;
}

static int ask_release(struct supervisor *sup, struct region *region, struct control_caller who,
                       struct error **err);

/* The window of a driver that still works is not emptied under it: the guest's kernel would wait for answers
 * of a device that is not there. Asked again some times; a guest that goes on binding it has chosen that. */
static bool is_still_driven(struct supervisor *sup, struct region *region)
{
    return region->released++ < RELEASES_MAX && sup->phase != NEXUS__VMM_STATE__PHASE__ENDED &&
           sup->ops->region_is_driven && sup->ops->region_is_driven(sup->ud, region->gpa);
}

static void on_released(void *ud, int r, const struct error *err)
{
    _cleanup_(pending_freep) struct pending *p = ud;
    _cleanup_(error_freep) struct error *own = NULL;
    struct region *region = supervisor_region(p->sup, p->key);
    struct control_caller who = region ? region->remover : p->who;

    if (!region) {
        supervisor_answer(p->sup, who, 0, NULL);
        return;
    }
    if (r < 0 && p->sup->phase != NEXUS__VMM_STATE__PHASE__ENDED &&
        !agent_link_is_ready(p->sup->agent))
        return; /* the connection is lost: the end of the VM follows, and answers */
    region->releasing = false;
    if (r == 0 && !region->parking && is_still_driven(p->sup, region) &&
        ask_release(p->sup, region, who, NULL) == 0)
        return;
    /* a guest that is gone holds nothing */
    if (r == 0 || p->sup->phase == NEXUS__VMM_STATE__PHASE__ENDED) {
        r = drop_region(p->sup, region, &own);
        err = own;
    }
    supervisor_answer(p->sup, who, r, err);
}

void supervisor_end_releases(struct supervisor *sup)
{
    struct region *region, *tmp;

    list_foreach_safe (region, tmp, &sup->regions, link) {
        _cleanup_(error_freep) struct error *err = NULL;
        struct control_caller who = region->remover;

        if (!region->releasing)
            continue;
        region->releasing = false;
        int r = drop_region(sup, region, &err);

        supervisor_answer(sup, who, r, err);
    }
}

static int check_remove(const struct region *region, struct control_caller who, struct error **err)
{
    if (region->containers)
        return error_set(err, -EBUSY, "region %s is used by %u containers", region->key,
                         region->containers);
    if (region->volumes)
        return error_set(err, -EBUSY, "region %s is used by %u volumes", region->key,
                         region->volumes);
    if (region->releasing && region->remover.connection == who.connection)
        return error_set(err, -EAGAIN, "region %s is being removed", region->key);
    return 0;
}

static int ask_release(struct supervisor *sup, struct region *region, struct control_caller who,
                       struct error **err)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__ReleaseRegion release = NEXUS__RELEASE_REGION__INIT;
    struct pending *p = pending_new(sup, who);
    int r;

    p->key = str_dup(region->key);
    region->parking = sup->ops->may_park && sup->ops->may_park(sup->ud, region->gpa);
    release.gpa = region->gpa;
    release.device = region->device;
    release.keep_device = region->parking;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_RELEASE_REGION;
    m.release_region = &release;
    r = supervisor_ask(sup, &m, AGENT_NO_TIMEOUT, on_released, p, err);
    if (r == 0) {
        region->releasing = true;
        region->remover = who;
    }
    return r;
}

/* Answered when the last reader in the guest has gone. Nothing else waits for it. */
int supervisor_remove_region(struct supervisor *sup, struct control_caller who, const char *key,
                             struct error **err)
{
    struct region *region = supervisor_region(sup, key);
    int r = region ? check_remove(region, who, err) : 0;

    partial_drop(sup, partial_find(sup, key));
    if (r < 0)
        return r;
    if (region && region->releasing) {
        region->remover = who; /* the first caller was lost */
        return 0;
    }
    if (!region || sup->phase == NEXUS__VMM_STATE__PHASE__ENDED) {
        r = region ? drop_region(sup, region, err) : 0;
        if (r == 0)
            supervisor_answer(sup, who, 0, NULL);
        return r;
    }
    r = supervisor_check_guest(sup, err);
    return r < 0 ? r : ask_release(sup, region, who, err);
}

/* ---- volumes */

static struct volume *volume_find(struct supervisor *sup, const char *name)
{
    struct volume *v;

    list_foreach (v, &sup->volumes, link)
        if (strcmp(v->name, name) == 0)
            return v;
    return NULL;
}

/* A region that is told to the agent by its place: its key says nothing there. what, name: who wants it. */
static int take_key(struct supervisor *sup, const char *what, const char *name, char *key,
                    struct region **ret, struct error **err)
{
    *ret = supervisor_region(sup, key);
    if (!*ret || (*ret)->releasing)
        return error_set_class(err, ERROR_PRECONDITION, -ENOENT,
                               "%s %.80s: region %.256s was not added", what, name, key);
    if (key[0])
        key[0] = '\0';
    return 0;
}

static int region_of(struct supervisor *sup, const char *volume, char *key, struct region **ret,
                     struct error **err)
{
    if (!container_id_is_valid(volume))
        return error_set(err, -EINVAL, "a volume needs a name of 1 to %d [a-z0-9-]", LIMIT_ID_MAX);
    return take_key(sup, "volume", volume, key, ret, err);
}

int supervisor_take_modules(struct supervisor *sup, struct container *c, Nexus__ContainerSpec *spec,
                            struct error **err)
{
    for (size_t i = 0; i < spec->n_modules; i++) {
        Nexus__ModuleList *m = spec->modules[i];
        struct region *region;
        int r = take_key(sup, "kernel modules", m->list, m->region, &region, err);

        if (r < 0)
            return error_prefix(err, r, "container %s", c->id);
        m->gpa = region->gpa;
        m->device = region->device;
        container_add_volume(c, NULL, region);
    }
    return 0;
}

static struct volume *volume_new(struct supervisor *sup, const char *name, struct region *region)
{
    struct volume *v = xcalloc(1, sizeof(*v));

    (void)snprintf(v->name, sizeof(v->name), "%s", name);
    v->serial = ++sup->next_serial;
    volume_set_region(v, region);
    list_append(&sup->volumes, &v->link);
    return v;
}

int supervisor_take_volumes(struct supervisor *sup, struct container *c, Nexus__ContainerSpec *spec,
                            struct error **err)
{
    if (spec->n_volumes > LIMIT_VOLUME_BUNDLE_PARTS)
        return error_set(err, -E2BIG, "container %s: more than %d volumes", c->id,
                         LIMIT_VOLUME_BUNDLE_PARTS);
    for (size_t i = 0; i < spec->n_volumes; i++) {
        Nexus__VolumeMount *m = spec->volumes[i];
        struct region *region;
        struct volume *v = NULL;
        int r = 0;

        if (m->memory_bytes)
            continue;
        if (m->share) {
            r = supervisor_find_share(sup, &m->device, err);
            if (r < 0)
                return error_prefix(err, r, "container %s", c->id);
            continue;
        }
        r = region_of(sup, m->volume, m->region, &region, err);

        if (r < 0)
            return error_prefix(err, r, "container %s", c->id);
        m->gpa = region->gpa;
        m->device = region->device;
        if (m->live && !m->sub_path[0]) {
            v = volume_find(sup, m->volume);
            if (!v)
                v = volume_new(sup, m->volume, region);
        }
        container_add_volume(c, v, region);
    }
    return 0;
}

static void on_updated(void *ud, int r, const struct error *err)
{
    _cleanup_(pending_freep) struct pending *p = ud; /* gives the region back */
    struct volume *v = volume_find(p->sup, p->key);

    if (r == 0 && v && v->serial == p->serial)
        volume_set_region(v, p->region);
    supervisor_answer(p->sup, p->who, r, err);
}

int supervisor_update_volume(struct supervisor *sup, struct control_caller who,
                             Nexus__UpdateVolume *update, struct error **err)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    struct volume *v = volume_find(sup, update->volume);
    struct region *region;
    struct pending *p;
    int r = supervisor_check_guest(sup, err);

    if (r < 0)
        return r;
    if (!v)
        return error_set(err, -ENOENT, "no container has the volume %.64s", update->volume);
    r = region_of(sup, update->volume, update->region, &region, err);
    if (r < 0)
        return r;
    update->gpa = region->gpa;
    update->device = region->device;
    p = pending_new(sup, who);
    p->serial = v->serial;
    p->key = str_dup(v->name);
    p->region = region;
    region->volumes++; /* until it is the volume's, or refused */
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_UPDATE_VOLUME;
    m.update_volume = update;
    return supervisor_ask(sup, &m, sup->times.create_ms, on_updated, p, err);
}
