/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/tlv.h"

#include "base/le.h"
#include "base/limit.h"

/* one largest frame and a full socket read behind it */
#define READER_MAX (LIMIT_TLV_MESSAGE_BYTES + TLV_HEADER_BYTES + (256U << 10))

uint32_t tlv_max_value(uint8_t type)
{
    switch (type) {
    case TLV_STDIN:
    case TLV_STDOUT:
    case TLV_STDERR:
        return LIMIT_TLV_DATA_BYTES;
    case TLV_TERMINATION:
        return LIMIT_TERMINATION_BYTES;
    case TLV_EXIT:
        return 64;
    case TLV_SIGNAL:
    case TLV_RESIZE:
        return 4;
    case TLV_ERROR:
        return 8192;
    case TLV_MESSAGE:
        return LIMIT_TLV_MESSAGE_BYTES;
    default:
        return 0;
    }
}

void tlv_reader_init(struct tlv_reader *r)
{
    buf_init(&r->in, READER_MAX);
    r->done = 0;
    r->max_value = UINT32_MAX;
}

void tlv_reader_set_max(struct tlv_reader *r, uint32_t max_value)
{
    r->max_value = max_value;
}

bool tlv_reader_is_empty(const struct tlv_reader *r)
{
    return r->done == r->in.used;
}

void tlv_reader_trim(struct tlv_reader *r)
{
    if (r->done == r->in.used)
        tlv_reader_done(r);
}

void tlv_reader_done(struct tlv_reader *r)
{
    buf_done(&r->in);
    r->done = 0;
}

int tlv_reader_feed(struct tlv_reader *r, const void *bytes, size_t len)
{
    if (r->done) {
        buf_consume(&r->in, r->done);
        r->done = 0;
    }
    return buf_append(&r->in, bytes, len);
}

int tlv_reader_next(struct tlv_reader *r, struct tlv_frame *ret)
{
    size_t have = r->in.used - r->done;
    const uint8_t *p = r->in.data + r->done;
    uint32_t len;

    if (have < TLV_HEADER_BYTES) {
        if (have >= 1 && tlv_max_value(p[0]) == 0)
            return -EPROTO;
        return 0;
    }
    if (tlv_max_value(p[0]) == 0)
        return -EPROTO;
    len = be32_load(p + 1);
    if (len > tlv_max_value(p[0]) || len > r->max_value)
        return -EMSGSIZE;
    if (have - TLV_HEADER_BYTES < len)
        return 0;
    *ret = (struct tlv_frame){.type = p[0], .len = len, .value = p + TLV_HEADER_BYTES};
    r->done += TLV_HEADER_BYTES + len;
    return 1;
}

int tlv_write(struct buf *out, uint8_t type, const void *value, size_t len)
{
    uint8_t *p;

    if (len > tlv_max_value(type) || tlv_max_value(type) == 0)
        return -EMSGSIZE;
    p = buf_reserve(out, TLV_HEADER_BYTES + len);
    if (!p)
        return -EMSGSIZE;
    p[0] = type;
    be32_store(p + 1, (uint32_t)len);
    if (len)
        memcpy(p + TLV_HEADER_BYTES, value, len);
    out->used += TLV_HEADER_BYTES + len;
    return 0;
}
