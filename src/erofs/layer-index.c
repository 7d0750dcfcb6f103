/* SPDX-License-Identifier: Apache-2.0 */
#include "erofs/layer-index.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"

static const char magic[8] = {'N', 'X', 'L', 'A', 'Y', 'E', 'R', '\n'};

struct header {
    char magic[8];
    le32 version;
    le32 checksum;
    le64 entries;
    le64 data_bytes;
    le64 index_bytes;
    le64 unpacked_bytes;
    le64 compressed_bytes;
    char diff_id[64];
    char data_sha256[64];
    uint8_t reserved[4];
    le32 header_checksum; /* of the bytes before it: all of them */
};
static_assert(sizeof(struct header) == LAYER_INDEX_HEADER, "header");

#define MEMBER_HARDLINK 0x1U
#define MEMBER_LINK 0x2U /* a link string follows the path */

/* Followed by path NUL, link NUL (if any), xattrs. Unaligned. */
struct member {
    le32 flags;
    le32 mode, uid, gid;
    le64 mtime_s;
    le32 mtime_ns;
    le32 rdev;
    le64 size;
    le64 block;
    le16 path_len, link_len; /* without the NUL */
    le32 xattrs_len;
};
static_assert(sizeof(struct member) == 56, "member");

int layer_index_append(struct buf *out, const struct erofs_entry *e)
{
    size_t path = strnlen(e->path, EROFS_PATH_MAX + 1);
    size_t link = e->link ? strnlen(e->link, EROFS_PATH_MAX + 1) : 0;
    struct member m = {
        .flags = le32_of((e->hardlink ? MEMBER_HARDLINK : 0) | (e->link ? MEMBER_LINK : 0)),
        .mode = le32_of(e->mode),
        .uid = le32_of(e->uid),
        .gid = le32_of(e->gid),
        .mtime_s = le64_of((uint64_t)e->mtime_s),
        .mtime_ns = le32_of(e->mtime_ns),
        .rdev = le32_of(e->rdev),
        .size = le64_of(e->size),
        .block = le64_of(e->block),
        .path_len = le16_of((uint16_t)path),
        .link_len = le16_of((uint16_t)link),
        .xattrs_len = le32_of((uint32_t)e->xattrs_len),
    };
    size_t total = sizeof(m) + path + 1 + (e->link ? link + 1 : 0) + e->xattrs_len;
    uint8_t *p;

    if (path > EROFS_PATH_MAX || link > EROFS_PATH_MAX || e->xattrs_len > EROFS_XATTRS_MAX)
        return -EINVAL;
    p = buf_reserve(out, total);
    if (!p)
        return out->max - out->used < total ? -EMSGSIZE : -ENOMEM;
    memcpy(p, &m, sizeof(m));
    memcpy(p + sizeof(m), e->path, path + 1);
    if (e->link)
        memcpy(p + sizeof(m) + path + 1, e->link, link + 1);
    if (e->xattrs_len)
        memcpy(p + total - e->xattrs_len, e->xattrs, e->xattrs_len);
    out->used += total;
    return 0;
}

void layer_index_header(const struct layer_info *info, uint8_t out[LAYER_INDEX_HEADER])
{
    struct header h = {
        .version = le32_of(LAYER_INDEX_VERSION),
        .checksum = le32_of(info->checksum),
        .entries = le64_of(info->entries),
        .data_bytes = le64_of(info->data_bytes),
        .index_bytes = le64_of(info->index_bytes),
        .unpacked_bytes = le64_of(info->unpacked_bytes),
        .compressed_bytes = le64_of(info->compressed_bytes),
    };

    memcpy(h.magic, magic, sizeof(magic));
    memcpy(h.diff_id, info->diff_id, sizeof(h.diff_id));
    memcpy(h.data_sha256, info->data_sha256, sizeof(h.data_sha256));
    h.header_checksum = le32_of(~crc32c_update(~0U, &h, offsetof(struct header, header_checksum)));
    memcpy(out, &h, sizeof(h));
}

int layer_index_read_header(const uint8_t bytes[LAYER_INDEX_HEADER], struct layer_info *ret)
{
    struct header h;

    memcpy(&h, bytes, sizeof(h));
    if (memcmp(h.magic, magic, sizeof(magic)) != 0)
        return -EBADMSG;
    if (le32_get(h.version) != LAYER_INDEX_VERSION)
        return -EPROTONOSUPPORT;
    if (le32_get(h.header_checksum) !=
            ~crc32c_update(~0U, &h, offsetof(struct header, header_checksum)) ||
        le64_get(h.data_bytes) % 4096)
        return -EBADMSG;
    *ret = (struct layer_info){
        .entries = le64_get(h.entries),
        .data_bytes = le64_get(h.data_bytes),
        .index_bytes = le64_get(h.index_bytes),
        .unpacked_bytes = le64_get(h.unpacked_bytes),
        .compressed_bytes = le64_get(h.compressed_bytes),
        .checksum = le32_get(h.checksum),
    };
    memcpy(ret->diff_id, h.diff_id, sizeof(h.diff_id));
    memcpy(ret->data_sha256, h.data_sha256, sizeof(h.data_sha256));
    return 0;
}

int layer_index_open(const uint8_t *bytes, size_t len, struct layer_info *ret_info,
                     struct layer_reader *ret_reader)
{
    struct layer_info info;
    int r = len < LAYER_INDEX_HEADER ? -EBADMSG : layer_index_read_header(bytes, &info);

    if (r < 0)
        return r;
    if (info.index_bytes != len - LAYER_INDEX_HEADER ||
        info.checksum != ~crc32c_update(~0U, bytes + LAYER_INDEX_HEADER, len - LAYER_INDEX_HEADER))
        return -EBADMSG;
    if (ret_info)
        *ret_info = info;
    if (ret_reader)
        *ret_reader = (struct layer_reader){
            .at = bytes + LAYER_INDEX_HEADER, .end = bytes + len, .left = info.entries};
    return 0;
}

/* A string of len bytes and its NUL at *at. NULL: it is not there, or has a NUL inside. */
static const char *take_string(struct layer_reader *r, size_t len)
{
    const char *s = (const char *)r->at;

    if ((size_t)(r->end - r->at) <= len || strnlen(s, len + 1) != len)
        return NULL;
    r->at += len + 1;
    return s;
}

int layer_index_next(struct layer_reader *r, struct erofs_entry *ret)
{
    struct member m;
    uint32_t flags;

    if (r->left == 0)
        return r->at == r->end ? 0 : -EBADMSG;
    if ((size_t)(r->end - r->at) < sizeof(m))
        return -EBADMSG;
    memcpy(&m, r->at, sizeof(m));
    r->at += sizeof(m);
    flags = le32_get(m.flags);
    *ret = (struct erofs_entry){
        .hardlink = flags & MEMBER_HARDLINK,
        .mode = le32_get(m.mode),
        .uid = le32_get(m.uid),
        .gid = le32_get(m.gid),
        .mtime_s = (int64_t)le64_get(m.mtime_s),
        .mtime_ns = le32_get(m.mtime_ns),
        .rdev = le32_get(m.rdev),
        .size = le64_get(m.size),
        .block = le64_get(m.block),
        .xattrs_len = le32_get(m.xattrs_len),
    };
    if (flags & ~(MEMBER_HARDLINK | MEMBER_LINK))
        return -EBADMSG;
    ret->path = take_string(r, le16_get(m.path_len));
    if (ret->path && (flags & MEMBER_LINK))
        ret->link = take_string(r, le16_get(m.link_len));
    if (!ret->path || ((flags & MEMBER_LINK) && !ret->link) ||
        (size_t)(r->end - r->at) < ret->xattrs_len)
        return -EBADMSG;
    ret->xattrs = ret->xattrs_len ? r->at : NULL;
    r->at += ret->xattrs_len;
    r->left--;
    return 1;
}
