/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "erofs/format.h"
#include "pull/data-writer.h"

#define READ_BYTES (256U << 10)
#define INDEX_FLUSH_BYTES (1U << 20)

struct convert {
    struct source *plain; /* borrowed */
    struct error **err;   /* of the whole; set by the stage that fails first */
    int r;                /* the result that belongs to *err when plain failed inside libarchive */
    bool plain_end;
    uint8_t *buf; /* owned, READ_BYTES */
    struct archive *tar;
    struct data_writer data;
    int index_fd;
    struct buf index; /* not yet written */
    struct buf xattrs;
    uint64_t next_block;
    struct layer_info info;
};

static la_ssize_t on_read(struct archive *a, void *userdata, const void **ret)
{
    struct convert *c = userdata;
    ssize_t n = c->plain->read(c->plain, c->buf, READ_BYTES, c->err);

    if (n < 0) {
        c->r = (int)n;
        archive_set_error(a, EIO, "the stream failed");
        return -1;
    }
    c->plain_end = n == 0;
    c->info.unpacked_bytes += (uint64_t)n;
    *ret = c->buf;
    return n;
}

/* libarchive says what is wrong with the tar; but a failed stream has said it already. */
static int tar_error(struct convert *c)
{
    const char *text = archive_error_string(c->tar);

    if (c->r < 0)
        return c->r;
    if (archive_errno(c->tar) == ENOMEM)
        return error_set(c->err, -ENOMEM, "the layer's tar needs too much memory");
    return error_set(c->err, -EBADMSG, "the layer's tar is damaged: %.200s",
                     text ? text : "unknown");
}

static int refuse(struct convert *c, int r, const char *path, const char *why)
{
    size_t n = strnlen(path, 200);
    _cleanup_(freep) char *shown = str_ndup(path, n);

    return error_set_class(c->err, r == -E2BIG ? ERROR_EXHAUSTED : ERROR_INVALID, r,
                           "the layer's member '%s' %s",
                           str_is_clean(shown, n) ? shown : "(unprintable)", why);
}

static int flush_index(struct convert *c)
{
    int r;

    c->info.checksum = crc32c_update(c->info.checksum, c->index.data, c->index.used);
    c->info.index_bytes += c->index.used;
    r = write_full(c->index_fd, c->index.data, c->index.used);
    buf_clear(&c->index);
    return r < 0 ? error_set(c->err, r, "cannot write the layer's index: %s", strerror(-r)) : 0;
}

static int read_xattrs(struct convert *c, struct archive_entry *ae, struct erofs_entry *e)
{
    const char *name;
    const void *value;
    size_t len;

    buf_clear(&c->xattrs);
    (void)archive_entry_xattr_reset(ae);
    while (archive_entry_xattr_next(ae, &name, &value, &len) == ARCHIVE_OK) {
        int r = name ? erofs_xattr_append(&c->xattrs, name, value, len) : 0;

        if (r == -E2BIG)
            return refuse(c, r, e->path, "has too large extended attributes");
        if (r < 0)
            return refuse(c, r, e->path, "has an extended attribute without a name");
    }
    e->xattrs = c->xattrs.data;
    e->xattrs_len = c->xattrs.used;
    return 0;
}

static int read_owner(struct convert *c, struct archive_entry *ae, struct erofs_entry *e)
{
    la_int64_t uid = archive_entry_uid(ae), gid = archive_entry_gid(ae);
    long ns = archive_entry_mtime_nsec(ae);

    if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
        return refuse(c, -EINVAL, e->path, "has an impossible owner");
    e->uid = (uint32_t)uid;
    e->gid = (uint32_t)gid;
    if (archive_entry_mtime_is_set(ae)) {
        e->mtime_s = archive_entry_mtime(ae);
        e->mtime_ns = ns >= 0 && ns < 1000000000L ? (uint32_t)ns : 0;
    }
    return 0;
}

/* Contents go where the index will say they are. */
static int read_data(struct convert *c, const struct erofs_entry *e)
{
    uint64_t start = e->block * EROFS_BLOCK;

    for (;;) {
        const void *bytes;
        la_int64_t offset;
        size_t len;
        int r = archive_read_data_block(c->tar, &bytes, &len, &offset);

        if (r == ARCHIVE_EOF)
            return 0;
        if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
            return tar_error(c);
        if (len == 0)
            continue;
        if (offset < 0 || !range_within((uint64_t)offset, len, e->size))
            return refuse(c, -EBADMSG, e->path, "has data outside its size");
        r = data_writer_put(&c->data, start + (uint64_t)offset, bytes, len);
        if (r == -EINVAL)
            return refuse(c, -EBADMSG, e->path, "has overlapping sparse segments");
        if (r < 0)
            return error_set(c->err, r, "cannot write the layer's data: %s", strerror(-r));
    }
}

static int read_file(struct convert *c, struct archive_entry *ae, struct erofs_entry *e)
{
    la_int64_t size = archive_entry_size(ae);
    uint64_t blocks;

    if (!archive_entry_size_is_set(ae) || size < 0)
        return refuse(c, -EBADMSG, e->path, "has no valid size");
    if (archive_entry_sparse_count(ae) > LIMIT_LAYER_SPARSE_SEGMENTS)
        return refuse(c, -E2BIG, e->path, "has too many sparse segments");
    blocks = (uint64_t)size / EROFS_BLOCK + ((uint64_t)size % EROFS_BLOCK > 0);
    if (c->next_block + blocks > LIMIT_LAYER_UNPACKED_BYTES / EROFS_BLOCK)
        return error_set(c->err, -E2BIG, "the layer's files are larger than %llu bytes",
                         LIMIT_LAYER_UNPACKED_BYTES);
    e->size = (uint64_t)size;
    e->block = blocks ? c->next_block : 0;
    c->next_block += blocks;
    return blocks ? read_data(c, e) : 0;
}

static int read_member(struct convert *c, struct archive_entry *ae, struct erofs_entry *e)
{
    const char *hardlink = archive_entry_hardlink(ae);
    int r;

    e->path = archive_entry_pathname(ae);
    if (!e->path)
        return error_set(c->err, -EBADMSG, "a member of the layer has no readable name");
    if (strnlen(e->path, EROFS_PATH_MAX + 1) > EROFS_PATH_MAX)
        return refuse(c, -ENAMETOOLONG, e->path, "has too long a name");
    if (hardlink) { /* data behind it, if any, is skipped */
        e->hardlink = true;
        e->link = hardlink;
        return strnlen(hardlink, EROFS_PATH_MAX + 1) > EROFS_PATH_MAX
                   ? refuse(c, -ENAMETOOLONG, e->path, "has too long a link")
                   : 0;
    }
    e->mode = (uint32_t)archive_entry_filetype(ae) | (archive_entry_perm(ae) & 07777);
    if (S_ISLNK(e->mode)) {
        e->link = archive_entry_symlink(ae);
        if (!e->link || !*e->link || strnlen(e->link, EROFS_PATH_MAX + 1) > EROFS_PATH_MAX)
            return refuse(c, -EINVAL, e->path, "is a symlink without a usable target");
    }
    if (S_ISCHR(e->mode) || S_ISBLK(e->mode))
        e->rdev = erofs_rdev((uint32_t)archive_entry_rdevmajor(ae) & 0xfff,
                             (uint32_t)archive_entry_rdevminor(ae) & 0xfffff);
    r = read_owner(c, ae, e);
    if (r == 0)
        r = read_xattrs(c, ae, e);
    if (r == 0 && S_ISREG(e->mode))
        r = read_file(c, ae, e);
    return r;
}

static int convert_members(struct convert *c)
{
    struct archive_entry *ae;
    int r;

    while ((r = archive_read_next_header(c->tar, &ae)) != ARCHIVE_EOF) {
        struct erofs_entry e = {0};

        if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
            return tar_error(c);
        if (++c->info.entries > LIMIT_LAYER_ENTRIES)
            return error_set(c->err, -E2BIG, "the layer has more than %d members",
                             LIMIT_LAYER_ENTRIES);
        r = read_member(c, ae, &e);
        if (r < 0)
            return r;
        r = layer_index_append(&c->index, &e);
        if (r < 0)
            return refuse(c, r, e.path, "cannot be indexed");
        if (c->index.used >= INDEX_FLUSH_BYTES) {
            r = flush_index(c);
            if (r < 0)
                return r;
        }
    }
    return c->r;
}

/* What follows the end marker belongs to the digest. */
static int drain(struct convert *c)
{
    ssize_t n = c->plain_end ? 0 : 1;

    while (n > 0) {
        n = c->plain->read(c->plain, c->buf, READ_BYTES, c->err);
        if (n > 0)
            c->info.unpacked_bytes += (uint64_t)n;
    }
    return (int)n;
}

static int convert(struct convert *c)
{
    static const uint8_t placeholder[LAYER_INDEX_HEADER];
    int r;

    if (archive_read_support_format_tar(c->tar) != ARCHIVE_OK ||
        archive_read_support_format_empty(c->tar) != ARCHIVE_OK)
        return error_set(c->err, -ENOMEM, "cannot set up the tar reader");
    r = write_full(c->index_fd, placeholder, sizeof(placeholder));
    if (r < 0)
        return error_set(c->err, r, "cannot write the layer's index: %s", strerror(-r));
    if (archive_read_open(c->tar, c, NULL, on_read, NULL) != ARCHIVE_OK)
        return tar_error(c);
    r = convert_members(c);
    if (r == 0)
        r = drain(c);
    if (r == 0)
        r = flush_index(c);
    if (r < 0)
        return r;
    c->info.checksum = ~c->info.checksum;
    c->info.data_bytes = c->next_block * EROFS_BLOCK;
    r = data_writer_end(&c->data, c->info.data_bytes);
    return r < 0 ? error_set(c->err, r, "cannot write the layer's data: %s", strerror(-r)) : 0;
}

int layer_convert(struct source *plain, int data_fd, int index_fd, struct layer_info *ret,
                  struct error **err)
{
    struct error *own = NULL; /* whether err is NULL must not matter */
    struct convert c = {.plain = plain, .err = &own, .index_fd = index_fd};
    int r;

    c.info.checksum = ~0U;
    buf_init(&c.index, INDEX_FLUSH_BYTES * 2);
    buf_init(&c.xattrs, EROFS_XATTRS_MAX);
    c.buf = malloc(READ_BYTES);
    c.tar = archive_read_new();
    r = data_writer_init(&c.data, data_fd);
    if (r < 0 || !c.buf || !c.tar)
        r = error_set(c.err, -ENOMEM, "out of memory");
    else
        r = convert(&c);
    (void)archive_read_free(c.tar);
    data_writer_done(&c.data);
    buf_done(&c.index);
    buf_done(&c.xattrs);
    free(c.buf);
    if (r == 0)
        *ret = c.info;
    if (err && !*err)
        *err = TAKE(own);
    error_free(own);
    return r;
}

int layer_finish_index(int index_fd, const struct layer_info *info, struct error **err)
{
    uint8_t header[LAYER_INDEX_HEADER];
    ssize_t n;

    layer_index_header(info, header);
    n = pwrite(index_fd, header, sizeof(header), 0);
    if (n != (ssize_t)sizeof(header))
        return error_set(err, n < 0 ? -errno : -EIO, "cannot write the layer's index: %s",
                         strerror(n < 0 ? errno : EIO));
    return 0;
}
