/* SPDX-License-Identifier: Apache-2.0 */
/* TLV frames: u8 type, u32 length (big endian), value. Bytes in, frames out, sans-IO: no socket, no
 * clock, no meaning. The same framing serves nexusd ↔ nexus-vmm (unix socket) and nexus-vmm ↔ agent
 * (vsock). Source: DESIGN.md section 7. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum tlv_type {
    TLV_STDIN = 1,   /* data, <= LIMIT_TLV_DATA_BYTES; empty: end of the stream */
    TLV_STDOUT = 2,  /* the same */
    TLV_STDERR = 3,  /* the same */
    TLV_EXIT = 4,    /* nexus.ExitInfo; last frame of a stream */
    TLV_SIGNAL = 5,  /* u32 big endian: send this signal to the process */
    TLV_RESIZE = 6,  /* u16 columns, u16 rows, big endian */
    TLV_ERROR = 7,   /* nexus.StreamError; last frame of a stream */
    TLV_MESSAGE = 8, /* a protobuf; which one depends on the connection and the place in it */
    /* data, <= LIMIT_TERMINATION_BYTES: what a container's termination log ends with now; on the stream of
     * its start, after StreamStarted, whenever it has changed and before EXIT */
    TLV_TERMINATION = 9,
};
#define TLV_HEADER_BYTES 5

/* The longest value a type may carry, or 0 for an unknown type. */
uint32_t tlv_max_value(uint8_t type);

struct tlv_frame {
    uint8_t type;
    uint32_t len;
    const uint8_t *value; /* len bytes, borrowed from the reader until the next call on it */
};

/* Members are private. */
struct tlv_reader {
    struct buf in;
    size_t done;        /* bytes of in already given out */
    uint32_t max_value; /* longest value accepted whatever its type */
};

void tlv_reader_init(struct tlv_reader *r);
void tlv_reader_done(struct tlv_reader *r);
/* Lowers the longest value accepted from this peer (bytes), for all types. */
void tlv_reader_set_max(struct tlv_reader *r, uint32_t max_value);
/* True: no byte waits but those of the frame given out last. */
bool tlv_reader_is_empty(const struct tlv_reader *r);
/* Gives the memory back if no byte waits. Invalidates frames given out. */
void tlv_reader_trim(struct tlv_reader *r);
/* Appends bytes that came from the peer. 0; -EMSGSIZE: more than one largest frame plus a read's worth
 * is waiting (take frames out first); -ENOMEM. Invalidates frames given out. */
int tlv_reader_feed(struct tlv_reader *r, const void *bytes, size_t len);
/* 1: *ret is a frame. 0: more bytes are needed. -EPROTO: unknown type; -EMSGSIZE: the length announced
 * is over the type's limit. After an error the stream is lost and must be closed. */
int tlv_reader_next(struct tlv_reader *r, struct tlv_frame *ret);

/* Appends header and value to out. 0, -EMSGSIZE (value over the type's limit, or out is full), -ENOMEM. */
int tlv_write(struct buf *out, uint8_t type, const void *value, size_t len);
