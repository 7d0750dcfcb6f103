/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdarg.h>

#include "cgroup/cgroup.h"

struct cgroup_fs {
    int root_fd; /* owned; -EBADF in mode none */
    char *root;  /* for messages */
    enum cgroup_mode mode;
    unsigned controllers; /* of the root */
    char *description;
};

/* True if the mode has cgroups that can be made. */
static inline bool cgroup_fs_usable(const struct cgroup_fs *fs)
{
    return fs->mode == CGROUP_MODE_V2;
}

/* Directory of a saved path, opened beneath the root. An fd or errno. */
int cgroup_dir_open(const struct cgroup_fs *fs, const char *path);
/* One control file of it: the text without its last newline, or the write of a short string. */
int cgroup_file_read(int dir_fd, const char *file, char *out, size_t size);
int cgroup_file_write(int dir_fd, const char *file, const char *text);
int cgroup_file_printf(int dir_fd, const char *file, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Bits of a space-separated list of controllers. */
unsigned cgroup_controllers_parse(const char *text);
/* The number after "key " in the lines of text; 0 if the key is not there. */
uint64_t cgroup_keyed_value(const char *text, const char *key);
