/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of image records. Memory changes first where that shows less (an image that goes), and last
 * where it shows more (an image that comes): what is listed is durable. The disk decides later, and a
 * failure takes the change back. */
#include <string.h>

#include "base/failpoint.h"
#include "base/log.h"
#include "base/str.h"
#include "image/image-internal.h"

struct image_write *image_write_new(struct image_store *s, struct image_entry *e)
{
    struct image_write *w = xcalloc(1, sizeof(*w));

    w->store = s;
    w->entry = e;
    list_append(&s->writes, &w->node);
    return w;
}

static void write_free(struct image_write *w)
{
    list_remove(&w->node);
    side_job_cancel(w->job);
    store_forget(w->op);
    free(w->new_tag);
    free(w->new_digest);
    strv_free(w->old_tags);
    strv_free(w->old_digests);
    free(w);
}

void image_writes_end(struct image_store *s)
{
    while (!list_is_empty(&s->writes)) {
        struct image_write *w = list_first(&s->writes, struct image_write, node);

        if (w->added) /* it frees what it waits with */
            w->added(-ECANCELED, NULL, NULL, w->userdata);
        write_free(w);
    }
}

void image_remove_forget(struct image_write *w)
{
    if (w)
        w->removed = NULL;
}

static int put(struct image_store *s, const struct image_entry *e, unsigned flags,
               store_done_fn done, struct image_write *w, struct error **err)
{
    json_t *doc = image_entry_to_json(e);
    int r = doc ? 0 : error_set(err, -ENOMEM, "image record: out of memory");

    if (r == 0)
        r = store_put(s->records, e->digest.hex, doc, flags, done, w, w ? &w->op : NULL, err);
    json_decref(doc);
    return r;
}

void image_save_soon(struct image_store *s, const struct image_entry *e)
{
    (void)put(s, e, STORE_OWED, NULL, NULL, NULL);
}

/* ---- an image that goes */

static void tell_removed(struct image_write *w, int r, const struct error *err)
{
    image_removed_fn done = w->removed;
    void *userdata = w->userdata;

    write_free(w);
    if (done)
        done(r, err, userdata);
}

/* The record first: without it the files are orphans, never the other way round. */
static void on_purged(void *userdata, int r, const struct error *err)
{
    struct image_write *w = userdata;
    struct image_store *s = w->store;
    struct image_entry *e = w->entry;

    w->op = NULL;
    if (r >= 0)
        (void)FP("image.purged"); /* for kills: from here on the files are orphans */
    if (r < 0 && w->was_removed)
        log_warning("%s; the next start will", error_text(err, r));
    else if (r < 0)
        e->pub.removed = false;
    else if (e->pub.removed && e->refs == 0) { /* nobody came back to it */
        image_take_out(s, e);
        image_drop_files(s, e);
        image_entry_free(e);
        w->entry = NULL;
        w->walk = image_collect(s);
    }
    if (!w->walk)
        tell_removed(w, r, err);
}

void image_writes_walked(struct image_store *s)
{
    struct image_write *w, *tmp;

    list_foreach_safe (w, tmp, &s->writes, node)
        if (w->walk && w->walk <= s->walk_number)
            tell_removed(w, 0, NULL);
}

/* ---- its layers are aged first */

struct aging {
    struct image_dirs dirs; /* owned */
    char **layers;          /* owned */
};

static int age(void *payload, struct error **err)
{
    const struct aging *a = payload;

    image_files_age(&a->dirs, a->layers);
    return 0;
}

static void aging_free(void *payload)
{
    struct aging *a = payload;

    image_dirs_done(&a->dirs);
    strv_free(a->layers);
    free(a);
}

static void on_aged(void *userdata, void *payload, int r, const struct error *err)
{
    struct image_write *w = userdata;
    struct image_entry *e = w->entry;
    _cleanup_(error_freep) struct error *own = NULL;

    w->job = NULL;
    if (r >= 0 && (!e->pub.removed || e->refs)) { /* somebody has come back to it */
        tell_removed(w, 0, NULL);
        return;
    }
    if (r >= 0) {
        r = store_delete(w->store->records, e->digest.hex, on_purged, w, &w->op, &own);
        err = own;
    }
    if (r >= 0)
        return;
    e->pub.removed = w->was_removed;
    tell_removed(w, r, err);
}

static int start_aging(struct image_write *w, struct error **err)
{
    static const struct side_job_ops ops = {age, on_aged, aging_free};
    const struct image_entry *e = w->entry;
    struct aging *a = xcalloc(1, sizeof(*a));
    int r = image_dirs_dup(&w->store->dirs, &a->dirs, err);

    if (r < 0) {
        free(a);
        return r;
    }
    for (size_t i = 0; i < e->n_layers; i++)
        strv_push(&a->layers, e->layers[i].diff_id.hex);
    return side_job_start(w->store->worker, &ops, a, "removing an image", IMAGE_JOB_MS, w, &w->job,
                          err);
}

/* Two at once would free it twice. */
static bool is_purged_already(const struct image_store *s, const struct image_entry *e)
{
    const struct image_write *w;

    list_foreach (w, &s->writes, node)
        if (w->entry == e && w->is_purge)
            return true;
    return false;
}

int image_purge(struct image_store *s, struct image_entry *e, image_removed_fn done, void *userdata,
                struct image_write **ret, struct error **err)
{
    struct image_write *w;
    int r;

    if (is_purged_already(s, e))
        return 0;
    w = image_write_new(s, e);
    w->is_purge = true;
    w->removed = done;
    w->userdata = userdata;
    w->was_removed = e->pub.removed;
    r = start_aging(w, err);
    if (r < 0) {
        write_free(w);
        return r;
    }
    e->pub.removed = true;
    if (ret)
        *ret = w;
    return 1;
}

static void on_hidden(void *userdata, int r, const struct error *err)
{
    struct image_write *w = userdata;
    struct image_store *s = w->store;
    struct image_entry *e = w->entry;

    w->op = NULL;
    if (r < 0 && e->pub.removed && !e->pub.repo_digests) {
        e->pub.removed = false;
        e->pub.repo_tags = TAKE(w->old_tags);
        e->pub.repo_digests = TAKE(w->old_digests);
    }
    tell_removed(w, r, err);
    image_unref(s, &e->pub);
}

int image_hide(struct image_store *s, struct image_entry *e, image_removed_fn done, void *userdata,
               struct image_write **ret, struct error **err)
{
    struct image_write *w = image_write_new(s, e);
    int r;

    w->removed = done;
    w->userdata = userdata;
    w->old_tags = TAKE(e->pub.repo_tags);
    w->old_digests = TAKE(e->pub.repo_digests);
    e->pub.removed = true;
    r = put(s, e, STORE_OWED, on_hidden, w, err);
    if (r < 0) {
        e->pub.removed = false;
        e->pub.repo_tags = TAKE(w->old_tags);
        e->pub.repo_digests = TAKE(w->old_digests);
        write_free(w);
        return r;
    }
    e->refs++;
    *ret = w;
    return 1;
}

/* ---- an image that comes */

static void take_back(struct image_write *w)
{
    struct image_entry *e = w->entry;

    if (w->new_tag)
        image_names_remove(e->pub.repo_tags, w->new_tag);
    if (w->new_digest)
        image_names_remove(e->pub.repo_digests, w->new_digest);
    e->pub.pulled_at_ns = w->was_pulled_ns;
    e->pub.removed = w->was_removed;
}

static void on_added(void *userdata, int r, const struct error *err)
{
    struct image_write *w = userdata;
    struct image_store *s = w->store;
    struct image_entry *e = w->entry;

    w->op = NULL;
    if (r < 0) {
        take_back(w);
    } else {
        e->pub.removed = false;
        if (w->new_tag)
            image_take_tag_from_others(s, e, w->new_tag);
    }
    w->added(r, err, r < 0 ? NULL : e, w->userdata);
    if (r < 0 && w->is_new && e->refs == 1) { /* it never was */
        image_take_out(s, e);
        image_drop_files(s, e);
        image_entry_free(e);
        (void)image_collect(s);
    } else {
        image_unref(s, &e->pub);
    }
    write_free(w);
}

int image_write_added(struct image_write *w, struct error **err)
{
    struct image_entry *e = w->entry;
    bool hidden = e->pub.removed;
    int r = FP("image.add");

    e->pub.removed = false; /* on disk; here when it is there */
    r = r < 0 ? error_set(err, r, "failpoint") : put(w->store, e, 0, on_added, w, err);
    if (r < 0) {
        take_back(w);
        write_free(w);
        return r;
    }
    e->refs++;
    e->pub.removed = hidden;
    return 0;
}
