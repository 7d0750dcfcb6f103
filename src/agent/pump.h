/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of one stream between frames and pipes, bounded in both directions. Sans-IO: stream.c
 * has the descriptors. Output: bytes read from a pipe become frames in out, and when LIMIT_TLV_QUEUE_FRAMES
 * frames' worth is waiting nothing is read until the peer has taken some. Input: bytes of STDIN
 * frames wait for the pipe, and above the same bound no frame is taken from the peer. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct pump {
    struct buf out;   /* whole frames for the peer; the head may be partly sent */
    struct buf input; /* bytes for the process's stdin */
    bool input_eof;   /* after input: the end */
};

void pump_init(struct pump *p);
void pump_done(struct pump *p);

/* True while one more data frame fits. */
bool pump_has_room(const struct pump *p);
/* Where at most LIMIT_TLV_DATA_BYTES output bytes may be put, or NULL (no room, no memory). */
uint8_t *pump_space(struct pump *p);
/* Makes a frame of the first len (<= LIMIT_TLV_DATA_BYTES) bytes there; 0 is the stream's end. */
void pump_commit(struct pump *p, uint8_t tlv_type, size_t len);

/* True while STDIN frames may be taken from the peer. */
bool pump_wants_input(const struct pump *p);
/* The value of a STDIN frame; empty: the end. 0; -EPIPE: came after the end; -ENOMEM, -EMSGSIZE. */
int pump_input(struct pump *p, const uint8_t *bytes, size_t len);
