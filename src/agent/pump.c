/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/pump.h"

#include "base/le.h"
#include "base/limit.h"
#include "wire/tlv.h"

#define FRAME_BYTES (TLV_HEADER_BYTES + LIMIT_TLV_DATA_BYTES)
#define QUEUE_BYTES ((size_t)LIMIT_TLV_QUEUE_FRAMES * FRAME_BYTES)
#define TAIL_BYTES (16U << 10) /* started, error, exit: beside the queue */

void pump_init(struct pump *p)
{
    buf_init(&p->out, QUEUE_BYTES + TAIL_BYTES);
    /* a frame more than the bound: the test comes before a frame of any length is taken */
    buf_init(&p->input, (size_t)(LIMIT_TLV_QUEUE_FRAMES + 1) * LIMIT_TLV_DATA_BYTES);
    p->input_eof = false;
}

void pump_done(struct pump *p)
{
    buf_done(&p->out);
    buf_done(&p->input);
}

bool pump_has_room(const struct pump *p)
{
    return p->out.used + FRAME_BYTES <= QUEUE_BYTES;
}

uint8_t *pump_space(struct pump *p)
{
    uint8_t *b = pump_has_room(p) ? buf_reserve(&p->out, FRAME_BYTES) : NULL;

    return b ? b + TLV_HEADER_BYTES : NULL;
}

void pump_commit(struct pump *p, uint8_t tlv_type, size_t len)
{
    uint8_t *h = p->out.data + p->out.used;

    h[0] = tlv_type;
    be32_store(h + 1, (uint32_t)len);
    p->out.used += TLV_HEADER_BYTES + len;
}

bool pump_wants_input(const struct pump *p)
{
    return p->input.used <= (size_t)LIMIT_TLV_QUEUE_FRAMES * LIMIT_TLV_DATA_BYTES;
}

int pump_input(struct pump *p, const uint8_t *bytes, size_t len)
{
    if (p->input_eof)
        return -EPIPE;
    if (len == 0) {
        p->input_eof = true;
        return 0;
    }
    return buf_append(&p->input, bytes, len);
}
