/* SPDX-License-Identifier: Apache-2.0 */
/* The headers of one request: collected one by one, then judged. Sans-IO; knows no nghttp2. We check
 * them ourselves because nghttp2's strict checks refuse the :authority that older kubelets send. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "grpc/status.h"

enum grpc_verdict {
    GRPC_REQUEST_OK,
    GRPC_REQUEST_RESET,  /* malformed HTTP/2 (RFC 9113 section 8.1.1): RST_STREAM PROTOCOL_ERROR */
    GRPC_REQUEST_TYPE,   /* not gRPC: HTTP status 415 */
    GRPC_REQUEST_STATUS, /* answer with status and text */
};

struct grpc_request {
    struct arena *arena; /* borrowed; owns the strings */
    size_t list_bytes;   /* RFC 9113 section 6.5.2: name + value + 32 each */
    unsigned seen;       /* bit per header that may come once */
    bool malformed, regular_seen;
    bool is_post, is_grpc;
    const char *path;        /* "" until seen */
    const char *traceparent; /* "" without a valid one */
    uint64_t timeout_ns;     /* UINT64_MAX: none */
    enum grpc_status status; /* set by check with GRPC_REQUEST_STATUS, or earlier */
    const char *text;        /* NULL: nothing wrong so far */
};

void grpc_request_init(struct grpc_request *r, struct arena *arena);
/* One header, in order of arrival; any bytes. What exceeds the list limit is counted, not kept. */
void grpc_request_header(struct grpc_request *r, const uint8_t *name, size_t name_len,
                         const uint8_t *value, size_t value_len);
enum grpc_verdict grpc_request_check(struct grpc_request *r);

/* grpc-timeout: 1 to 8 digits and one of H M S m u n. 0 or -EINVAL; what exceeds 64 bits of
 * nanoseconds becomes UINT64_MAX. */
int grpc_timeout_parse(const char *text, size_t len, uint64_t *ret_ns);
/* The shortest header text for at least timeout_ms; out has 16 bytes. */
void grpc_timeout_format(uint64_t timeout_ms, char out[16]);
