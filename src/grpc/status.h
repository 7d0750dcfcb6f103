/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC status codes, the table from our error classes to them, and grpc-message's encoding.
 * Source: gRPC "Status codes" and "PROTOCOL-HTTP2" documents. Any thread; nothing here keeps state. */
#pragma once

#include <stddef.h>

#include "base/error.h"

/* The numbers are the wire's. */
enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
};
#define GRPC_STATUS_COUNT 17

/* "NOT_FOUND", …; numbers outside the table: "UNKNOWN". Static. */
const char *grpc_status_name(enum grpc_status st);

/* The status that tells a client about an error of that class. Total: every class has a row. */
enum grpc_status grpc_status_from_class(enum error_class cls);
/* The way back, for clients of ours: class and a positive errno. GRPC_OK is no error and not asked. */
enum error_class grpc_status_to_class(enum grpc_status st);
int grpc_status_to_errno(enum grpc_status st);

/* Most bytes of grpc_message_encode's result, NUL included: each byte of the longest text as %XX. */
#define GRPC_MESSAGE_SIZE (3 * 4096 + 1)
/* Percent-encodes text for a grpc-message header: bytes outside 0x20..0x7e and '%' become %XX. Text
 * longer than LIMIT_ERROR_TEXT_BYTES is cut, never inside a UTF-8 sequence. Control bytes become
 * blanks and invalid UTF-8 becomes '?', since kubelet prints it. out has GRPC_MESSAGE_SIZE bytes.
 * Returns the length. */
size_t grpc_message_encode(const char *text, char *out);
/* Decodes in place (bad escapes stay as they are); NUL bytes become blanks. Returns the length. */
size_t grpc_message_decode(char *text);
