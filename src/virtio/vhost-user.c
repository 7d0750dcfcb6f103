/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/vhost-user.h"

#include <errno.h>

#include "base/le.h"

#define HEADER_BYTES 12U
#define VERSION 1U
#define FLAGS_VERSION_MASK 3U
#define FLAG_REPLY 4U

_Static_assert(HEADER_BYTES + 8 + VHOST_USER_REGIONS_MAX * 32 <= VHOST_USER_BYTES_MAX, "fits");

static size_t header(uint8_t *out, enum vhost_user_request request, size_t payload)
{
    le32_store(out, request);
    le32_store(out + 4, VERSION);
    le32_store(out + 8, (uint32_t)payload);
    return HEADER_BYTES + payload;
}

size_t vhost_user_plain(uint8_t out[VHOST_USER_BYTES_MAX], enum vhost_user_request request)
{
    return header(out, request, 0);
}

size_t vhost_user_value(uint8_t out[VHOST_USER_BYTES_MAX], enum vhost_user_request request,
                        uint64_t value)
{
    le64_store(out + HEADER_BYTES, value);
    return header(out, request, 8);
}

size_t vhost_user_vring(uint8_t out[VHOST_USER_BYTES_MAX], enum vhost_user_request request,
                        uint32_t queue, uint32_t value)
{
    le32_store(out + HEADER_BYTES, queue);
    le32_store(out + HEADER_BYTES + 4, value);
    return header(out, request, 8);
}

size_t vhost_user_vring_addr(uint8_t out[VHOST_USER_BYTES_MAX], uint32_t queue, uint64_t desc,
                             uint64_t avail, uint64_t used)
{
    uint8_t *p = out + HEADER_BYTES;

    le32_store(p, queue);
    le32_store(p + 4, 0); /* flags: nothing is logged */
    le64_store(p + 8, desc);
    le64_store(p + 16, used);
    le64_store(p + 24, avail);
    le64_store(p + 32, 0); /* of a log */
    return header(out, VHOST_USER_SET_VRING_ADDR, 40);
}

size_t vhost_user_mem_table(uint8_t out[VHOST_USER_BYTES_MAX],
                            const struct vhost_user_region *regions, size_t n)
{
    uint8_t *p = out + HEADER_BYTES;

    le32_store(p, (uint32_t)n);
    le32_store(p + 4, 0);
    p += 8;
    for (size_t i = 0; i < n; i++, p += 32) {
        le64_store(p, regions[i].gpa);
        le64_store(p + 8, regions[i].bytes);
        le64_store(p + 16, regions[i].gpa);
        le64_store(p + 24, regions[i].fd_offset);
    }
    return header(out, VHOST_USER_SET_MEM_TABLE, (size_t)(p - out) - HEADER_BYTES);
}

int vhost_user_parse(const uint8_t *bytes, size_t n, struct vhost_user_reply *ret)
{
    uint32_t flags;

    if (n < HEADER_BYTES)
        return 0;
    *ret = (struct vhost_user_reply){.request = le32_load(bytes)};
    flags = le32_load(bytes + 4);
    if ((ret->request != VHOST_USER_GET_FEATURES && ret->request != VHOST_USER_GET_VRING_BASE) ||
        (flags & FLAGS_VERSION_MASK) != VERSION || !(flags & FLAG_REPLY) ||
        le32_load(bytes + 8) != 8)
        return -EPROTO;
    if (n < HEADER_BYTES + 8)
        return 0;
    if (ret->request == VHOST_USER_GET_FEATURES) {
        ret->features = le64_load(bytes + HEADER_BYTES);
    } else {
        ret->queue = le32_load(bytes + HEADER_BYTES);
        ret->base = le32_load(bytes + HEADER_BYTES + 4);
    }
    return HEADER_BYTES + 8;
}
