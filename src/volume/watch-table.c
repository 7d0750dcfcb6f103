/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/str.h"
#include "volume/watch-internal.h"

#define DIR_MASK                                                                      \
    (IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVED_FROM | \
     IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)
#define FILE_MASK (IN_MODIFY | IN_CLOSE_WRITE)

void watch_table_init(struct watch_table *t, int inotify_fd)
{
    *t = (struct watch_table){.fd = inotify_fd};
}

void watch_table_done(struct watch_table *t)
{
    free(t->buckets);
    t->buckets = NULL;
}

static struct watch_node **bucket_of(const struct watch_table *t, int wd)
{
    return &t->buckets[(uint32_t)wd * 2654435761U & (t->n_buckets - 1)];
}

struct watch_node *watch_table_get(const struct watch_table *t, int wd)
{
    struct watch_node *n = t->n_buckets ? *bucket_of(t, wd) : NULL;

    while (n && n->wd != wd)
        n = n->chain;
    return n;
}

static void grow(struct watch_table *t)
{
    struct watch_node **old = t->buckets;
    size_t n_old = t->n_buckets;

    t->n_buckets = n_old ? 2 * n_old : 64;
    t->buckets = xcalloc(t->n_buckets, sizeof(struct watch_node *));
    for (size_t i = 0; i < n_old; i++)
        for (struct watch_node *n = old[i], *next; n; n = next) {
            struct watch_node **b = bucket_of(t, n->wd);

            next = n->chain;
            n->chain = *b;
            *b = n;
        }
    free(old);
}

static struct watch_node *node_new(struct watch_table *t, int wd)
{
    struct watch_node *n = xcalloc(1, sizeof(*n)), **b;

    if (t->count == t->n_buckets)
        grow(t);
    b = bucket_of(t, wd);
    n->wd = wd;
    n->chain = *b;
    list_init(&n->users);
    *b = n;
    t->count++;
    return n;
}

static void node_free(struct watch_table *t, struct watch_node *n)
{
    struct watch_node **at = bucket_of(t, n->wd);

    while (*at != n)
        at = &(*at)->chain;
    *at = n->chain;
    t->count--;
    (void)inotify_rm_watch(t->fd, n->wd); /* EINVAL: the kernel did so when the inode went */
    free(n);
}

int watch_table_use(struct watch_table *t, int fd, enum watch_role role, const char *text,
                    uint64_t round, struct volume_watched *owner, struct list *uses)
{
    struct watch_node *n;
    struct watch_use *u;
    char proc[40];
    struct stat st = {.st_mode = S_IFDIR};
    int wd;

    if (role == WATCH_FIXED && fstat(fd, &st) < 0) /* the others are directories */
        return -errno;
    (void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    wd = inotify_add_watch(t->fd, proc, S_ISDIR(st.st_mode) ? DIR_MASK : FILE_MASK);
    if (wd < 0)
        return -errno;
    n = watch_table_get(t, wd);
    if (!n)
        n = node_new(t, wd);
    list_foreach (u, &n->users, in_node)
        if (u->owner == owner && u->role == role && strcmp(u->text, text) == 0) {
            u->round = round;
            return 0;
        }
    u = xcalloc(1, sizeof(*u));
    *u = (struct watch_use){
        .node = n, .owner = owner, .role = role, .round = round, .text = str_dup(text)};
    list_append(&n->users, &u->in_node);
    list_append(uses, &u->in_owner);
    return 0;
}

void watch_table_drop(struct watch_table *t, struct watch_use *u)
{
    list_remove(&u->in_node);
    list_remove(&u->in_owner);
    if (list_is_empty(&u->node->users))
        node_free(t, u->node);
    free(u->text);
    free(u);
}
