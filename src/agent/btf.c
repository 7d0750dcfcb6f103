/* SPDX-License-Identifier: Apache-2.0 */
/* Four megabytes, of which a buffer's worth is in memory at a time: every pod would pay for the rest.
 * Source: Documentation/bpf/btf.rst. */
#include "agent/btf.h"

#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"

#define CHUNK (64U << 10)
#define NAME_MAX_BYTES 64

/* What follows the common part of a type. */
static size_t extra_bytes(uint32_t info)
{
    size_t n = BTF_INFO_VLEN(info);

    switch (BTF_INFO_KIND(info)) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case BTF_KIND_DECL_TAG:
        return 4;
    case BTF_KIND_ARRAY:
        return 12;
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
    case BTF_KIND_DATASEC:
    case BTF_KIND_ENUM64:
        return 12 * n;
    case BTF_KIND_ENUM:
    case BTF_KIND_FUNC_PROTO:
        return 8 * n;
    default:
        return 0;
    }
}

/* Offset of name among the strings. Chunks overlap, so that no name is cut. */
static int find_name(int fd, const struct btf_header *h, const char *name, char *buf, uint32_t *ret)
{
    char want[NAME_MAX_BYTES + 2] = {0}; /* between two NULs: a whole string */
    size_t len = strlen(name) + 2;
    uint64_t base = (uint64_t)h->hdr_len + h->str_off;

    memcpy(want + 1, name, len - 2);
    for (uint64_t at = 0; at + len <= h->str_len; at += CHUNK - sizeof(want)) {
        ssize_t n =
            pread_full(fd, buf, h->str_len - at < CHUNK ? h->str_len - at : CHUNK, base + at);
        const char *hit = n < 0 ? NULL : memmem(buf, (size_t)n, want, len);

        if (n < 0)
            return (int)n;
        if (hit) {
            *ret = (uint32_t)(at + (uint64_t)(hit - buf) + 1);
            return 0;
        }
    }
    return -ENOENT;
}

static int find_type(int fd, const struct btf_header *h, uint32_t name_off, char *buf,
                     uint32_t *ret)
{
    uint64_t base = (uint64_t)h->hdr_len + h->type_off, at = 0;
    uint32_t id = 0;

    while (at + sizeof(struct btf_type) <= h->type_len) {
        ssize_t n =
            pread_full(fd, buf, h->type_len - at < CHUNK ? h->type_len - at : CHUNK, base + at);
        size_t used = 0;

        if (n < (ssize_t)sizeof(struct btf_type))
            return n < 0 ? (int)n : -EBADMSG;
        while (used + sizeof(struct btf_type) <= (size_t)n) {
            struct btf_type t;

            memcpy(&t, buf + used, sizeof(t));
            id++;
            if (t.name_off == name_off && BTF_INFO_KIND(t.info) == BTF_KIND_FUNC) {
                *ret = id;
                return 0;
            }
            used += sizeof(t) + extra_bytes(t.info);
        }
        at += used; /* the last one may end beyond the chunk */
    }
    return -ENOENT;
}

int btf_find_function(int fd, const char *name, uint32_t *ret)
{
    _cleanup_(freep) char *buf = NULL;
    struct btf_header h;
    uint32_t name_off;
    ssize_t n = pread_full(fd, &h, sizeof(h), 0);
    int r;

    if (n < 0)
        return (int)n;
    if (n < (ssize_t)sizeof(h) || h.magic != BTF_MAGIC || strlen(name) > NAME_MAX_BYTES)
        return -EBADMSG;
    buf = malloc(CHUNK);
    if (!buf)
        return -ENOMEM;
    r = find_name(fd, &h, name, buf, &name_off);
    return r < 0 ? r : find_type(fd, &h, name_off, buf, ret);
}
