/* SPDX-License-Identifier: Apache-2.0 */
/* Protobuf messages in and out of TLV frames, with the amplification of hostile input capped. */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "wire/tlv.h"

/* Unpacks with an allocator that hands out at most 4 MiB. NULL: malformed or over the cap. Free with
 * message_free. */
ProtobufCMessage *message_unpack(const ProtobufCMessageDescriptor *type, const void *bytes,
                                 size_t len);
void message_free(ProtobufCMessage *m);

/* Packs m as the value of one frame. 0, -EMSGSIZE (over the frame's limit, or out is full), -ENOMEM. */
int message_write(struct buf *out, uint8_t frame_type, const ProtobufCMessage *m);
