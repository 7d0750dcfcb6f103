/* SPDX-License-Identifier: Apache-2.0 */
/* Walks over the image directory, in the images' thread: a directory that a pull writes to keeps who reads it
 * waiting, and giving back the blocks of a large image takes the disk's time. One walk at a time; what is
 * asked for meanwhile is done by the next one. */
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "oci/image-dir.h"

int image_walk_new(const struct image_store *s, const char *tag, struct image_walk **ret,
                   struct error **err)
{
    struct image_walk *w = xcalloc(1, sizeof(*w));
    int r = image_dirs_dup(&s->dirs, &w->dirs, err);

    if (r < 0) {
        free(w);
        return r;
    }
    w->temporaries = tag ? str_printf(IMAGE_DIR_TMP_PREFIX "%s-", tag) : NULL;
    *ret = w;
    return 0;
}

void image_walk_free(struct image_walk *w)
{
    if (!w)
        return;
    image_dirs_done(&w->dirs);
    free(w->temporaries);
    strv_free(w->layers);
    strv_free(w->images);
    strv_free(w->dead);
    free(w);
}

void image_walk_collects(struct image_store *s, struct image_walk *w)
{
    w->collects = true;
    w->fresh_orphans = s->fresh_orphans;
    s->fresh_orphans = false; /* what a pull leaves from now on is the next walk's */
    w->dead = strv_dup(s->dead);
    for (size_t i = 0; i < s->n_entries; i++) {
        const struct image_entry *e = s->entries[i];

        strv_push(&w->images, e->digest.hex);
        for (size_t k = 0; k < e->n_layers; k++)
            strv_push(&w->layers, e->layers[k].diff_id.hex);
    }
}

void image_walk_counted(struct image_store *s, const struct image_walk *w)
{
    s->used_bytes = w->used_bytes;
    s->inodes_used = w->inodes;
}

/* ---- on the loop ---- */

static void begin(struct image_store *s);

static int work(void *payload, struct error **err)
{
    image_walk_run(payload);
    return 0;
}

static void forget_dead(struct image_store *s, const struct image_walk *w)
{
    for (size_t i = 0; w->dead && w->dead[i]; i++)
        image_names_remove(s->dead, w->dead[i]);
}

static void done(void *userdata, void *payload, int r, const struct error *err)
{
    struct image_store *s = userdata;
    const struct image_walk *w = payload;
    bool whole = r == 0 && !atomic_load(&w->stop);

    s->walk_job = NULL;
    if (r < 0)
        atomic_store(&s->walk->stop, true); /* it may still be at it */
    if (whole)
        image_walk_counted(s, w);
    if (whole && w->collects)
        forget_dead(s, w);
    else
        s->fresh_orphans |= s->walk->fresh_orphans;
    s->walk = NULL;
    if (r == -ECANCELED)
        return; /* nexusd ends */
    if (r < 0)
        log_warning("files of removed images: %s; the next start deletes them", error_text(err, r));
    image_writes_walked(s);
    if (!s->walk_again)
        return;
    if (image_pulls_running(s))
        s->walk_number++; /* its end asks again */
    else
        begin(s);
    if (!s->walk)
        image_writes_walked(s);
}

static void payload_free(void *payload)
{
    image_walk_free(payload);
}

static void begin(struct image_store *s)
{
    static const struct side_job_ops ops = {work, done, payload_free};
    _cleanup_(error_freep) struct error *err = NULL;
    struct image_walk *w = NULL;
    bool orphans = s->fresh_orphans;
    int r = image_walk_new(s, NULL, &w, &err);

    s->walk_again = false;
    s->walk_number++;
    if (r == 0) {
        image_walk_collects(s, w);
        r = side_job_start(s->worker, &ops, w, "deleting files of images", IMAGE_JOB_MS, s,
                           &s->walk_job, &err);
    }
    if (r == 0) {
        s->walk = w;
        return;
    }
    s->fresh_orphans = orphans;
    log_warning("%s", error_text(err, r));
}

unsigned image_collect(struct image_store *s)
{
    if (image_pulls_running(s))
        return 0; /* a file that nobody names yet may be named in a moment */
    if (!s->walk) {
        begin(s);
        return s->walk ? s->walk_number : 0;
    }
    s->walk_again = true;
    return s->walk_number + 1;
}

void image_collect_stop(struct image_store *s)
{
    if (s->walk)
        atomic_store(&s->walk->stop, true);
}

void image_collect_end(struct image_store *s)
{
    image_collect_stop(s);
    side_job_cancel(s->walk_job);
    s->walk_job = NULL;
    s->walk = NULL;
}

void image_drop_files(struct image_store *s, const struct image_entry *e)
{
    for (size_t i = 0; i < e->n_layers; i++)
        if (!strv_contains(s->dead, e->layers[i].diff_id.hex))
            strv_push(&s->dead, e->layers[i].diff_id.hex);
}
