/* SPDX-License-Identifier: Apache-2.0 */
/* Two passes over the tree: plan gives every inode its place, write emits bytes in that order.
 *
 *   block 0: superblock at 1024, inodes from 1152 (the root first: its nid has 16 bits)
 *   inode area: breadth first, so that what one directory lists lies together
 *   block area: full blocks of directories, targets of long symlinks
 *   behind it, in other files: the segments
 *
 * Inline data must not cross a block; here the whole inode with its tail stays within one, or the tail
 * gets blocks of its own. */
#include "erofs/writer.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "erofs/format.h"
#include "erofs/tree-internal.h"

#define FIRST_INODE (EROFS_SUPER_OFFSET + sizeof(struct erofs_super))
#define CHUNK_BYTES (256U << 10)
#define DIRENT sizeof(struct erofs_dirent)

/* ---- directories: the sorted list of names, "." and ".." in their places ---- */

struct name {
    const char *text;
    size_t len;
    uint32_t inode;
    uint32_t dentry; /* 0 for "." and ".." */
};

static int compare_names(const void *pa, const void *pb)
{
    const struct name *a = pa, *b = pb;
    int c = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);

    return c ? c : (a->len > b->len) - (a->len < b->len);
}

/* Children of dir in on-disk order; the caller frees. NULL without memory. */
static struct name *dir_names(const struct erofs_tree *t, uint32_t dir, size_t *ret_n)
{
    size_t n = 2;
    struct name *list;

    for (uint32_t i = t->inodes[dir].children; i; i = t->dentries[i].next)
        n++;
    list = calloc(n, sizeof(*list));
    if (!list)
        return NULL;
    list[0] = (struct name){".", 1, dir, 0};
    list[1] = (struct name){"..", 2, t->dentries[t->inodes[dir].dentry].dir, 0};
    n = 2;
    for (uint32_t i = t->inodes[dir].children; i; i = t->dentries[i].next)
        list[n++] = (struct name){(const char *)t->pool + t->dentries[i].name,
                                  t->dentries[i].name_len, t->dentries[i].inode, i};
    qsort(list, n, sizeof(*list), compare_names);
    *ret_n = n;
    return list;
}

/* How many names from `at` fill one block, and how many bytes of it they take. */
static size_t names_in_block(const struct name *list, size_t n, size_t at, size_t *ret_bytes)
{
    size_t bytes = 0, i = at;

    while (i < n && bytes + DIRENT + list[i].len <= EROFS_BLOCK)
        bytes += DIRENT + list[i++].len;
    *ret_bytes = bytes;
    return i - at;
}

static uint64_t dir_size(const struct name *list, size_t n)
{
    uint64_t size = 0;
    size_t at = 0, bytes = 0;

    while (at < n) {
        at += names_in_block(list, n, at, &bytes);
        size += at < n ? EROFS_BLOCK : bytes;
    }
    return size;
}

/* The siblings take the on-disk order; the inodes not yet listed are appended to the order. */
static void dir_settle(struct erofs_tree *t, uint32_t dir, const struct name *list, size_t n)
{
    uint32_t *link = &t->inodes[dir].children;
    uint32_t prev = 0, subdirs = 0;

    for (size_t i = 0; i < n; i++) {
        struct tree_inode *child = &t->inodes[list[i].inode];

        if (!list[i].dentry)
            continue;
        *link = list[i].dentry;
        t->dentries[list[i].dentry].prev = prev;
        prev = list[i].dentry;
        link = &t->dentries[prev].next;
        subdirs += tree_is_dir(child);
        if (!child->offset) {
            child->offset = 1; /* listed; its place comes later */
            t->order[t->n_order++] = list[i].inode;
        }
    }
    *link = 0;
    t->inodes[dir].nlink = 2 + subdirs;
    t->inodes[dir].size = dir_size(list, n);
}

/* ---- plan ---- */

static uint64_t round_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) / to * to;
}

static uint32_t xattr_bytes(const struct tree_inode *n)
{
    return n->xattrs_len ? EROFS_XATTR_BODY_HEADER + n->xattrs_len : 0;
}

/* Gives the inode its place in the inode area and its blocks in the block area (counted from 0). */
static void place_inode(struct tree_inode *n, uint64_t *pos, uint64_t *blocks)
{
    uint64_t head = sizeof(struct erofs_inode) + xattr_bytes(n), tail = 0, at;

    if (tree_is_dir(n) || S_ISLNK(n->mode))
        tail = n->size % EROFS_BLOCK;
    at = round_up(*pos, EROFS_SLOT);
    n->is_inline = tail > 0 && head + tail <= EROFS_BLOCK &&
                   (at == FIRST_INODE ? at + head + tail <= EROFS_BLOCK : true);
    if (n->is_inline) {
        if (at % EROFS_BLOCK + head + tail > EROFS_BLOCK)
            at = round_up(at, EROFS_BLOCK);
    } else if (at % EROFS_BLOCK + sizeof(struct erofs_inode) > EROFS_BLOCK) {
        at = round_up(at, EROFS_BLOCK);
    }
    n->offset = at;
    *pos = at + head + (n->is_inline ? tail : 0);
    if (tree_is_dir(n) || S_ISLNK(n->mode)) {
        n->block = *blocks;
        *blocks += n->size / EROFS_BLOCK + (tail > 0 && !n->is_inline);
    }
}

static int check_data(const struct erofs_tree *t, const struct tree_inode *n,
                      const uint64_t *segment_bytes, size_t n_segments)
{
    uint64_t start, padded;

    if (!S_ISREG(n->mode) || n->size == 0)
        return 0;
    if (n->segment >= n_segments)
        return -EINVAL;
    if (!checked_mul(n->block, EROFS_BLOCK, &start) || !align_up(n->size, EROFS_BLOCK, &padded) ||
        !range_within(start, padded, segment_bytes[n->segment]))
        return -ERANGE;
    return 0;
}

/* Lists every inode in its order; sizes of directories become known. */
static int plan_order(struct erofs_tree *t)
{
    for (uint32_t i = 1; i < t->inodes_used; i++)
        t->inodes[i].offset = 0;
    free(t->order);
    t->order = calloc(t->inodes_alive, sizeof(*t->order));
    if (!t->order)
        return -ENOMEM;
    t->order[0] = TREE_ROOT;
    t->inodes[TREE_ROOT].offset = 1;
    t->n_order = 1;
    for (uint32_t i = 0; i < t->n_order; i++) {
        uint32_t dir = t->order[i];
        struct name *list;
        size_t n;

        if (!tree_is_dir(&t->inodes[dir]))
            continue;
        list = dir_names(t, dir, &n);
        if (!list)
            return -ENOMEM;
        dir_settle(t, dir, list, n);
        free(list);
    }
    return 0;
}

static int plan_segments(struct erofs_tree *t, const uint64_t *segment_bytes, size_t n)
{
    uint64_t at = t->meta_blocks;

    for (size_t i = 0; i < n; i++) {
        if (segment_bytes[i] % EROFS_BLOCK)
            return -EINVAL;
        t->segment_base[i] = at;
        if (!checked_add(at, segment_bytes[i] / EROFS_BLOCK, &at))
            return -EFBIG;
    }
    t->total_blocks = at;
    return at < EROFS_NULL_ADDR ? 0 : -EFBIG;
}

int erofs_plan(struct erofs_tree *t, const uint64_t *segment_bytes, size_t n, uint64_t *ret_bytes)
{
    uint64_t pos = FIRST_INODE, blocks = 0;
    int r;

    if (n != t->layers)
        return -EINVAL;
    r = plan_order(t);
    for (uint32_t i = 0; r == 0 && i < t->n_order; i++) {
        struct tree_inode *node = &t->inodes[t->order[i]];

        r = check_data(t, node, segment_bytes, n);
        place_inode(node, &pos, &blocks);
    }
    if (r < 0)
        return r;
    t->inode_bytes = round_up(pos, EROFS_BLOCK);
    t->meta_blocks = t->inode_bytes / EROFS_BLOCK + blocks;
    r = plan_segments(t, segment_bytes, n);
    if (r < 0)
        return r;
    *ret_bytes = t->meta_blocks * EROFS_BLOCK;
    return 0;
}

/* ---- write ---- */

struct out {
    uint8_t *chunk; /* CHUNK_BYTES */
    size_t used;
    uint64_t pos; /* of the end of chunk in the image */
    erofs_sink_fn sink;
    void *userdata;
    int r; /* first error; nothing is written after it */
};

/* The superblock's checksum covers the rest of its block, so it is set when the block is whole. */
static void seal_super(uint8_t *first_chunk)
{
    uint8_t *super = first_chunk + EROFS_SUPER_OFFSET;

    le32_store(super + offsetof(struct erofs_super, checksum),
               crc32c_update(~0U, super, EROFS_BLOCK - EROFS_SUPER_OFFSET));
}

static void out_flush(struct out *o)
{
    if (o->r == 0 && o->used) {
        if (o->pos == o->used)
            seal_super(o->chunk);
        o->r = o->sink(o->userdata, o->chunk, o->used);
    }
    o->used = 0;
}

static void out_bytes(struct out *o, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;

    while (len) {
        size_t n = min_of(len, (size_t)CHUNK_BYTES - o->used);

        memcpy(o->chunk + o->used, p, n);
        o->used += n;
        o->pos += n;
        p += n;
        len -= n;
        if (o->used == CHUNK_BYTES)
            out_flush(o);
    }
}

static void out_zeros_to(struct out *o, uint64_t pos)
{
    static const uint8_t zeros[EROFS_BLOCK];

    while (o->pos < pos)
        out_bytes(o, zeros, (size_t)min_of(pos - o->pos, (uint64_t)sizeof(zeros)));
}

static void out_super(const struct erofs_tree *t, const uint8_t uuid[16], struct out *o)
{
    struct erofs_super s = {
        .magic = le32_of(EROFS_MAGIC),
        .feature_compat = le32_of(EROFS_COMPAT_SB_CHKSUM | EROFS_COMPAT_MTIME),
        .blkszbits = EROFS_BLOCK_BITS,
        .root_nid = le16_of(FIRST_INODE / EROFS_SLOT),
        .inos = le64_of(t->n_order),
        .blocks = le32_of((uint32_t)t->total_blocks),
    };

    memcpy(s.uuid, uuid, sizeof(s.uuid));
    out_zeros_to(o, EROFS_SUPER_OFFSET);
    out_bytes(o, &s, sizeof(s));
}

static uint8_t file_type(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return 1;
    case S_IFDIR:
        return 2;
    case S_IFCHR:
        return 3;
    case S_IFBLK:
        return 4;
    case S_IFIFO:
        return 5;
    case S_IFSOCK:
        return 6;
    case S_IFLNK:
        return 7;
    default:
        return 0;
    }
}

/* One block (or the shorter last one) of a directory: entries, then names. */
static void out_dir_block(const struct erofs_tree *t, const struct name *list, size_t n,
                          struct out *o)
{
    size_t nameoff = n * DIRENT;

    for (size_t i = 0; i < n; i++) {
        const struct tree_inode *child = &t->inodes[list[i].inode];
        struct erofs_dirent d = {.file_type = file_type(child->mode)};

        le64_store(d.nid, child->offset / EROFS_SLOT);
        le16_store(d.nameoff, (uint16_t)nameoff);
        out_bytes(o, &d, sizeof(d));
        nameoff += list[i].len;
    }
    for (size_t i = 0; i < n; i++)
        out_bytes(o, list[i].text, list[i].len);
}

/* The inline tail, or the full blocks, of a directory. */
static int out_dir(const struct erofs_tree *t, uint32_t dir, bool tail, struct out *o)
{
    const struct tree_inode *node = &t->inodes[dir];
    size_t n, at = 0, bytes;
    struct name *list = dir_names(t, dir, &n);

    if (!list)
        return -ENOMEM;
    while (at < n) {
        size_t k = names_in_block(list, n, at, &bytes);
        bool is_tail = at + k == n && node->is_inline;

        if (is_tail == tail)
            out_dir_block(t, list + at, k, o);
        if (!tail && !is_tail)
            out_zeros_to(o, round_up(o->pos, EROFS_BLOCK));
        at += k;
    }
    free(list);
    return 0;
}

static uint32_t inode_u(const struct erofs_tree *t, const struct tree_inode *n)
{
    if (S_ISREG(n->mode))
        return n->size ? (uint32_t)(t->segment_base[n->segment] + n->block) : EROFS_NULL_ADDR;
    if (tree_is_dir(n) || S_ISLNK(n->mode))
        return (uint32_t)(t->inode_bytes / EROFS_BLOCK + n->block);
    return n->rdev;
}

static void out_inode_head(const struct erofs_tree *t, uint32_t ino, const struct tree_inode *n,
                           struct out *o)
{
    uint32_t layout = n->is_inline ? EROFS_LAYOUT_INLINE : EROFS_LAYOUT_PLAIN;
    struct erofs_inode i = {
        .format = le16_of((uint16_t)(EROFS_INODE_EXTENDED | layout << 1)),
        .xattr_icount = le16_of((uint16_t)(n->xattrs_len ? 1 + n->xattrs_len / 4 : 0)),
        .mode = le16_of((uint16_t)n->mode),
        .size = le64_of(n->size),
        .u = le32_of(inode_u(t, n)),
        .ino = le32_of(ino),
        .uid = le32_of(n->uid),
        .gid = le32_of(n->gid),
        .mtime = le64_of((uint64_t)n->mtime_s),
        .mtime_nsec = le32_of(n->mtime_ns),
        .nlink = le32_of(n->nlink),
    };

    out_zeros_to(o, n->offset);
    out_bytes(o, &i, sizeof(i));
    if (n->xattrs_len) {
        static const uint8_t header[EROFS_XATTR_BODY_HEADER];

        out_bytes(o, header, sizeof(header));
        out_bytes(o, t->pool + n->xattrs, n->xattrs_len);
    }
}

static int out_inodes(const struct erofs_tree *t, struct out *o)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < t->n_order; i++) {
        const struct tree_inode *n = &t->inodes[t->order[i]];

        out_inode_head(t, i + 1, n, o);
        if (n->is_inline && tree_is_dir(n))
            r = out_dir(t, t->order[i], /* tail= */ true, o);
        else if (n->is_inline)
            out_bytes(o, t->pool + n->link, (size_t)n->size);
    }
    out_zeros_to(o, t->inode_bytes);
    return r;
}

static int out_blocks(const struct erofs_tree *t, struct out *o)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < t->n_order; i++) {
        const struct tree_inode *n = &t->inodes[t->order[i]];

        if (tree_is_dir(n) && (n->size >= EROFS_BLOCK || !n->is_inline))
            r = out_dir(t, t->order[i], /* tail= */ false, o);
        else if (S_ISLNK(n->mode) && !n->is_inline)
            out_bytes(o, t->pool + n->link, (size_t)n->size);
        out_zeros_to(o, round_up(o->pos, EROFS_BLOCK));
    }
    return r;
}

int erofs_write(struct erofs_tree *t, const uint8_t uuid[16], erofs_sink_fn sink, void *userdata)
{
    _cleanup_(freep) uint8_t *chunk = malloc(CHUNK_BYTES);
    struct out o = {.chunk = chunk, .sink = sink, .userdata = userdata};
    int r;

    if (!chunk)
        return -ENOMEM;
    out_super(t, uuid, &o);
    r = out_inodes(t, &o);
    if (r == 0)
        r = out_blocks(t, &o);
    out_flush(&o);
    return r < 0 ? r : o.r;
}
