/* SPDX-License-Identifier: Apache-2.0 */
/* Which volumes a sandbox has. Their updates are in volume-update.c. */
#include "pod/pod-volume.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/volume-update.h"

#define DISPATCH_TURNS 64

static const struct record_field record_fields[] = {
    RECORD_FIELD(STR, volume_record, name),          RECORD_FIELD(STR, volume_record, title),
    RECORD_FIELD(STR, volume_record, plugin),        RECORD_FIELD(STR, volume_record, base),
    RECORD_FIELD(STR, volume_record, rel),           RECORD_FIELD(BOOL, volume_record, live),
    RECORD_FIELD(STR, volume_record, region),        RECORD_FIELD(STR, volume_record, identity),
    RECORD_FIELD(U64, volume_record, generation),    RECORD_FIELD(STR, volume_record, next_region),
    RECORD_FIELD(STR, volume_record, next_identity),
};
const struct record_desc volume_record_desc = RECORD_DESC(volume_record, record_fields);

static const struct record_field mount_fields[] = {
    RECORD_FIELD(STR, container_volume, volume),
    RECORD_FIELD(STR, container_volume, destination),
};
const struct record_desc container_volume_desc = RECORD_DESC(container_volume, mount_fields);

/* ---- the list */

static struct pod_volume *new_entry(struct sandbox *s)
{
    struct pod_volume *v = xcalloc(1, sizeof(*v));

    v->sandbox = s;
    list_append(&s->volumes, &v->node);
    return v;
}

static void note_name(struct sandbox *s, const char *name)
{
    unsigned long n = 0;
    char end = '\0';

    if (sscanf(name, "v-%9lu%c", &n, &end) == 1 && n > s->last_volume)
        s->last_volume = (uint32_t)n;
}

struct pod_volume *volume_new(struct sandbox *s)
{
    struct pod_volume *v = new_entry(s);

    v->rec.name = str_printf("v-%u", ++s->last_volume);
    return v;
}

static void drop(struct pod_volume *v)
{
    volume_update_cancel(v);
    volume_watch_remove(TAKE(v->watched));
    list_remove(&v->node);
    record_clear(&volume_record_desc, &v->rec);
    free(v);
}

struct pod_volume *volume_by_name(const struct sandbox *s, const char *name)
{
    struct pod_volume *v;

    list_foreach (v, &s->volumes, node)
        if (str_equal(v->rec.name, name))
            return v;
    return NULL;
}

struct pod_volume *volume_by_place(const struct sandbox *s, const char *base, const char *rel)
{
    struct pod_volume *v;

    list_foreach (v, &s->volumes, node)
        if (v->rec.live && !v->gone && str_equal(v->rec.base, base) && str_equal(v->rec.rel, rel))
            return v;
    return NULL;
}

char *volume_what(const struct pod_volume *v)
{
    const char *plugin = v->rec.plugin ? v->rec.plugin : "volume";

    return str_printf("%s %s", plugin, v->rec.title ? v->rec.title : v->rec.name);
}

char *volume_file_name(const struct sandbox *s, const char *path)
{
    size_t len = strcspn(path, "/");
    _cleanup_(freep) char *name = str_ndup(path, len);
    const struct pod_volume *v = volume_by_name(s, name);

    if (!*path)
        return str_dup("the metadata");
    return str_printf("%s%s", v && v->rec.title ? v->rec.title : name, path + len);
}

bool volume_names_region(const struct sandbox *s, const char *key)
{
    const struct pod_volume *v;

    list_foreach (v, &s->volumes, node)
        if (str_equal(v->rec.region, key) || str_equal(v->rec.next_region, key))
            return true;
    return false;
}

static bool is_used(const struct sandbox *s, const struct pod_volume *v)
{
    const struct container *c;

    list_foreach (c, &s->containers, node)
        for (size_t i = 0; i < c->status.volumes.count; i++)
            if (str_equal(c->status.volumes.items[i].volume, v->rec.name))
                return true;
    return false;
}

void volumes_collect(struct sandbox *s)
{
    struct pod_volume *v, *next;
    bool dropped = false;

    list_foreach_safe (v, next, &s->volumes, node) {
        if (is_used(s, v))
            continue;
        dropped |= v->rec.region != NULL;
        drop(v);
    }
    /* an older record names volumes without a user: the next start forgets them again */
    if (dropped && s->state == SANDBOX_READY)
        sandbox_save_soon(s);
    regions_sweep(s);
}

void volumes_end(struct sandbox *s)
{
    struct pod_volume *v, *next;

    list_foreach_safe (v, next, &s->volumes, node)
        drop(v);
}

/* ---- records */

json_t *volumes_to_json(const struct sandbox *s)
{
    json_t *list = json_array();
    const struct pod_volume *v;

    list_foreach (v, &s->volumes, node)
        (void)json_array_append_new(list, record_to_json(&volume_record_desc, &v->rec));
    return list;
}

int volumes_from_json(struct sandbox *s, const json_t *list, struct error **err)
{
    size_t i;
    json_t *doc;

    if (json_array_size(list) > RECORD_ITEMS_MAX)
        return error_set(err, -EBADMSG, "too many volumes");
    json_array_foreach (list, i, doc) {
        struct pod_volume *v = new_entry(s);
        int r = record_from_json(&volume_record_desc, doc, &v->rec, err);

        if (r < 0)
            return error_prefix(err, r, "volume %zu", i);
        if (!v->rec.name || !v->rec.base || !v->rec.rel || !v->rec.region || !v->rec.identity)
            return error_set(err, -EBADMSG, "volume %zu lacks a name, place or region", i);
        note_name(s, v->rec.name);
    }
    return 0;
}

/* ---- watching */

static void on_notice(struct volume_watched *w, const struct volume_notice *notice, void *userdata)
{
    struct pod_volume *v = userdata;
    LOG_SCOPE(pod, "pod", v->sandbox->id);

    if (notice->what & VOLUME_WRITTEN)
        log_warning("volume %s (%s): file %s was written in place on the host", v->rec.name,
                    v->rec.title, notice->path[0] ? notice->path : v->rec.rel);
    if (notice->what & VOLUME_BLIND)
        log_warning("volume %s (%s): not all of it can be watched: %s", v->rec.name, v->rec.title,
                    strerror(-notice->r));
    if (notice->what & VOLUME_GONE) {
        log_warning("volume %s (%s): it is gone from the host; its last generation stays",
                    v->rec.name, v->rec.title);
        v->gone = true;
        volume_watch_remove(TAKE(v->watched));
        return;
    }
    if (!v->rec.live) { /* a subPath never updates; the same files go on being mapped */
        volume_watch_rearm(w, NULL);
        return;
    }
    if (!(notice->what & (VOLUME_CHANGED | VOLUME_WRITTEN))) { /* BLIND alone */
        volume_follow(v);
        return;
    }
    v->changed = true;
    volume_update_kick(v);
}

int volume_watch(struct pod_volume *v, const struct volume_mount *m, struct error **err)
{
    struct node *n = v->sandbox->node;

    return volume_watch_add(n->volume_watch, m, on_notice, v, &v->watched, err);
}

void volume_follow(struct pod_volume *v)
{
    struct volume_identity seen = {{0}};

    if (!v->watched)
        return;
    (void)snprintf(seen.text, sizeof(seen.text), "%s", v->rec.identity);
    volume_watch_rearm(v->watched, &seen);
}

void volume_settled(struct pod_volume *v)
{
    if (v->watched)
        volume_watch_scanned(v->watched);
    volume_follow(v);
}

static int on_watch(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct node *n = userdata;
    int r = volume_watch_dispatch(n->volume_watch);

    if (r < 0) {
        log_error_errno(r, "cannot watch volumes any more: they are not updated");
        n->volume_io = sd_event_source_disable_unref(n->volume_io);
    }
    return 0;
}

void volumes_catch_up(struct node *n)
{
    for (int i = 0; i < DISPATCH_TURNS && volume_watch_dispatch(n->volume_watch) > 0; i++)
        ;
}

int volumes_init(struct node *n, struct error **err)
{
    int r = volume_watch_new(&volume_limits_default, &n->volume_watch, err);

    if (r < 0)
        return error_prefix(err, r, "cannot watch volumes");
    r = sd_event_add_io(n->event, &n->volume_io, volume_watch_fd(n->volume_watch), EPOLLIN,
                        on_watch, n);
    if (r < 0)
        return error_set(err, r, "cannot watch volumes: %s", strerror(-r));
    return worker_new(n->event, &n->worker, err);
}

void volumes_done(struct node *n)
{
    n->volume_io = sd_event_source_disable_unref(n->volume_io);
    worker_free(TAKE(n->worker));
    volume_watch_free(TAKE(n->volume_watch));
}
