/* SPDX-License-Identifier: Apache-2.0 */
/* protobuf messages from a peer into an arena, with everything protobuf-c leaves unchecked: text is
 * valid UTF-8 without NUL (a C string would end early), nesting is bounded, memory is capped. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"

#define GRPC_PB_DEPTH 32
#define GRPC_PB_WHY_SIZE 160

/* 0: *ret lives in the arena. -EBADMSG: not a message of that type; -EILSEQ: a string field holds no
 * text; -ENOBUFS: more memory than the arena may give. why: words for the client. */
int grpc_pb_unpack(const ProtobufCMessageDescriptor *type, struct arena *arena,
                   const uint8_t *bytes, size_t len, const ProtobufCMessage **ret,
                   char why[GRPC_PB_WHY_SIZE]);
