/* SPDX-License-Identifier: Apache-2.0 */
#include "volume/dir-list.h"

#include <errno.h>
#include <string.h>

void dir_list_init(struct dir_list *d, int fd)
{
    d->fd = fd;
    d->at = d->len = 0;
}

static int fill(struct dir_list *d)
{
    ssize_t n = getdents64(d->fd, d->bytes, sizeof(d->bytes));

    if (n < 0 && errno == ENOENT) /* the directory was removed: it has no names any more */
        n = 0;
    if (n < 0)
        return -errno;
    d->at = 0;
    d->len = (size_t)n;
    return n > 0;
}

int dir_list_next(struct dir_list *d, const struct dirent64 **ret)
{
    for (;;) {
        const struct dirent64 *e;
        int r = d->at < d->len ? 1 : fill(d);

        if (r <= 0)
            return r;
        e = (const void *)(d->bytes + d->at);
        d->at += e->d_reclen;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        *ret = e;
        return 1;
    }
}
