/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
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

#define ORPHAN_NS (24ULL * 3600 * 1000000000)

static int check_file(int dir, const char *name, uint64_t bytes, struct error **err)
{
    struct stat st;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_set(err, -errno, "file %s: %s", name, strerror(errno));
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes)
        return error_set(err, -EBADMSG, "file %s is not what was written", name);
    return 0;
}

int image_files_check(const struct image_store *s, const struct image_entry *e, struct error **err)
{
    char name[IMAGE_DIR_NAME];
    int r;

    (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_META_SUFFIX, e->digest.hex);
    r = check_file(s->meta_fd, name, e->meta_bytes, err);
    for (size_t i = 0; r == 0 && i < e->n_layers; i++) {
        const struct image_layer *l = &e->layers[i];

        (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_DATA_SUFFIX, l->diff_id.hex);
        r = check_file(s->layers_fd, name, l->data_bytes, err);
        (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_INDEX_SUFFIX, l->diff_id.hex);
        if (r == 0)
            r = check_file(s->layers_fd, name, l->index_bytes, err);
    }
    return r;
}

/* ---- walking the two directories ---- */

typedef void (*file_fn)(struct image_store *s, int dir, const char *name, const struct stat *st,
                        void *userdata);

static void each_file(struct image_store *s, int dir, file_fn fn, void *userdata)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    struct stat st;

    if (!d) {
        close_fd(fd);
        return;
    }
    while ((e = readdir(d)))
        if (fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode))
            fn(s, dir, e->d_name, &st, userdata);
    (void)closedir(d);
}

static void sweep_one(struct image_store *s, int dir, const char *name, const struct stat *st,
                      void *userdata)
{
    if (str_starts(name, userdata))
        image_release_file(&s->going, dir, name, (uint64_t)st->st_size);
}

void image_files_sweep(struct image_store *s, const char *tag)
{
    _cleanup_(freep) char *prefix =
        tag ? str_printf(IMAGE_DIR_TMP_PREFIX "%s-", tag) : str_dup(IMAGE_DIR_TMP_PREFIX);

    each_file(s, s->layers_fd, sweep_one, prefix);
    each_file(s, s->meta_fd, sweep_one, prefix);
    image_release_end(s->event, &s->going);
}

static void count_one(struct image_store *s, int dir, const char *name, const struct stat *st,
                      void *userdata)
{
    s->used_bytes += (uint64_t)st->st_blocks * 512;
    s->inodes_used++;
}

void image_files_count(struct image_store *s)
{
    s->used_bytes = s->inodes_used = 0;
    each_file(s, s->layers_fd, count_one, NULL);
    each_file(s, s->meta_fd, count_one, NULL);
    s->inodes_used += s->n_entries; /* the records */
}

/* ---- what nobody names ---- */

static bool names_layer(const struct image_entry *e, const char *hex)
{
    for (size_t i = 0; i < e->n_layers; i++)
        if (strcmp(e->layers[i].diff_id.hex, hex) == 0)
            return true;
    return false;
}

static bool is_named(const struct image_store *s, int dir, const char *name, const char *hex)
{
    const char *rest = name + OCI_DIGEST_HEX;

    if (dir == s->meta_fd)
        return strcmp(rest, IMAGE_DIR_META_SUFFIX) == 0 && image_find(s, hex) != NULL;
    if (strcmp(rest, IMAGE_DIR_DATA_SUFFIX) != 0 && strcmp(rest, IMAGE_DIR_INDEX_SUFFIX) != 0)
        return false; /* of an older version of the formats */
    for (size_t i = 0; i < s->n_entries; i++)
        if (names_layer(s->entries[i], hex))
            return true;
    return false;
}

static void collect_one(struct image_store *s, int dir, const char *name, const struct stat *st,
                        void *userdata)
{
    uint64_t now = clock_real_ns();
    uint64_t born = (uint64_t)st->st_mtim.tv_sec * 1000000000;
    char hex[OCI_DIGEST_HEX + 1] = "";

    if (str_starts(name, IMAGE_DIR_TMP_PREFIX))
        return;
    if (strlen(name) > OCI_DIGEST_HEX)
        memcpy(hex, name, OCI_DIGEST_HEX);
    if (!oci_hex_is_valid(hex)) /* not ours */
        return;
    if (is_named(s, dir, name, hex))
        return;
    if (dir == s->meta_fd || *(const bool *)userdata || strv_contains(s->dead, hex) || now < born ||
        now - born > ORPHAN_NS)
        image_release_file(&s->going, dir, name, (uint64_t)st->st_size);
}

void image_files_collect(struct image_store *s, bool fresh_orphans)
{
    if (image_pulls_running(s))
        return; /* a file that nobody names yet may be named in a moment */
    each_file(s, s->layers_fd, collect_one, &fresh_orphans);
    each_file(s, s->meta_fd, collect_one, &fresh_orphans);
    image_release_end(s->event, &s->going);
    strv_free(s->dead);
    s->dead = NULL;
    image_files_count(s);
}

void image_files_age(const struct image_store *s, const struct image_entry *e)
{
    static const struct timespec old[2] = {{.tv_sec = 0}, {.tv_sec = 0}};
    char name[IMAGE_DIR_NAME];

    for (size_t i = 0; i < e->n_layers; i++) {
        const char *hex = e->layers[i].diff_id.hex;

        (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_DATA_SUFFIX, hex);
        (void)utimensat(s->layers_fd, name, old, AT_SYMLINK_NOFOLLOW);
        (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_INDEX_SUFFIX, hex);
        (void)utimensat(s->layers_fd, name, old, AT_SYMLINK_NOFOLLOW);
    }
}

void image_files_drop(struct image_store *s, const struct image_entry *e)
{
    for (size_t i = 0; i < e->n_layers; i++)
        if (!strv_contains(s->dead, e->layers[i].diff_id.hex))
            strv_push(&s->dead, e->layers[i].diff_id.hex);
    image_files_collect(s, /* fresh_orphans= */ false);
}

/* ---- the region ---- */

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

    r->fds = xcalloc(e->n_layers + 1, sizeof(*r->fds));
    r->bytes = xcalloc(e->n_layers + 1, sizeof(*r->bytes));
    r->segments = xcalloc(e->n_layers + 1, sizeof(*r->segments));
    r->layers_fd = fcntl(s->layers_fd, F_DUPFD_CLOEXEC, 3);
    r->meta_fd = fcntl(s->meta_fd, F_DUPFD_CLOEXEC, 3);
    if (r->layers_fd < 0 || r->meta_fd < 0)
        return error_set(err, -EMFILE, "no descriptors left for an image");
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

        k = open_segment(g->is_meta ? r->meta_fd : r->layers_fd, g->name, r->bytes[i], &r->fds[i],
                         err);
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
    (void)close_fd(r->layers_fd);
    (void)close_fd(r->meta_fd);
    free(r->fds);
    free(r->bytes);
    strv_free(r->names);
    free(r->segments);
    free(r);
}

void image_fs_info(const struct image_store *s, struct image_fs_info *ret)
{
    *ret = (struct image_fs_info){s->root, s->used_bytes, s->inodes_used};
}
