/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/region.h"

#include <string.h>

#include "base/failpoint.h"
#include "base/fdpass.h"
#include "base/log.h"
#include "base/numparse.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/pod-volume.h"
#include "pod/vmm-client.h"
#include "volume/layout.h"

#define FILE_NAME_MAX 255 /* as nexus-vmm keeps */
#define REMOVALS_MAX 128  /* that wait for readers; the rest waits here */
#define RETRY_FIRST_MS 200ULL
#define RETRY_LAST_MS 30000

static struct region *find(const struct sandbox *s, const char *key)
{
    struct region *r;

    list_foreach (r, &s->regions, node)
        if (strcmp(r->key, key) == 0)
            return r;
    return NULL;
}

const struct region *region_find(const struct sandbox *s, const char *key)
{
    return key ? find(s, key) : NULL;
}

/* Volumes have the names of directories and files. */
static char *printable(char *text)
{
    for (char *p = text; *p; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
    return text;
}

static char *short_what(const char *what)
{
    return printable(str_printf("%.*s", REGION_WHAT_MAX, what));
}

static struct region *add_entry(struct sandbox *s, const char *key, const char *what)
{
    struct region *r = xcalloc(1, sizeof(*r));

    r->sandbox = s;
    r->key = str_dup(key);
    r->what = short_what(what);
    list_append(&s->regions, &r->node);
    return r;
}

static void drop_entry(struct region *r)
{
    vmm_call_cancel(r->call);
    list_remove(&r->node);
    free(r->key);
    free(r->what);
    free(r);
}

void regions_clear(struct sandbox *s)
{
    struct region *r, *next;

    s->region_retry = sd_event_source_disable_unref(s->region_retry);
    list_foreach_safe (r, next, &s->regions, node)
        drop_entry(r);
}

static bool is_volume_key(const char *key)
{
    return str_starts(key, REGION_PREFIX);
}

/* Keys count up; whatever is there counts, whoever made it. */
static void note_key(struct sandbox *s, const char *key)
{
    uint64_t n = 0;

    if (is_volume_key(key) && parse_u64(key + strlen(REGION_PREFIX), UINT64_MAX - 1, &n) >= 0 &&
        n > s->last_region)
        s->last_region = n;
}

char *region_new_key(struct sandbox *s)
{
    const struct region *r;
    const struct pod_volume *v;

    list_foreach (r, &s->regions, node)
        note_key(s, r->key);
    list_foreach (v, &s->volumes, node) {
        if (v->rec.region)
            note_key(s, v->rec.region);
        if (v->rec.next_region)
            note_key(s, v->rec.next_region);
    }
    return str_printf(REGION_PREFIX "%llu", (unsigned long long)++s->last_region);
}

/* ---- what nexus-vmm says */

#define DENIED_COUNTER "kvm.exit.readonly_writes"

/* Of all regions, also those that are gone. */
static void take_denied(struct sandbox *s, const Nexus__VmmState *state)
{
    for (size_t i = 0; i < state->n_counters; i++)
        if (strcmp(state->counters[i]->name, DENIED_COUNTER) == 0)
            s->denied_writes = state->counters[i]->value;
}

static void take_counters(struct region *r, const Nexus__RegionState *state)
{
    r->bytes = state->bytes;
    r->denied_writes = state->denied_writes;
    r->repaired_pages = state->repaired_pages;
}

void regions_take(struct sandbox *s, const Nexus__VmmState *state)
{
    regions_clear(s);
    s->region_retries = 0;
    take_denied(s, state);
    for (size_t i = 0; i < state->n_regions; i++) {
        const char *key = state->regions[i]->key;

        if (key[0] && !find(s, key))
            take_counters(add_entry(s, key, state->regions[i]->what), state->regions[i]);
    }
}

static const Nexus__RegionState *find_state(const Nexus__VmmState *state, const char *key)
{
    for (size_t i = 0; i < state->n_regions; i++)
        if (strcmp(state->regions[i]->key, key) == 0)
            return state->regions[i];
    return NULL;
}

void regions_update(struct sandbox *s, const Nexus__VmmState *state)
{
    struct region *r, *next;

    take_denied(s, state);
    list_foreach_safe (r, next, &s->regions, node) {
        const Nexus__RegionState *is = find_state(state, r->key);

        if (is)
            take_counters(r, is);
        else if (!is_volume_key(r->key))
            drop_entry(r);
    }
    for (size_t i = 0; i < state->n_regions; i++) {
        const char *key = state->regions[i]->key;

        if (key[0] && !is_volume_key(key) && !find(s, key))
            take_counters(add_entry(s, key, state->regions[i]->what), state->regions[i]);
    }
}

/* ---- removing */

static bool is_wanted(const struct sandbox *s, const struct region *r)
{
    return r->adding || !is_volume_key(r->key) || volume_names_region(s, r->key);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->region_retry = sd_event_source_disable_unref(s->region_retry);
    regions_sweep(s);
    return 0;
}

static void sweep_later(struct sandbox *s)
{
    uint64_t ms = RETRY_FIRST_MS << (s->region_retries < 8 ? s->region_retries : 8);

    if (s->region_retry)
        return;
    s->region_retries++;
    (void)sd_event_add_time_relative(s->node->event, &s->region_retry, CLOCK_MONOTONIC,
                                     (ms > RETRY_LAST_MS ? RETRY_LAST_MS : ms) * 1000, 0, on_retry,
                                     s);
}

static void on_removed(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct region *region = userdata;
    struct sandbox *s = region->sandbox;
    LOG_SCOPE(pod, "pod", s->id);

    region->call = NULL;
    if (r >= 0 || r == -ENOENT) {
        log_debug("region %s is gone", region->key);
        s->region_retries = 0;
        drop_entry(region);
        regions_sweep(s); /* there is room for another request */
        return;
    }
    if (r == -ECONNRESET) /* the next hello tells whether it is there */
        return;
    log_debug("region %s is not gone yet: %s", region->key, error_text(err, r));
    sweep_later(s);
}

static int send_removal(struct region *region)
{
    struct sandbox *s = region->sandbox;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveRegion body = NEXUS__REMOVE_REGION__INIT;
    int r = FP("pod.update.before_release");

    if (r < 0)
        return r;
    body.key = region->key;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_REGION;
    m.remove_region = &body;
    r = vmm_client_call(s->client, &m, NULL, 0, 0, on_removed, region, &region->call, NULL);
    return r < 0 ? r : FP("pod.update.after_release");
}

void regions_sweep(struct sandbox *s)
{
    struct region *r;
    unsigned removals = 0;

    if (!s->client || s->hello_pending || s->vm_ended)
        return;
    list_foreach (r, &s->regions, node)
        removals += r->call != NULL;
    list_foreach (r, &s->regions, node) {
        if (r->call || is_wanted(s, r))
            continue;
        if (removals >= REMOVALS_MAX)
            break;
        if (send_removal(r) < 0)
            sweep_later(s);
        removals++;
    }
}

/* ---- adding */

struct region_add {
    struct sandbox *sandbox;      /* borrowed */
    struct volume_layout *layout; /* borrowed */
    char *key, *what;             /* owned */
    struct vmm_call *call;        /* owned */
    size_t sent;                  /* pieces of the message that is out */
    region_add_fn fn;
    void *userdata;
};

static void add_free(struct region_add *add)
{
    vmm_call_cancel(add->call);
    free(add->key);
    free(add->what);
    free(add);
}

static int send_batch(struct region_add *add, struct error **err);

static void on_added(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct region_add *add = userdata;
    _cleanup_(error_freep) struct error *own = NULL;
    region_add_fn fn = add->fn;
    void *ud = add->userdata;

    add->call = NULL;
    if (r >= 0 && add->layout->passed < add->layout->n) {
        r = send_batch(add, &own);
        if (r >= 0)
            return;
        err = own;
    }
    add_free(add);
    fn(ud, r < 0 ? r : 0, err);
}

/* For nexus-vmm's log. The end of a long one says more than its beginning. How many: n. */
static size_t file_names(const struct region_add *add, size_t n, char **ret)
{
    for (size_t i = 0; i < n; i++) {
        _cleanup_(freep) char *name =
            volume_file_name(add->sandbox, add->layout->pieces[add->layout->passed + i].path);
        size_t len = strlen(name);

        ret[i] =
            printable(len <= FILE_NAME_MAX ? str_dup(name)
                                           : str_printf("...%s", name + len - FILE_NAME_MAX + 3));
    }
    return n;
}

static int send_batch(struct region_add *add, struct error **err)
{
    struct sandbox *s = add->sandbox;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__AddRegion body = NEXUS__ADD_REGION__INIT;
    int fds[FDPASS_MAX];
    uint64_t bytes[FDPASS_MAX];
    char *names[FDPASS_MAX];
    size_t n = volume_layout_batch(add->layout, FDPASS_MAX, fds, bytes);
    int r;

    if (!s->client || s->hello_pending)
        return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN,
                               "nexus-vmm of sandbox %s is not connected at the moment", s->id);
    body.key = add->key;
    body.what = add->what;
    body.segment_bytes = bytes;
    body.n_segment_bytes = n;
    body.more = add->layout->passed + n < add->layout->n;
    body.segment_names = names;
    body.n_segment_names = file_names(add, n, names);
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_ADD_REGION;
    m.add_region = &body;
    r = vmm_client_call(s->client, &m, fds, n, REQUEST_TIMEOUT_MS, on_added, add, &add->call, err);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    if (r >= 0)
        volume_layout_drop(add->layout, n);
    return r;
}

int region_add(struct sandbox *s, const char *key, const char *what, struct volume_layout *layout,
               region_add_fn fn, void *userdata, struct region_add **ret, struct error **err)
{
    struct region_add *add = xcalloc(1, sizeof(*add));
    struct region *region = add_entry(s, key, what);
    int r;

    region->bytes = layout->pages * 4096;
    region->adding = true;
    add->sandbox = s;
    add->layout = layout;
    add->key = str_dup(key);
    add->what = short_what(what);
    add->fn = fn;
    add->userdata = userdata;
    r = send_batch(add, err);
    if (r < 0) {
        drop_entry(region);
        add_free(add);
        return r;
    }
    *ret = add;
    return 0;
}

void region_add_cancel(struct region_add *add)
{
    if (add)
        add_free(add);
}

void region_named(struct sandbox *s, const char *key)
{
    struct region *r = key ? find(s, key) : NULL;

    if (r)
        r->adding = false;
}
