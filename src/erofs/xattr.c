/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/le.h"
#include "base/str.h"
#include "erofs/entry.h"
#include "erofs/format.h"

static const struct {
    const char *prefix;
    uint8_t index;
    bool whole; /* the prefix is the name */
} namespaces[] = {
    {"user.", EROFS_XATTR_USER, false},
    {"trusted.", EROFS_XATTR_TRUSTED, false},
    {"security.", EROFS_XATTR_SECURITY, false},
    {"system.posix_acl_access", EROFS_XATTR_ACL_ACCESS, true},
    {"system.posix_acl_default", EROFS_XATTR_ACL_DEFAULT, true},
};

static size_t entry_bytes(size_t name_len, size_t value_len)
{
    return (sizeof(struct erofs_xattr_entry) + name_len + value_len + 3) & ~(size_t)3;
}

static bool has(const struct buf *list, uint8_t index, const char *name, size_t name_len)
{
    size_t at = 0;

    while (at < list->used) {
        const struct erofs_xattr_entry *e = (const void *)(list->data + at);

        if (e->name_index == index && e->name_len == name_len && memcmp(e + 1, name, name_len) == 0)
            return true;
        at += entry_bytes(e->name_len, le16_load(e->value_size));
    }
    return false;
}

int erofs_xattr_append(struct buf *list, const char *name, const void *value, size_t len)
{
    struct erofs_xattr_entry e = {0};
    size_t i, name_len, total;
    uint8_t *p;

    /* overlayfs in the guest would obey them */
    if (str_starts(name, "trusted.overlay.") || str_starts(name, "user.overlay."))
        return 0;
    for (i = 0; i < ARRAY_SIZE(namespaces); i++)
        if (namespaces[i].whole ? strcmp(name, namespaces[i].prefix) == 0
                                : str_starts(name, namespaces[i].prefix))
            break;
    if (i == ARRAY_SIZE(namespaces))
        return 0;
    name += strlen(namespaces[i].prefix);
    name_len = strlen(name);
    if (name_len == 0 && !namespaces[i].whole)
        return -EINVAL;
    if (name_len > UINT8_MAX || len > UINT16_MAX)
        return -E2BIG;
    total = entry_bytes(name_len, len);
    if (list->used + total > EROFS_XATTRS_MAX)
        return -E2BIG;
    if (has(list, namespaces[i].index, name, name_len))
        return 0;
    p = buf_reserve(list, total);
    if (!p)
        return -ENOMEM;
    e.name_len = (uint8_t)name_len;
    e.name_index = namespaces[i].index;
    le16_store(e.value_size, (uint16_t)len);
    memset(p, 0, total);
    memcpy(p, &e, sizeof(e));
    memcpy(p + sizeof(e), name, name_len);
    if (len)
        memcpy(p + sizeof(e) + name_len, value, len);
    list->used += total;
    return 1;
}

bool erofs_xattrs_are_valid(const uint8_t *list, size_t len)
{
    size_t at = 0;

    if (len > EROFS_XATTRS_MAX || len % 4)
        return false;
    while (at < len) {
        struct erofs_xattr_entry e;

        if (len - at < sizeof(e))
            return false;
        memcpy(&e, list + at, sizeof(e));
        if (e.name_index == 0 || e.name_index > EROFS_XATTR_SECURITY ||
            entry_bytes(e.name_len, le16_load(e.value_size)) > len - at)
            return false;
        at += entry_bytes(e.name_len, le16_load(e.value_size));
    }
    return true;
}
