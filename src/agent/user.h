/* SPDX-License-Identifier: Apache-2.0 */
/* Who a process runs as: names and numbers resolved against the text of an image's own /etc/passwd
 * and /etc/group. Sans-IO: the files' bytes come in, they are hostile, and nothing of the guest's own
 * user database is looked at. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define USER_FILE_MAX (1U << 20) /* bytes of passwd or group that are read at all */
#define USER_GROUPS_MAX 1024
#define USER_HOME_MAX 256

/* A run of bytes, not terminated. */
struct text {
    const char *p;
    size_t len;
};

struct user_request {
    const char *image_user; /* "", "user", "user:group", either by name or number; used when neither
                               has_uid nor username is set. Borrowed, NULL is "" */
    bool has_uid;
    uint32_t uid;
    const char *username; /* "" or NULL: none */
    bool has_gid;
    uint32_t gid;
    const uint32_t *groups; /* borrowed; n_groups of them, in addition to what the files say */
    size_t n_groups;
    bool strict; /* and not what the files say */
};

struct user_identity {
    uint32_t uid;
    uint32_t gid;
    uint32_t groups[USER_GROUPS_MAX]; /* supplemental, without duplicates */
    size_t n_groups;
    char home[USER_HOME_MAX]; /* "/" when the files name none */
};

/* passwd, group: whole files; a missing file is {NULL, 0}. A string of digits is a number and never
 * looked up as a name. The primary group: gid, else the group part of image_user, else the user's
 * entry in passwd, else 0.
 * 0; -EINVAL: a name that no entry has, or a number that is none; -E2BIG: too many groups. */
int user_resolve(const struct user_request *req, struct text passwd, struct text group,
                 struct user_identity *ret, struct error **err);
