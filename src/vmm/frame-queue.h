/* SPDX-License-Identifier: Apache-2.0 */
/* Encoded TLV frames waiting for a slow peer: at most LIMIT_TLV_QUEUE_FRAMES, plus one last frame.
 * Sans-IO: the owner peeks, writes what it can, and consumes. No memory while empty. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct frame_queue {
    struct buf bytes;
    size_t done;       /* bytes of it already consumed */
    size_t front_left; /* bytes left of the first frame; 0: none */
    unsigned frames;   /* not completely consumed */
};

void frame_queue_init(struct frame_queue *q);
void frame_queue_done(struct frame_queue *q);
/* A further frame is refused: the source has to wait. */
bool frame_queue_is_full(const struct frame_queue *q);
static inline bool frame_queue_is_empty(const struct frame_queue *q)
{
    return q->frames == 0;
}
/* 0; -EAGAIN: full; -EMSGSIZE: value over the type's limit; -ENOMEM. */
int frame_queue_push(struct frame_queue *q, uint8_t type, const void *value, size_t len);
/* The same for the last frame of a stream, which has a place of its own. */
int frame_queue_push_last(struct frame_queue *q, uint8_t type, const void *value, size_t len);
/* The bytes to write next (borrowed until the next push or consume); 0: nothing waits. */
size_t frame_queue_peek(const struct frame_queue *q, const uint8_t **ret);
/* n bytes (at most what peek said) are written. */
void frame_queue_consume(struct frame_queue *q, size_t n);
