/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC's length-prefixed messages: bytes in, messages out. Sans-IO; knows no HTTP/2 and no protobuf.
 * A message is u8 compressed flag, u32 length (big endian), bytes. Used by server and client. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define GRPC_FRAME_HEADER_BYTES 5U

struct grpc_reader {
    struct buf in; /* everything fed and not yet taken */
    size_t taken;  /* bytes of the message handed out by next; dropped by the following call */
    uint32_t max_message; /* bytes */
};

/* max_message: longest message; max_buffered: most bytes held, several messages with their headers.
 * Cannot fail, allocates nothing yet. */
void grpc_reader_init(struct grpc_reader *r, uint32_t max_message, size_t max_buffered);
void grpc_reader_done(struct grpc_reader *r);
/* 0; -EMSGSIZE: more than max_buffered would be held; -ENOMEM. Nothing is added on error. */
int grpc_reader_feed(struct grpc_reader *r, const void *bytes, size_t len);
/* 1: *bytes, *len are the next message, valid until the next call of any function. 0: more is needed.
 * -EMSGSIZE: the announced length is above max_message; -EOPNOTSUPP: it is compressed; -EPROTO: its
 * flag is neither 0 nor 1. After an error the stream of messages is lost. */
int grpc_reader_next(struct grpc_reader *r, const uint8_t **bytes, size_t *len);
/* The length announced by the header at the front; 0 without one. */
uint32_t grpc_reader_announced(const struct grpc_reader *r);
/* Bytes held that no message handed out covers. 0 at the end of a stream that ended well. */
size_t grpc_reader_pending(const struct grpc_reader *r);

/* Writes the header of an uncompressed message. */
void grpc_frame_header(uint8_t out[GRPC_FRAME_HEADER_BYTES], uint32_t len);
