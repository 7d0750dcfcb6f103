/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/frame-queue.h"

#include <errno.h>

#include "base/le.h"
#include "base/limit.h"
#include "wire/tlv.h"

/* consumed bytes are cut off when they are a quarter of all: a byte is moved three times at most */
#define QUEUE_BYTES \
    (4 * (LIMIT_TLV_QUEUE_FRAMES + 2) * (LIMIT_TLV_DATA_BYTES + TLV_HEADER_BYTES) / 3)
#define LAST_BYTES (8192 + TLV_HEADER_BYTES) /* an ERROR frame */

void frame_queue_init(struct frame_queue *q)
{
    *q = (struct frame_queue){0};
    buf_init(&q->bytes, QUEUE_BYTES + LAST_BYTES);
}

void frame_queue_done(struct frame_queue *q)
{
    buf_done(&q->bytes);
    q->done = q->front_left = 0;
    q->frames = 0;
}

bool frame_queue_is_full(const struct frame_queue *q)
{
    return q->frames >= LIMIT_TLV_QUEUE_FRAMES;
}

static void find_front(struct frame_queue *q)
{
    q->front_left =
        q->frames ? TLV_HEADER_BYTES + (size_t)be32_load(q->bytes.data + q->done + 1) : 0;
}

int frame_queue_push_last(struct frame_queue *q, uint8_t type, const void *value, size_t len)
{
    int r;

    if (q->done > q->bytes.used / 4) {
        buf_consume(&q->bytes, q->done);
        q->done = 0;
    }
    r = tlv_write(&q->bytes, type, value, len);
    if (r < 0)
        return r;
    q->frames++;
    if (q->frames == 1)
        find_front(q);
    return 0;
}

int frame_queue_push(struct frame_queue *q, uint8_t type, const void *value, size_t len)
{
    return frame_queue_is_full(q) ? -EAGAIN : frame_queue_push_last(q, type, value, len);
}

size_t frame_queue_peek(const struct frame_queue *q, const uint8_t **ret)
{
    *ret = q->bytes.data + q->done;
    return q->bytes.used - q->done;
}

void frame_queue_consume(struct frame_queue *q, size_t n)
{
    while (n && q->frames) {
        size_t k = n < q->front_left ? n : q->front_left;

        q->done += k;
        q->front_left -= k;
        n -= k;
        if (q->front_left)
            return;
        q->frames--;
        find_front(q);
    }
    if (q->frames == 0)
        frame_queue_done(q);
}
