/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/dax.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h> /* struct statx; libc has it or not, by name and version */
#include <string.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

#define PROBE_ENTRIES 256
#define PROBE_DEPTH 8
#define TYPE_MASK 0170000
#define TYPE_REGULAR 0100000
#define TYPE_DIRECTORY 0040000

/* dir is taken; left: entries that may still be looked at. */
static int probe_dax(int dir, unsigned depth, unsigned *left)
{
    DIR *d = fdopendir(dir);
    struct dirent *e;
    int r = -ENOENT;

    if (!d) {
        (void)close_fd(dir);
        return -errno;
    }
    while (r == -ENOENT && *left > 0 && (e = readdir(d))) {
        struct statx sx;
        int sub;

        (*left)--;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (syscall(SYS_statx, dirfd(d), e->d_name, AT_SYMLINK_NOFOLLOW, STATX_TYPE | STATX_SIZE,
                    &sx) < 0)
            continue;
        if ((sx.stx_mode & TYPE_MASK) == TYPE_REGULAR && sx.stx_size > 0) {
            r = (sx.stx_attributes & STATX_ATTR_DAX) != 0;
        } else if ((sx.stx_mode & TYPE_MASK) == TYPE_DIRECTORY && depth > 0) {
            sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (sub >= 0)
                r = probe_dax(sub, depth - 1, left);
        }
    }
    (void)closedir(d);
    return r;
}

int dax_probe(const char *path)
{
    unsigned left = PROBE_ENTRIES;
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return dir < 0 ? -errno : probe_dax(dir, PROBE_DEPTH, &left);
}
