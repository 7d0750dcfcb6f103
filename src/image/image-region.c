/* SPDX-License-Identifier: Apache-2.0 */
/* The files of an image, opened for the VM that maps them. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "oci/image-dir.h"

static int open_segment(int dir, const char *name, uint64_t bytes, int *ret, struct error **err)
{
    _cleanup_(closep) int fd = file_open_beneath(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    struct stat st;

    if (fd < 0)
        return error_set(err, fd, "cannot open %s: %s", name, strerror(-fd));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes)
        return error_set(err, -EBADMSG, "file %s is not what was written", name);
    *ret = TAKE_FD(fd);
    return 0;
}

struct image_segment {
    char name[IMAGE_DIR_NAME];
    bool is_meta;
};

static void add_segment(struct image_region *r, const char *hex, bool is_meta, uint64_t bytes)
{
    struct image_segment *g = &r->segments[r->n];

    (void)snprintf(g->name, sizeof(g->name), "%s%s", hex,
                   is_meta ? IMAGE_DIR_META_SUFFIX : IMAGE_DIR_DATA_SUFFIX);
    g->is_meta = is_meta;
    strv_push(&r->names, g->name);
    r->bytes[r->n] = bytes;
    r->fds[r->n++] = -EBADF;
}

int image_region_new(struct image_store *s, const struct image *image, struct image_region **ret,
                     struct error **err)
{
    const struct image_entry *e = (const struct image_entry *)image;
    _cleanup_(image_region_freep) struct image_region *r = xcalloc(1, sizeof(*r));
    int k;

    r->fds = xcalloc(e->n_layers + 1, sizeof(*r->fds));
    r->bytes = xcalloc(e->n_layers + 1, sizeof(*r->bytes));
    r->segments = xcalloc(e->n_layers + 1, sizeof(*r->segments));
    r->dirs.layers_fd = r->dirs.meta_fd = -EBADF;
    k = image_dirs_dup(&s->dirs, &r->dirs, err);
    if (k < 0)
        return k;
    add_segment(r, e->digest.hex, true, e->meta_bytes);
    for (size_t i = 0; i < e->n_layers; i++)
        if (e->layers[i].data_bytes)
            add_segment(r, e->layers[i].diff_id.hex, false, e->layers[i].data_bytes);
    *ret = TAKE(r);
    return 0;
}

int image_region_open(struct image_region *r, struct error **err)
{
    int k = FP("image.region.open");

    if (k < 0)
        return error_set(err, k, "failpoint while opening an image");
    for (size_t i = 0; i < r->n; i++) {
        const struct image_segment *g = &r->segments[i];

        k = open_segment(g->is_meta ? r->dirs.meta_fd : r->dirs.layers_fd, g->name, r->bytes[i],
                         &r->fds[i], err);
        if (k < 0)
            return k;
    }
    return 0;
}

void image_region_free(struct image_region *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n; i++)
        (void)close_fd(r->fds[i]);
    image_dirs_done(&r->dirs);
    free(r->fds);
    free(r->bytes);
    strv_free(r->names);
    free(r->segments);
    free(r);
}

void image_fs_info(const struct image_store *s, struct image_fs_info *ret)
{
    *ret = (struct image_fs_info){s->root, s->used_bytes, s->inodes_used + s->n_entries};
}
