/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/volume-info.h"

#include <string.h>

#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"

#define REFRESH_TIMEOUT_MS 2000

static json_t *volumes_of(const struct sandbox *s, const char *key)
{
    json_t *list = json_array();
    const struct pod_volume *v;

    list_foreach (v, &s->volumes, node)
        if (str_equal(v->rec.region, key))
            (void)json_array_append_new(list, json_pack("{s:s, s:s?, s:I}", "name", v->rec.name,
                                                        "volume", v->rec.title, "generation",
                                                        (json_int_t)v->rec.generation));
    return list;
}

json_t *sandbox_regions_info(const struct sandbox *s)
{
    json_t *list = json_array();
    const struct region *r;

    list_foreach (r, &s->regions, node)
        (void)json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I, s:I, s:o}", "key", r->key,
                                                    "what", r->what, "bytes", (json_int_t)r->bytes,
                                                    "deniedWrites", (json_int_t)r->denied_writes,
                                                    "repairedPages", (json_int_t)r->repaired_pages,
                                                    "volumes", volumes_of(s, r->key)));
    return list;
}

static const char *state_of(const struct pod_volume *v)
{
    if (v->gone)
        return "gone";
    if (v->retry)
        return "retrying";
    if (v->wait)
        return "paced";
    if (v->step != VOLUME_IDLE || v->changed)
        return "updating";
    return v->watched ? "watched" : "unwatched";
}

json_t *container_volumes_info(const struct container *c)
{
    json_t *list = json_array();

    for (size_t i = 0; i < c->status.volumes.count; i++) {
        const struct container_volume *ref = &c->status.volumes.items[i];
        const struct pod_volume *v = volume_by_name(c->sandbox, ref->volume);
        _cleanup_(freep) char *path = NULL;

        if (!v) /* its VM is over */
            continue;
        path = str_printf("%s%s%s", v->rec.base, v->rec.rel[0] ? "/" : "", v->rec.rel);
        (void)json_array_append_new(
            list, json_pack("{s:s?, s:s, s:s?, s:s?, s:s, s:b, s:s?, s:I, s:I, s:s}", "destination",
                            ref->destination, "name", v->rec.name, "volume", v->rec.title, "plugin",
                            v->rec.plugin, "path", path, "live", v->rec.live, "region",
                            v->rec.region, "generation", (json_int_t)v->rec.generation,
                            "pacedUpdates", (json_int_t)v->waits, "state", state_of(v)));
    }
    return list;
}

/* ---- fresh counters */

struct refresh {
    struct node *node;
    struct list waiters; /* one; empty: it left */
    char id[LIMIT_ID_MAX + 1];
};

static void on_state(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct refresh *f = userdata;
    struct sandbox *s = hashmap_get(&f->node->sandboxes, f->id);

    if (r >= 0 && state && s)
        regions_update(s, state);
    waiters_complete(&f->waiters, &f->node->answers, 0, NULL, f->id);
    free(f);
}

int node_refresh_sandbox(struct node *n, const char *id, waiter_fn fn, void *userdata,
                         struct waiter **ret, struct error **err)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__GetState body = NEXUS__GET_STATE__INIT;
    struct sandbox *s = NULL;
    struct refresh *f;
    int r = node_find_sandbox(n, id, &s, err);

    if (r < 0)
        return r;
    f = xcalloc(1, sizeof(*f));
    f->node = n;
    memcpy(f->id, s->id, sizeof(f->id));
    list_init(&f->waiters);
    *ret = waiter_new(&f->waiters, fn, userdata);
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_GET_STATE;
    m.get_state = &body;
    r = s->state == SANDBOX_READY && s->client && !s->hello_pending && !s->vm_ended
            ? vmm_client_call(s->client, &m, NULL, 0, REFRESH_TIMEOUT_MS, on_state, f, NULL, NULL)
            : -ENOTCONN;
    if (r < 0)
        on_state(f, r, NULL, NULL); /* what is known then */
    return 0;
}
