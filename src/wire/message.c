/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/message.h"

#include <stdlib.h>

#include "base/le.h"

#define UNPACK_MAX (4U << 20)

/* protobuf-c asks for up to 100 bytes per byte of crafted input: count what it gets */
static void *counted_alloc(void *data, size_t size)
{
    size_t *left = data;

    if (size > *left)
        return NULL;
    *left -= size;
    return malloc(size);
}

static void counted_free(void *data, void *p)
{
    free(p);
}

static void *plain_alloc(void *data, size_t size)
{
    return malloc(size);
}

ProtobufCMessage *message_unpack(const ProtobufCMessageDescriptor *type, const void *bytes,
                                 size_t len)
{
    size_t left = UNPACK_MAX;
    ProtobufCAllocator a = {.alloc = counted_alloc, .free = counted_free, .allocator_data = &left};

    return protobuf_c_message_unpack(type, &a, len, bytes);
}

void message_free(ProtobufCMessage *m)
{
    ProtobufCAllocator a = {.alloc = plain_alloc, .free = counted_free};

    if (m)
        protobuf_c_message_free_unpacked(m, &a);
}

int message_write(struct buf *out, uint8_t frame_type, const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *p;

    if (len > tlv_max_value(frame_type))
        return -EMSGSIZE;
    p = buf_reserve(out, TLV_HEADER_BYTES + len);
    if (!p)
        return -EMSGSIZE;
    p[0] = frame_type;
    be32_store(p + 1, (uint32_t)len);
    (void)protobuf_c_message_pack(m, p + TLV_HEADER_BYTES);
    out->used += TLV_HEADER_BYTES + len;
    return 0;
}
