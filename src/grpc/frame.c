/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "grpc/frame-internal.h"

void grpc_reader_init(struct grpc_reader *r, uint32_t max_message, size_t max_buffered)
{
    *r = (struct grpc_reader){.max_message = max_message};
    buf_init(&r->in, max_buffered);
}

void grpc_reader_done(struct grpc_reader *r)
{
    buf_done(&r->in);
    r->taken = 0;
}

static void drop_taken(struct grpc_reader *r)
{
    if (r->taken == 0)
        return;
    buf_consume(&r->in, r->taken);
    r->taken = 0;
    if (r->in.used == 0) { /* an idle stream holds no memory */
        size_t max = r->in.max;
        buf_done(&r->in);
        buf_init(&r->in, max);
    }
}

int grpc_reader_feed(struct grpc_reader *r, const void *bytes, size_t len)
{
    drop_taken(r);
    return len ? buf_append(&r->in, bytes, len) : 0;
}

uint32_t grpc_reader_announced(const struct grpc_reader *r)
{
    const uint8_t *p = r->in.data;

    if (r->in.used - r->taken < GRPC_FRAME_HEADER_BYTES)
        return 0;
    p += r->taken;
    return (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
}

int grpc_reader_next(struct grpc_reader *r, const uint8_t **bytes, size_t *len)
{
    uint32_t size;

    drop_taken(r);
    if (r->in.used == 0)
        return 0;
    if (r->in.data[0] > 1)
        return -EPROTO;
    if (r->in.data[0] == 1)
        return -EOPNOTSUPP;
    if (r->in.used < GRPC_FRAME_HEADER_BYTES)
        return 0;
    size = grpc_reader_announced(r);
    if (size > r->max_message)
        return -EMSGSIZE;
    if (r->in.used - GRPC_FRAME_HEADER_BYTES < size)
        return 0;
    *bytes = r->in.data + GRPC_FRAME_HEADER_BYTES;
    *len = size;
    r->taken = GRPC_FRAME_HEADER_BYTES + size;
    return 1;
}

size_t grpc_reader_pending(const struct grpc_reader *r)
{
    return r->in.used - r->taken;
}

void grpc_frame_header(uint8_t out[GRPC_FRAME_HEADER_BYTES], uint32_t len)
{
    out[0] = 0;
    out[1] = (uint8_t)(len >> 24);
    out[2] = (uint8_t)(len >> 16);
    out[3] = (uint8_t)(len >> 8);
    out[4] = (uint8_t)len;
}
