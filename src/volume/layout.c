/* SPDX-License-Identifier: Apache-2.0 */
/* The tree of the region has one segment, the pages of all files in the order of the scans; each file
 * begins on a page. Copies take the same places in one memfd. */
#include "volume/layout.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/str.h"
#include "erofs/writer.h"

#define PAGE_BYTES 4096U
#define COPY_BYTES (256U << 10)

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* Regions are told apart by their key; a constant keeps equal volumes equal bytes. */
static const uint8_t region_uuid[16] = {'n', 'e', 'x', 'u', 's', '-', 'v', 'o', 'l', 'u', 'm', 'e'};

int volume_data_parse(const char *name)
{
    if (strcmp(name, "map") == 0)
        return VOLUME_DATA_MAP;
    return strcmp(name, "copy") == 0 ? VOLUME_DATA_COPY : -EINVAL;
}

/* ---- memfds ---- */

static int memfd_new(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd < 0 ? -errno : fd;
}

static int memfd_seal(int fd)
{
    const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

    return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}

/* ---- the tree ---- */

struct build {
    struct erofs_tree *tree;
    uint64_t next_page; /* of the segment */
    char path[EROFS_PATH_MAX + 1];
    char link[EROFS_PATH_MAX + 1];
    struct error **err;
};

static int in_region(const char *part, const char *path, char out[EROFS_PATH_MAX + 1])
{
    int n = snprintf(out, EROFS_PATH_MAX + 1, "%s%s%s", part, *path ? "/" : "", path);

    return n < 0 || n > EROFS_PATH_MAX ? -ENAMETOOLONG : 0;
}

static uint64_t pages_of(uint64_t bytes)
{
    return bytes / PAGE_BYTES + (bytes % PAGE_BYTES != 0);
}

static int add_entry(struct build *b, const struct volume_part *part, const struct volume_entry *e)
{
    struct erofs_entry out = {
        .path = b->path,
        .link = e->link,
        .mode = e->mode,
        .uid = e->uid,
        .gid = e->gid,
        .mtime_s = e->mtime_s,
        .mtime_ns = e->mtime_ns,
        .size = e->size,
        .block = b->next_page,
        .xattrs = e->xattrs,
        .xattrs_len = e->xattrs_len,
    };
    int r = in_region(part->name, e->path, b->path);

    if (r == 0 && e->same_as != VOLUME_ENTRY_FIRST) {
        out.hardlink = true;
        out.link = b->link;
        r = in_region(part->name, part->scan->entries[e->same_as].path, b->link);
    } else if (e->fd >= 0) {
        b->next_page += pages_of(e->size);
    }
    if (r == 0)
        r = erofs_tree_apply(b->tree, &out);
    return r < 0 ? error_set(b->err, r, "volume %s: %s: %s", part->name, e->path, strerror(-r)) : 0;
}

static bool name_is_good(const char *name)
{
    size_t n = strnlen(name, NAME_MAX + 1);

    return n > 0 && n <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static int check_parts(const struct volume_part *parts, size_t n, struct error **err)
{
    uint64_t bytes = 0;

    if (n > LIMIT_VOLUME_BUNDLE_PARTS)
        return error_set(err, -E2BIG, "%zu volumes in one region (limit %d)", n,
                         LIMIT_VOLUME_BUNDLE_PARTS);
    for (size_t i = 0; i < n; i++) {
        if (!name_is_good(parts[i].name))
            return error_set(err, -EINVAL, "volume %s: no name for a directory", parts[i].name);
        for (size_t k = 0; k < i; k++)
            if (strcmp(parts[i].name, parts[k].name) == 0)
                return error_set(err, -EINVAL, "volume %s: the name is used twice", parts[i].name);
        bytes += parts[i].scan->bytes;
    }
    if (bytes > LIMIT_VOLUME_BUNDLE_BYTES)
        return error_set(err, -E2BIG, "%llu bytes in the volumes of one container (limit %llu)",
                         (unsigned long long)bytes, (unsigned long long)LIMIT_VOLUME_BUNDLE_BYTES);
    return 0;
}

static int build_tree(struct build *b, const struct volume_part *parts, size_t n)
{
    int r = erofs_tree_new(LIMIT_VOLUME_BUNDLE_TREE_BYTES, LIMIT_VOLUME_BUNDLE_INODES, &b->tree);

    if (r == 0) {
        erofs_tree_ignore_whiteouts(b->tree);
        r = erofs_tree_begin_layer(b->tree);
    }
    if (r < 0)
        return error_set(b->err, r, "no memory for the volumes' metadata");
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; r == 0 && k < parts[i].scan->n; k++)
            r = add_entry(b, &parts[i], &parts[i].scan->entries[k]);
    return r;
}

static int write_to_fd(void *userdata, const void *bytes, size_t len)
{
    int r = FP("volume.metadata.write");

    return r < 0 ? r : write_full(*(const int *)userdata, bytes, len);
}

static int write_metadata(struct build *b, struct volume_piece *ret)
{
    const uint64_t segment = b->next_page * PAGE_BYTES;
    _cleanup_(closep) int fd = memfd_new("nexus-volume-metadata");
    uint64_t bytes = 0;
    int r = fd < 0 ? fd : erofs_plan(b->tree, &segment, 1, &bytes);

    if (r == 0)
        r = erofs_write(b->tree, region_uuid, write_to_fd, &fd);
    if (r == 0)
        r = memfd_seal(fd);
    if (r < 0)
        return error_set(b->err, r, "metadata of the volumes: %s", strerror(-r));
    *ret = (struct volume_piece){
        .fd = TAKE_FD(fd), .bytes = bytes, .pages = bytes / PAGE_BYTES, .path = str_dup("")};
    return 0;
}

/* ---- data ---- */

static void take_files(struct volume_layout *l, const struct volume_part *part)
{
    char path[EROFS_PATH_MAX + 1];

    for (size_t i = 0; i < part->scan->n; i++) {
        struct volume_entry *e = &part->scan->entries[i];

        if (e->fd < 0)
            continue;
        (void)in_region(part->name, e->path, path); /* it went into the tree: it fits */
        l->pieces[l->n++] = (struct volume_piece){.fd = TAKE_FD(e->fd),
                                                  .bytes = e->size,
                                                  .pages = pages_of(e->size),
                                                  .path = str_dup(path)};
    }
}

/* Exactly the bytes of the scan, or -EAGAIN. */
static int copy_bytes(int from, uint64_t bytes, int to, uint64_t at, uint8_t *chunk)
{
    uint64_t done = 0;

    while (done < bytes) {
        size_t want = (size_t)min_of(bytes - done, (uint64_t)COPY_BYTES);
        ssize_t n = pread_full(from, chunk, want, done);
        ssize_t out;

        if (n < 0)
            return (int)n;
        if ((size_t)n < want)
            return -EAGAIN;
        out = pwrite(to, chunk, want, (off_t)(at + done));
        if (out < 0)
            return -errno;
        done += (uint64_t)out;
    }
    return 0;
}

/* A file that was written between its scan and the end of its copy is a mixture. */
static bool is_unchanged(const struct volume_entry *e)
{
    struct stat st;

    return fstat(e->fd, &st) == 0 && (uint64_t)st.st_size == e->size &&
           st.st_mtim.tv_sec == e->mtime_s && (uint32_t)st.st_mtim.tv_nsec == e->mtime_ns &&
           st.st_ctim.tv_sec == e->ctime_s && (uint32_t)st.st_ctim.tv_nsec == e->ctime_ns;
}

static int copy_part(const struct volume_part *part, int to, uint64_t *page, uint8_t *chunk,
                     struct error **err)
{
    for (size_t i = 0; i < part->scan->n; i++) {
        struct volume_entry *e = &part->scan->entries[i];
        int r;

        if (e->fd < 0)
            continue;
        r = copy_bytes(e->fd, e->size, to, *page * PAGE_BYTES, chunk);
        if (r == 0 && !is_unchanged(e))
            r = -EAGAIN;
        if (r == -EAGAIN)
            return error_set(err, r, "volume %s: %s: it changed while it was copied", part->name,
                             e->path);
        if (r < 0)
            return error_set(err, r, "volume %s: %s: copying it: %s", part->name, e->path,
                             strerror(-r));
        *page += pages_of(e->size);
        e->fd = close_fd(e->fd);
    }
    return 0;
}

static int copy_files(struct volume_layout *l, const struct volume_part *parts, size_t n,
                      uint64_t pages, struct error **err)
{
    _cleanup_(closep) int fd = memfd_new("nexus-volume-data");
    _cleanup_(freep) uint8_t *chunk = malloc(COPY_BYTES);
    uint64_t page = 0;
    int r = fd < 0 ? fd : chunk ? 0 : -ENOMEM;

    if (r == 0 && ftruncate(fd, (off_t)(pages * PAGE_BYTES)) < 0)
        r = -errno;
    if (r < 0)
        return error_set(err, r, "memory for copies of the volumes: %s", strerror(-r));
    for (size_t i = 0; i < n; i++) {
        r = copy_part(&parts[i], fd, &page, chunk, err);
        if (r < 0)
            return r;
    }
    r = memfd_seal(fd);
    if (r < 0)
        return error_set(err, r, "sealing the copies of the volumes: %s", strerror(-r));
    l->pieces[l->n++] = (struct volume_piece){
        .fd = TAKE_FD(fd), .bytes = pages * PAGE_BYTES, .pages = pages, .path = str_dup("")};
    return 0;
}

/* ---- the layout ---- */

static struct volume_layout *layout_alloc(const struct volume_part *parts, size_t n)
{
    struct volume_layout *l = calloc(1, sizeof(*l));
    size_t pieces = 2;

    for (size_t i = 0; i < n; i++)
        pieces += parts[i].scan->n_fds;
    if (l)
        l->pieces = calloc(pieces, sizeof(*l->pieces));
    if (l && l->pieces)
        return l;
    free(l);
    return NULL;
}

static int layout_fill(struct volume_layout *l, struct build *b, const struct volume_part *parts,
                       size_t n, enum volume_data data)
{
    int r = build_tree(b, parts, n);

    if (r == 0)
        r = write_metadata(b, &l->pieces[0]);
    if (r < 0)
        return r;
    l->n = 1;
    l->inodes = erofs_tree_inodes(b->tree);
    l->pages = l->pieces[0].pages + b->next_page;
    if (data == VOLUME_DATA_COPY && b->next_page)
        return copy_files(l, parts, n, b->next_page, b->err);
    for (size_t i = 0; i < n; i++)
        take_files(l, &parts[i]);
    return 0;
}

int volume_layout_new(const struct volume_part *parts, size_t n, enum volume_data data,
                      struct volume_layout **ret, struct error **err)
{
    _cleanup_(volume_layout_freep) struct volume_layout *l = NULL;
    _cleanup_(freep) struct build *b = calloc(1, sizeof(*b));
    int r = check_parts(parts, n, err);

    if (r < 0)
        return r;
    l = layout_alloc(parts, n);
    if (!b || !l)
        return error_set(err, -ENOMEM, "no memory for the list of the volumes' files");
    b->err = err;
    r = layout_fill(l, b, parts, n, data);
    erofs_tree_free(b->tree);
    if (r < 0)
        return r;
    *ret = TAKE(l);
    return 0;
}

void volume_layout_free(struct volume_layout *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->n; i++) {
        l->pieces[i].fd = close_fd(l->pieces[i].fd);
        free(l->pieces[i].path);
    }
    free(l->pieces);
    free(l);
}

size_t volume_layout_batch(const struct volume_layout *l, size_t max, int *fds,
                           uint64_t *segment_bytes)
{
    size_t n = 0;

    for (; n < max && l->passed + n < l->n; n++) {
        fds[n] = l->pieces[l->passed + n].fd;
        segment_bytes[n] = l->pieces[l->passed + n].pages * PAGE_BYTES;
    }
    return n;
}

void volume_layout_drop(struct volume_layout *l, size_t n)
{
    while (n-- && l->passed < l->n) {
        l->pieces[l->passed].fd = close_fd(l->pieces[l->passed].fd);
        l->passed++;
    }
}
