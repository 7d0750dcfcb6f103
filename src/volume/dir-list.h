/* SPDX-License-Identifier: Apache-2.0 */
/* The names of a directory, but for "." and "..": opendir without the three calls that look at the descriptor
 * first, which many small directories feel. */
#pragma once

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>

struct dir_list {
    int fd; /* borrowed; O_RDONLY, its offset is ours */
    size_t at, len;
    _Alignas(struct dirent64) char bytes[4096]; /* more than one of the longest name */
};

void dir_list_init(struct dir_list *d, int fd);
/* 1: the next one, valid until the next call; 0: that was all; or errno. */
int dir_list_next(struct dir_list *d, const struct dirent64 **ret);
