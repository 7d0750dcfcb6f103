/* SPDX-License-Identifier: Apache-2.0 */
/* Names in, tree out. Walks are loops, never recursion: depth is the image's choice. */
#include "erofs/tree.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/str.h"
#include "erofs/format.h"
#include "erofs/tree-internal.h"

#define SYMLINKS_MAX 40
#define POOL_MAX (1U << 31)

/* ---- memory ---- */

size_t erofs_tree_memory(const struct erofs_tree *t)
{
    return (size_t)t->inodes_room * sizeof(*t->inodes) +
           (size_t)t->dentries_room * sizeof(*t->dentries) + t->pool_room +
           (size_t)t->n_buckets * sizeof(*t->buckets);
}

uint32_t erofs_tree_inodes(const struct erofs_tree *t)
{
    return t->inodes_alive;
}

/* Makes room for `more` elements behind used. */
static int grow(struct erofs_tree *t, void **array, size_t elem, uint32_t used, uint32_t *room,
                uint32_t more, uint32_t first)
{
    uint64_t want = (uint64_t)used + more, n = *room ? *room : first;
    void *p;

    if (want <= *room)
        return 0;
    while (n < want)
        n += n / 2 + 1;
    if (n > POOL_MAX || erofs_tree_memory(t) + (n - *room) * elem > t->max_bytes)
        return -E2BIG;
    p = realloc(*array, n * elem);
    if (!p)
        return -ENOMEM;
    *array = p;
    *room = (uint32_t)n;
    return 0;
}

static int pool_add(struct erofs_tree *t, const void *bytes, size_t len, uint32_t *ret)
{
    uint32_t at = (t->pool_used + 3) & ~3U;
    void *p = t->pool;
    int r = grow(t, &p, 1, at, &t->pool_room, (uint32_t)len, 4096);

    t->pool = p;
    if (r < 0)
        return r;
    memcpy(t->pool + at, bytes, len);
    t->pool_used = at + (uint32_t)len;
    *ret = at;
    return 0;
}

static int inode_new(struct erofs_tree *t, uint32_t *ret)
{
    void *p = t->inodes;
    int r;

    if (t->inodes_alive >= t->max_inodes)
        return -E2BIG;
    if (t->inodes_free) {
        *ret = t->inodes_free;
        t->inodes_free = t->inodes[*ret].nlink;
    } else {
        r = grow(t, &p, sizeof(*t->inodes), t->inodes_used, &t->inodes_room, 1, 64);
        t->inodes = p;
        if (r < 0)
            return r;
        *ret = t->inodes_used++;
    }
    memset(&t->inodes[*ret], 0, sizeof(*t->inodes));
    t->inodes_alive++;
    return 0;
}

static void inode_drop(struct erofs_tree *t, uint32_t i)
{
    struct tree_inode *n = &t->inodes[i];

    if (--n->nlink > 0)
        return;
    n->mode = 0;
    n->nlink = t->inodes_free;
    t->inodes_free = i;
    t->inodes_alive--;
}

/* ---- names ---- */

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 u128;
    u128 m = (u128)a * b;

    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint32_t name_hash(const struct erofs_tree *t, uint32_t dir, const char *name, size_t len)
{
    uint64_t h = mix(t->seed ^ dir, 0x9e3779b97f4a7c15ULL ^ len);

    while (len) {
        uint64_t word = 0;
        size_t n = len < 8 ? len : 8;

        memcpy(&word, name, n);
        h = mix(h ^ word ^ t->seed, 0xd6e8feb86659fd93ULL);
        name += n;
        len -= n;
    }
    return (uint32_t)(h ^ h >> 32);
}

static uint32_t *bucket_of(struct erofs_tree *t, uint32_t dir, const char *name, size_t len)
{
    return &t->buckets[name_hash(t, dir, name, len) & (t->n_buckets - 1)];
}

static const char *dentry_name(const struct erofs_tree *t, const struct tree_dentry *d)
{
    return (const char *)t->pool + d->name;
}

static uint32_t lookup(struct erofs_tree *t, uint32_t dir, const char *name, size_t len)
{
    uint32_t i = *bucket_of(t, dir, name, len);

    while (i) {
        const struct tree_dentry *d = &t->dentries[i];

        if (d->dir == dir && d->name_len == len && memcmp(dentry_name(t, d), name, len) == 0)
            return i;
        i = d->hash_next;
    }
    return 0;
}

static int buckets_grow(struct erofs_tree *t)
{
    uint32_t n = t->n_buckets ? t->n_buckets * 2 : 256, *b;

    if (erofs_tree_memory(t) + (size_t)(n - t->n_buckets) * sizeof(*b) > t->max_bytes)
        return -E2BIG;
    b = calloc(n, sizeof(*b));
    if (!b)
        return -ENOMEM;
    free(t->buckets);
    t->buckets = b;
    t->n_buckets = n;
    for (uint32_t i = TREE_ROOT + 1; i < t->dentries_used; i++) {
        struct tree_dentry *d = &t->dentries[i];
        uint32_t *head;

        if (!d->inode)
            continue;
        head = bucket_of(t, d->dir, dentry_name(t, d), d->name_len);
        d->hash_next = *head;
        *head = i;
    }
    return 0;
}

static int dentry_alloc(struct erofs_tree *t, uint32_t *ret)
{
    void *p = t->dentries;
    int r;

    if (t->dentries_free) {
        *ret = t->dentries_free;
        t->dentries_free = t->dentries[*ret].hash_next;
        return 0;
    }
    if (t->dentries_used >= t->n_buckets) {
        r = buckets_grow(t);
        if (r < 0)
            return r;
    }
    r = grow(t, &p, sizeof(*t->dentries), t->dentries_used, &t->dentries_room, 1, 64);
    t->dentries = p;
    if (r < 0)
        return r;
    *ret = t->dentries_used++;
    return 0;
}

/* Gives inode a name in dir; counts the link. */
static int dentry_add(struct erofs_tree *t, uint32_t dir, const char *name, size_t len,
                      uint32_t inode)
{
    struct tree_dentry *d;
    uint32_t i, at, *head;
    int r;

    r = pool_add(t, name, len, &at);
    if (r == 0)
        r = dentry_alloc(t, &i);
    if (r < 0)
        return r;
    d = &t->dentries[i];
    *d = (struct tree_dentry){.dir = dir,
                              .inode = inode,
                              .name = at,
                              .next = t->inodes[dir].children,
                              .layer = (uint16_t)t->layers,
                              .name_len = (uint8_t)len};
    if (d->next)
        t->dentries[d->next].prev = i;
    t->inodes[dir].children = i;
    head = bucket_of(t, dir, (const char *)t->pool + at, len);
    d->hash_next = *head;
    *head = i;
    t->inodes[inode].nlink++;
    if (tree_is_dir(&t->inodes[inode]))
        t->inodes[inode].dentry = i;
    return 0;
}

static void dentry_remove(struct erofs_tree *t, uint32_t i)
{
    struct tree_dentry *d = &t->dentries[i];
    uint32_t *link = bucket_of(t, d->dir, dentry_name(t, d), d->name_len);

    while (*link != i)
        link = &t->dentries[*link].hash_next;
    *link = d->hash_next;
    if (d->prev)
        t->dentries[d->prev].next = d->next;
    else
        t->inodes[d->dir].children = d->next;
    if (d->next)
        t->dentries[d->next].prev = d->prev;
    inode_drop(t, d->inode);
    d->inode = 0;
    d->hash_next = t->dentries_free;
    t->dentries_free = i;
}

/* The children of a dentry's inode, if it is a directory that has any. */
static uint32_t first_below(const struct erofs_tree *t, uint32_t i)
{
    const struct tree_inode *n = &t->inodes[t->dentries[i].inode];

    return tree_is_dir(n) ? n->children : 0;
}

/* Removes a name and everything below it. */
static void remove_tree(struct erofs_tree *t, uint32_t top)
{
    uint32_t i = top;

    for (;;) {
        uint32_t below = first_below(t, i), parent;

        if (below) {
            i = below;
            continue;
        }
        parent = t->inodes[t->dentries[i].dir].dentry;
        dentry_remove(t, i);
        if (i == top)
            return;
        i = parent;
    }
}

/* Removes what earlier layers brought, at and below top (only below it if keep_top). A directory stays
 * as long as something in it does. */
static void prune(struct erofs_tree *t, uint32_t top, bool keep_top)
{
    uint32_t i = top;
    bool up = false; /* came from below: do not go down again */

    for (;;) {
        uint32_t below = up ? 0 : first_below(t, i), next, parent;

        if (below) {
            i = below;
            continue;
        }
        next = t->dentries[i].next;
        parent = t->inodes[t->dentries[i].dir].dentry;
        if (!(i == top && keep_top) && t->dentries[i].layer < t->layers && !first_below(t, i))
            dentry_remove(t, i);
        if (i == top)
            return;
        up = next == 0;
        i = next ? next : parent;
    }
}

/* ---- paths ---- */

/* "a/./b//../c" → "a/c" into out (of WORK_BYTES), without ".." and without slashes at the ends. */
static int clean_path(const char *path, char *out)
{
    size_t used = 0;

    if (strnlen(path, EROFS_PATH_MAX + 1) > EROFS_PATH_MAX)
        return -ENAMETOOLONG;
    while (*path) {
        size_t n = strcspn(path, "/");

        if (n == 2 && path[0] == '.' && path[1] == '.') {
            while (used && out[used - 1] != '/')
                used--;
            used -= used > 0;
        } else if (n > 0 && !(n == 1 && path[0] == '.')) {
            if (n > EROFS_NAME_MAX)
                return -ENAMETOOLONG;
            if (used)
                out[used++] = '/';
            memcpy(out + used, path, n);
            used += n;
        }
        path += n + (path[n] == '/');
    }
    out[used] = '\0';
    return 0;
}

/* What is left of a path: next points into work and is moved forward, or back to its start when a
 * symlink's target is put before it. */
struct rest {
    char *work; /* WORK_BYTES */
    char *next;
};

static int expand_symlink(struct rest *rest, const char *target)
{
    size_t before = strlen(target), after = strlen(rest->next);

    if (before + 1 + after >= WORK_BYTES)
        return -ENAMETOOLONG;
    memmove(rest->work + before + 1, rest->next, after + 1);
    memcpy(rest->work, target, before);
    rest->work[before] = '/';
    rest->next = rest->work;
    return 0;
}

static int make_parent(struct erofs_tree *t, uint32_t dir, const char *name, size_t len,
                       uint32_t *ret)
{
    int r = inode_new(t, ret);

    if (r < 0)
        return r;
    t->inodes[*ret].mode = S_IFDIR | 0755;
    return dentry_add(t, dir, name, len, *ret);
}

/* One component below *dir. */
static int step(struct erofs_tree *t, uint32_t *dir, const char *name, size_t len,
                struct rest *rest, bool create, unsigned *links)
{
    const struct tree_inode *n;
    const char *target;
    uint32_t d;

    if (len == 0 || (len == 1 && name[0] == '.'))
        return 0;
    if (len == 2 && name[0] == '.' && name[1] == '.') {
        *dir = t->dentries[t->inodes[*dir].dentry].dir;
        return 0;
    }
    if (len > EROFS_NAME_MAX)
        return -ENAMETOOLONG;
    d = lookup(t, *dir, name, len);
    if (!d)
        return create ? make_parent(t, *dir, name, len, dir) : -ENOENT;
    n = &t->inodes[t->dentries[d].inode];
    if (tree_is_dir(n)) {
        *dir = t->dentries[d].inode;
        return 0;
    }
    if (!S_ISLNK(n->mode))
        return -ENOTDIR;
    if (++*links > SYMLINKS_MAX)
        return -ELOOP;
    target = (const char *)t->pool + n->link;
    if (target[0] == '/')
        *dir = TREE_ROOT;
    return expand_symlink(rest, target);
}

/* The directory that path (of WORK_BYTES, destroyed) names, symlinks followed inside the tree. */
static int walk(struct erofs_tree *t, char *path, bool create, uint32_t *ret)
{
    struct rest rest = {path, path};
    uint32_t dir = TREE_ROOT;
    unsigned links = 0;

    while (*rest.next) {
        char *name = rest.next;
        size_t n = strcspn(name, "/");
        int r;

        rest.next += n + (name[n] == '/');
        r = step(t, &dir, name, n, &rest, create, &links);
        if (r < 0)
            return r;
    }
    *ret = dir;
    return 0;
}

/* Splits a cleaned, non-empty path into its directory (in place) and last component (into base). */
static size_t split_base(char *path, char base[EROFS_NAME_MAX + 1])
{
    char *slash = strrchr(path, '/');
    const char *last = slash ? slash + 1 : path;
    size_t n = strlen(last);

    memcpy(base, last, n + 1);
    if (slash)
        *slash = '\0';
    else
        path[0] = '\0';
    return n;
}

/* ---- members ---- */

static int apply_whiteout(struct erofs_tree *t, char *dir_path, const char *base)
{
    const char *name = base + 4;
    uint32_t dir, d;
    int r;

    if (strcmp(base, ".wh..wh..opq") == 0) {
        r = walk(t, dir_path, /* create= */ true, &dir);
        if (r == 0)
            prune(t, t->inodes[dir].dentry, /* keep_top= */ true);
        return r;
    }
    if (str_starts(base, ".wh..wh."))
        return 0;
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    r = walk(t, dir_path, /* create= */ false, &dir);
    if (r == -ENOENT || r == -ENOTDIR)
        return 0; /* nothing there to hide */
    if (r < 0)
        return r;
    d = lookup(t, dir, name, strlen(name));
    if (d)
        prune(t, d, /* keep_top= */ false);
    return 0;
}

static int find_link_target(struct erofs_tree *t, const char *link, uint32_t *ret)
{
    char *path = t->work, base[EROFS_NAME_MAX + 1];
    uint32_t dir, d;
    size_t n;
    int r = clean_path(link, path);

    if (r < 0)
        return r;
    if (!*path)
        return -EPERM;
    n = split_base(path, base);
    r = walk(t, path, /* create= */ false, &dir);
    if (r < 0)
        return r;
    d = lookup(t, dir, base, n);
    if (!d)
        return -ENOENT;
    *ret = t->dentries[d].inode;
    return tree_is_dir(&t->inodes[*ret]) ? -EPERM : 0;
}

static int check_entry(const struct erofs_entry *e)
{
    if (e->hardlink)
        return e->link ? 0 : -EINVAL;
    if (e->mtime_ns >= 1000000000U || e->uid == UINT32_MAX || e->gid == UINT32_MAX ||
        (e->mode & ~(uint32_t)(S_IFMT | 07777)))
        return -EINVAL;
    if (e->xattrs_len && !erofs_xattrs_are_valid(e->xattrs, e->xattrs_len))
        return -EINVAL;
    switch (e->mode & S_IFMT) {
    case S_IFLNK:
        if (!e->link || !*e->link)
            return -EINVAL;
        return strnlen(e->link, EROFS_PATH_MAX + 1) > EROFS_PATH_MAX ? -ENAMETOOLONG : 0;
    case S_IFREG:
    case S_IFDIR:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
        return 0;
    default:
        return -EINVAL;
    }
}

/* Sets what the entry says; keeps names and children. */
static int inode_fill(struct erofs_tree *t, uint32_t i, const struct erofs_entry *e)
{
    uint32_t xattrs = 0, link = 0;
    struct tree_inode *n;
    int r = 0;

    if (e->xattrs_len)
        r = pool_add(t, e->xattrs, e->xattrs_len, &xattrs);
    if (r == 0 && S_ISLNK(e->mode))
        r = pool_add(t, e->link, strlen(e->link) + 1, &link);
    if (r < 0)
        return r;
    n = &t->inodes[i];
    n->mode = S_ISLNK(e->mode) ? S_IFLNK | 0777 : e->mode; /* on Linux a symlink has no other */
    n->uid = e->uid;
    n->gid = e->gid;
    n->mtime_s = e->mtime_s;
    n->mtime_ns = e->mtime_ns;
    n->xattrs = xattrs;
    n->xattrs_len = (uint32_t)e->xattrs_len;
    n->link = link;
    if (S_ISLNK(e->mode))
        n->size = strlen(e->link);
    if (S_ISCHR(e->mode) || S_ISBLK(e->mode))
        n->rdev = e->rdev;
    if (S_ISREG(e->mode)) {
        n->size = e->size;
        n->block = e->block;
        n->segment = t->layers - 1;
    }
    return 0;
}

static int inode_for(struct erofs_tree *t, const struct erofs_entry *e, uint32_t *ret)
{
    int r;

    if (e->hardlink)
        return find_link_target(t, e->link, ret);
    r = inode_new(t, ret);
    return r < 0 ? r : inode_fill(t, *ret, e);
}

/* Puts the member at base in dir, over whatever is there. */
static int place(struct erofs_tree *t, uint32_t dir, const char *base, size_t len,
                 const struct erofs_entry *e)
{
    uint32_t old = lookup(t, dir, base, len), inode;
    int r;

    if (old && !e->hardlink && S_ISDIR(e->mode) &&
        tree_is_dir(&t->inodes[t->dentries[old].inode])) {
        t->dentries[old].layer = (uint16_t)t->layers;
        return inode_fill(t, t->dentries[old].inode, e);
    }
    r = inode_for(t, e, &inode);
    if (r < 0)
        return r;
    if (old && t->dentries[old].inode == inode) { /* a link to itself */
        t->dentries[old].layer = (uint16_t)t->layers;
        return 0;
    }
    t->inodes[inode].nlink++; /* the target may lie below what is replaced */
    if (old)
        remove_tree(t, old);
    r = dentry_add(t, dir, base, len, inode);
    inode_drop(t, inode);
    return r;
}

int erofs_tree_apply(struct erofs_tree *t, const struct erofs_entry *e)
{
    char *path = t->work, base[EROFS_NAME_MAX + 1];
    uint32_t dir;
    size_t n;
    int r;

    if (t->layers == 0)
        return -EINVAL;
    r = clean_path(e->path, path);
    if (r < 0)
        return r;
    if (!*path)
        return 0;
    n = split_base(path, base);
    if (str_starts(base, ".wh.") && !t->ignore_whiteouts)
        return apply_whiteout(t, path, base);
    r = check_entry(e);
    if (r == 0)
        r = walk(t, path, /* create= */ true, &dir);
    return r < 0 ? r : place(t, dir, base, n, e);
}

void erofs_tree_ignore_whiteouts(struct erofs_tree *t)
{
    t->ignore_whiteouts = true;
}

int erofs_tree_begin_layer(struct erofs_tree *t)
{
    if (t->layers >= EROFS_TREE_SEGMENTS)
        return -E2BIG;
    t->layers++;
    return 0;
}

static int make_root(struct erofs_tree *t)
{
    uint32_t i;
    int r;

    t->inodes_used = t->dentries_used = 1; /* 0 is none */
    t->pool_used = 4;
    r = dentry_alloc(t, &i);
    if (r == 0) {
        t->dentries[i] = (struct tree_dentry){.dir = TREE_ROOT, .inode = TREE_ROOT};
        r = inode_new(t, &i);
    }
    if (r < 0)
        return r;
    t->inodes[TREE_ROOT].mode = S_IFDIR | 0755;
    t->inodes[TREE_ROOT].nlink = 1;
    t->inodes[TREE_ROOT].dentry = TREE_ROOT;
    return 0;
}

int erofs_tree_new(size_t max_bytes, uint32_t max_inodes, struct erofs_tree **ret)
{
    _cleanup_(erofs_tree_freep) struct erofs_tree *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return -ENOMEM;
    t->max_bytes = max_bytes;
    t->max_inodes = max_inodes;
    random_bytes(&t->seed, sizeof(t->seed));
    r = make_root(t);
    if (r < 0)
        return r;
    *ret = TAKE(t);
    return 0;
}

void erofs_tree_free(struct erofs_tree *t)
{
    if (!t)
        return;
    free(t->inodes);
    free(t->dentries);
    free(t->pool);
    free(t->buckets);
    free(t->order);
    free(t);
}
