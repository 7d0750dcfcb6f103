/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at the two directories and deleting in them. Nothing here knows the store: it runs in the
 * images' thread, and on the loop only while nexusd starts or ends. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/clock.h"
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

int image_files_check(const struct image_dirs *d, const struct image_entry *e, struct error **err)
{
    char name[IMAGE_DIR_NAME];
    int r;

    (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_META_SUFFIX, e->digest.hex);
    r = check_file(d->meta_fd, name, e->meta_bytes, err);
    for (size_t i = 0; r == 0 && i < e->n_layers; i++) {
        const struct image_layer *l = &e->layers[i];

        (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_DATA_SUFFIX, l->diff_id.hex);
        r = check_file(d->layers_fd, name, l->data_bytes, err);
        (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_INDEX_SUFFIX, l->diff_id.hex);
        if (r == 0)
            r = check_file(d->layers_fd, name, l->index_bytes, err);
    }
    return r;
}

void image_files_age(const struct image_dirs *d, char *const *layers)
{
    static const struct timespec old[2] = {{.tv_sec = 0}, {.tv_sec = 0}};
    char name[IMAGE_DIR_NAME];

    for (size_t i = 0; layers && layers[i]; i++) {
        (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_DATA_SUFFIX, layers[i]);
        (void)utimensat(d->layers_fd, name, old, AT_SYMLINK_NOFOLLOW);
        (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_INDEX_SUFFIX, layers[i]);
        (void)utimensat(d->layers_fd, name, old, AT_SYMLINK_NOFOLLOW);
    }
}

/* ---- the walk ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort(char **v)
{
    if (v)
        qsort(v, strv_len(v), sizeof(*v), by_text);
}

static bool has(char **sorted, const char *hex)
{
    return sorted && bsearch(&hex, sorted, strv_len(sorted), sizeof(*sorted), by_text) != NULL;
}

static bool is_named(const struct image_walk *w, bool is_meta, const char *name, const char *hex)
{
    const char *rest = name + OCI_DIGEST_HEX;

    if (is_meta)
        return strcmp(rest, IMAGE_DIR_META_SUFFIX) == 0 && has(w->images, hex);
    if (strcmp(rest, IMAGE_DIR_DATA_SUFFIX) != 0 && strcmp(rest, IMAGE_DIR_INDEX_SUFFIX) != 0)
        return false; /* of an older version of the formats */
    return has(w->layers, hex);
}

static bool is_old(const struct stat *st)
{
    uint64_t now = clock_real_ns(), born = (uint64_t)st->st_mtim.tv_sec * 1000000000;

    return now < born || now - born > ORPHAN_NS;
}

static bool is_garbage(const struct image_walk *w, bool is_meta, const char *name,
                       const struct stat *st)
{
    char hex[OCI_DIGEST_HEX + 1] = "";

    if (str_starts(name, IMAGE_DIR_TMP_PREFIX))
        return w->temporaries && str_starts(name, w->temporaries);
    if (!w->collects || strlen(name) <= OCI_DIGEST_HEX)
        return false;
    memcpy(hex, name, OCI_DIGEST_HEX);
    if (!oci_hex_is_valid(hex) || is_named(w, is_meta, name, hex)) /* not ours; in use */
        return false;
    return is_meta || w->fresh_orphans || strv_contains(w->dead, hex) || is_old(st);
}

static void walk_dir(struct image_walk *w, bool is_meta)
{
    int dir = is_meta ? w->dirs.meta_fd : w->dirs.layers_fd;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    struct stat st;

    if (!d) {
        close_fd(fd);
        return;
    }
    while (!atomic_load(&w->stop) && (e = readdir(d))) {
        if (fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(st.st_mode))
            continue;
        if (is_garbage(w, is_meta, e->d_name, &st) && unlinkat(dir, e->d_name, 0) == 0)
            continue;
        w->used_bytes += (uint64_t)st.st_blocks * 512;
        w->inodes++;
    }
    (void)closedir(d);
}

/* Nobody but us while files without a name are deleted: each nexus-pull holds this lock shared, for it uses
 * such files. An open of its own: the lock goes with it. */
static int lock_layers(const struct image_dirs *d)
{
    int fd = openat(d->layers_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close_fd(fd);
        return -EBUSY;
    }
    return fd < 0 ? -errno : fd;
}

void image_walk_run(struct image_walk *w)
{
    _cleanup_(closep) int lock = w->collects ? lock_layers(&w->dirs) : -EBADF;

    if (lock < 0)
        w->collects = false;
    sort(w->layers);
    sort(w->images);
    walk_dir(w, false);
    walk_dir(w, true);
}

/* ---- descriptors of one's own ---- */

int image_dirs_dup(const struct image_dirs *d, struct image_dirs *ret, struct error **err)
{
    ret->layers_fd = fcntl(d->layers_fd, F_DUPFD_CLOEXEC, 3);
    ret->meta_fd = fcntl(d->meta_fd, F_DUPFD_CLOEXEC, 3);
    if (ret->layers_fd >= 0 && ret->meta_fd >= 0)
        return 0;
    image_dirs_done(ret);
    return error_set(err, -EMFILE, "no descriptors left for the image directory");
}

void image_dirs_done(struct image_dirs *d)
{
    d->layers_fd = close_fd(d->layers_fd);
    d->meta_fd = close_fd(d->meta_fd);
}
