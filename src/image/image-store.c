/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image-store.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "oci/image-dir.h"

/* ---- the sorted array ---- */

static size_t position(const struct image_store *s, const char *hex)
{
    size_t lo = 0, hi = s->n_entries;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (strcmp(s->entries[mid]->digest.hex, hex) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct image_entry *image_find(const struct image_store *s, const char *hex)
{
    size_t i = position(s, hex);

    return i < s->n_entries && strcmp(s->entries[i]->digest.hex, hex) == 0 ? s->entries[i] : NULL;
}

static void insert(struct image_store *s, struct image_entry *e)
{
    size_t i = position(s, e->digest.hex);

    s->entries = xrealloc(s->entries, s->n_entries + 1, sizeof(*s->entries));
    memmove(s->entries + i + 1, s->entries + i, (s->n_entries - i) * sizeof(*s->entries));
    s->entries[i] = e;
    s->n_entries++;
}

void image_take_out(struct image_store *s, const struct image_entry *e)
{
    size_t i = position(s, e->digest.hex);

    s->n_entries--;
    memmove(s->entries + i, s->entries + i + 1, (s->n_entries - i) * sizeof(*s->entries));
}

/* ---- records ---- */

struct loading {
    struct image_store *s;
    image_damaged_fn bad;
    void *userdata;
};

static void on_record(const char *name, const json_t *doc, void *userdata)
{
    struct loading *l = userdata;
    _cleanup_(image_entry_freep) struct image_entry *e = NULL;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = image_entry_from_json(doc, &e, &err);

    if (r == 0 && strcmp(e->digest.hex, name) != 0)
        r = error_set(&err, -EBADMSG, "the record is another image's");
    if (r == 0)
        r = image_files_check(&l->s->dirs, e, &err);
    if (r == 0) {
        insert(l->s, TAKE(e));
        return;
    }
    (void)store_delete(l->s->records, name, NULL, NULL, NULL,
                       NULL); /* the image can be pulled again */
    if (l->bad)
        l->bad(name, error_text(err, r), l->userdata);
}

static void on_damaged(const char *name, const char *reason, void *userdata)
{
    struct loading *l = userdata;

    if (l->bad)
        l->bad(name, reason, l->userdata);
}

/* ---- names ---- */

void image_names_remove(char **v, const char *name)
{
    size_t to = 0;

    for (size_t i = 0; v && v[i]; i++) {
        if (strcmp(v[i], name) == 0)
            free(v[i]);
        else
            v[to++] = v[i];
    }
    if (v)
        v[to] = NULL;
}

void image_take_tag_from_others(struct image_store *s, const struct image_entry *owner,
                                const char *tag)
{
    for (size_t i = 0; i < s->n_entries; i++) {
        struct image_entry *e = s->entries[i];

        if (e == owner || !strv_contains(e->pub.repo_tags, tag) ||
            e->pub.pulled_at_ns > owner->pub.pulled_at_ns)
            continue;
        image_names_remove(e->pub.repo_tags, tag);
        image_save_soon(s, e); /* else it is put right at the next start */
    }
}

/* After a crash between the two writes above, or a copied directory. */
static void settle_tags(struct image_store *s)
{
    for (size_t i = 0; i < s->n_entries; i++) {
        char **tags = s->entries[i]->pub.repo_tags;

        for (size_t k = 0; tags && tags[k]; k++)
            image_take_tag_from_others(s, s->entries[i], tags[k]);
    }
}

static const struct image_entry *find_by_name(const struct image_store *s, const char *text)
{
    for (size_t i = 0; i < s->n_entries; i++) {
        const struct image_entry *e = s->entries[i];

        if (!e->pub.removed &&
            (strv_contains(e->pub.repo_tags, text) || strv_contains(e->pub.repo_digests, text)))
            return e;
    }
    return NULL;
}

static struct image_entry *find_by_text(const struct image_store *s, const char *text)
{
    const char *hex = str_starts(text, OCI_DIGEST_PREFIX) ? text + strlen(OCI_DIGEST_PREFIX) : text;
    struct oci_reference ref;
    struct image_entry *e;
    char *full;

    if (oci_hex_is_valid(hex)) {
        e = image_find(s, hex);
        return e && !e->pub.removed ? e : NULL;
    }
    if (oci_reference_parse(text, &ref, NULL) < 0)
        return NULL;
    full = oci_reference_text(&ref);
    oci_reference_done(&ref);
    e = (struct image_entry *)(uintptr_t)find_by_name(s, full);
    free(full);
    return e;
}

/* ---- public ---- */

const struct image *image_lookup(const struct image_store *s, const char *text)
{
    const struct image_entry *e = find_by_text(s, text);

    return e ? &e->pub : NULL;
}

const struct image *image_next(const struct image_store *s, const struct image *after)
{
    size_t i = 0;

    if (after) {
        const char *hex = after->id + strlen(OCI_DIGEST_PREFIX);

        i = position(s, hex);
        if (i < s->n_entries && &s->entries[i]->pub == after)
            i++;
    }
    while (i < s->n_entries && s->entries[i]->pub.removed)
        i++;
    return i < s->n_entries ? &s->entries[i]->pub : NULL;
}

const struct image *image_ref(struct image_store *s, const char *id)
{
    struct image_entry *e;

    if (!str_starts(id, OCI_DIGEST_PREFIX))
        return NULL;
    e = image_find(s, id + strlen(OCI_DIGEST_PREFIX));
    if (!e)
        return NULL;
    e->refs++;
    return &e->pub;
}

void image_unref(struct image_store *s, const struct image *image)
{
    struct image_entry *e;

    if (!image)
        return;
    e = image_find(s, image->id + strlen(OCI_DIGEST_PREFIX));
    if (!e || &e->pub != image || e->refs == 0)
        abort(); /* a use that was never taken: the counts are worth nothing any more */
    e->refs--;
    if (e->refs == 0 && e->pub.removed)
        (void)image_purge(s, e, NULL, NULL, NULL,
                          NULL); /* else it is tried again at the next start */
}

int image_remove(struct image_store *s, const char *text, image_removed_fn done, void *userdata,
                 struct image_write **ret, struct error **err)
{
    struct image_entry *e = find_by_text(s, text);

    if (!e)
        return 0;
    return e->refs == 0 ? image_purge(s, e, done, userdata, ret, err)
                        : image_hide(s, e, done, userdata, ret, err);
}

void image_store_settle(struct image_store *s)
{
    for (size_t i = s->n_entries; i-- > 0;)
        if (s->entries[i]->pub.removed && s->entries[i]->refs == 0)
            (void)image_purge(s, s->entries[i], NULL, NULL, NULL, NULL);
    (void)image_collect(s);
}

/* A copy of the name if it was not there. */
static char *name_add(char ***names, const char *name)
{
    if (!name || strv_contains(*names, name))
        return NULL;
    strv_push(names, name);
    return str_dup(name);
}

/* Perhaps the image was there, or removed and still in use: it gets the new names beside its old ones. */
int image_store_add(struct image_store *s, struct image_entry *new_entry,
                    const struct oci_reference *ref, const struct oci_digest *top,
                    image_added_fn done, void *userdata, struct error **err)
{
    _cleanup_(freep) char *tag = ref->tag ? oci_reference_text(ref) : NULL;
    _cleanup_(freep) char *digested = oci_reference_with_digest(ref, top);
    struct image_entry *e = image_find(s, new_entry->digest.hex);
    bool is_new = e == NULL;
    struct image_write *w;
    int r;

    if (!is_new) { /* the same id is the same image; its metadata was written anew */
        e->meta_bytes = new_entry->meta_bytes;
        e->meta_digest = new_entry->meta_digest;
        image_entry_free(new_entry);
    } else {
        e = new_entry;
        e->pub.removed = true; /* until it is durable */
        insert(s, e);
    }
    w = image_write_new(s, e);
    w->is_new = is_new;
    w->added = done;
    w->userdata = userdata;
    w->was_removed = e->pub.removed;
    w->was_pulled_ns = e->pub.pulled_at_ns;
    w->new_tag = name_add(&e->pub.repo_tags, tag);
    w->new_digest = name_add(&e->pub.repo_digests, digested);
    e->pub.pulled_at_ns = clock_real_ns();
    r = image_write_added(w, err);
    if (r < 0 && is_new) {
        image_take_out(s, e);
        image_drop_files(s, e); /* the end of the pull collects */
        image_entry_free(e);
    }
    return r;
}

/* ---- life ---- */

static void registries_copy(struct image_store *s, const struct image_config *cfg)
{
    s->registries = xcalloc(cfg->n_registries ? cfg->n_registries : 1, sizeof(*s->registries));
    s->n_registries = cfg->n_registries;
    for (size_t i = 0; i < cfg->n_registries; i++) {
        const struct image_registry *from = &cfg->registries[i];
        char **endpoints = NULL;

        for (size_t k = 0; from->endpoints && from->endpoints[k]; k++)
            strv_push(&endpoints, from->endpoints[k]);
        s->registries[i] = *from;
        s->registries[i].host = str_dup(from->host);
        s->registries[i].endpoints = (const char *const *)endpoints;
        s->registries[i].ca_file = str_dup_or_null(from->ca_file);
    }
}

static void registries_free(struct image_store *s)
{
    for (size_t i = 0; s->registries && i < s->n_registries; i++) {
        free((char *)(uintptr_t)s->registries[i].host);
        strv_free((char **)(uintptr_t)s->registries[i].endpoints);
        free((char *)(uintptr_t)s->registries[i].ca_file);
    }
    free(s->registries);
}

static int open_subdir(int root, const char *name, struct error **err)
{
    int fd;

    if (mkdirat(root, name, 0700) < 0 && errno != EEXIST)
        return error_set(err, -errno, "cannot make %s in the image directory: %s", name,
                         strerror(errno));
    fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? error_set(err, -errno, "cannot open %s in the image directory: %s", name,
                              strerror(errno))
                  : fd;
}

static int open_dirs(struct image_store *s, struct error **err)
{
    _cleanup_(freep) char *records = str_printf("%s/" IMAGE_DIR_RECORDS, s->root);

    s->root_fd = dir_open_or_make(s->root, 0700);
    if (s->root_fd < 0)
        return error_set(err, s->root_fd, "cannot open the image directory %s: %s", s->root,
                         strerror(-s->root_fd));
    s->dirs.layers_fd = open_subdir(s->root_fd, IMAGE_DIR_LAYERS, err);
    if (s->dirs.layers_fd < 0)
        return s->dirs.layers_fd;
    s->dirs.meta_fd = open_subdir(s->root_fd, IMAGE_DIR_META, err);
    if (s->dirs.meta_fd < 0)
        return s->dirs.meta_fd;
    return store_open(records, s->queue, &s->records, err);
}

/* Before the loop runs: temporaries, orphans, and what there is. */
static int first_walk(struct image_store *s, struct error **err)
{
    _cleanup_(image_walk_freep) struct image_walk *w = NULL;
    int r = image_walk_new(s, NULL, &w, err);

    if (r < 0)
        return r;
    w->temporaries = str_dup(IMAGE_DIR_TMP_PREFIX);
    image_walk_collects(s, w);
    image_walk_run(w);
    image_walk_counted(s, w);
    return 0;
}

int image_store_open(sd_event *event, const struct image_config *cfg, image_damaged_fn bad,
                     void *userdata, struct image_store **ret, struct error **err)
{
    _cleanup_(image_store_closep) struct image_store *s = xcalloc(1, sizeof(*s));
    struct loading l = {s, bad, userdata};
    int r;

    s->event = sd_event_ref(event);
    s->queue = cfg->queue;
    s->root = str_dup(cfg->root);
    s->helper = str_dup(cfg->pull_helper);
    s->stall_ms = cfg->stall_ms ? cfg->stall_ms : 300000;
    s->retry_base_ms = cfg->retry_base_ms ? cfg->retry_base_ms : 500;
    s->low_speed_s = cfg->low_speed_s ? cfg->low_speed_s : 60;
    s->root_fd = s->dirs.layers_fd = s->dirs.meta_fd = -EBADF;
    list_init(&s->pulls);
    list_init(&s->writes);
    registries_copy(s, cfg);
    r = open_dirs(s, err);
    if (r == 0)
        r = worker_new(event, &s->worker, err);
    if (r < 0)
        return r;
    r = store_scan(s->records, on_record, on_damaged, &l, err);
    if (r < 0)
        return error_prefix(err, r, "image records");
    settle_tags(s);
    r = first_walk(s, err);
    if (r == 0)
        *ret = TAKE(s);
    return r;
}

void image_store_close(struct image_store *s)
{
    if (!s)
        return;
    if (s->pulls.next)
        image_pulls_end(s);
    if (s->writes.next)
        image_writes_end(s);
    image_collect_end(s);
    worker_free(s->worker);
    for (size_t i = 0; i < s->n_entries; i++)
        image_entry_free(s->entries[i]);
    free(s->entries);
    strv_free(s->dead);
    store_free(s->records);
    close_fd(s->root_fd);
    image_dirs_done(&s->dirs);
    registries_free(s);
    free(s->root);
    free(s->helper);
    sd_event_unref(s->event);
    free(s);
}
