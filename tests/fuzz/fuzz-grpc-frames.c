/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of gRPC messages: any bytes, in pieces whose sizes the input chooses. What comes out must
 * be what a straightforward walk over the same bytes finds. */
#include <stdlib.h>
#include <string.h>

#include "grpc/frame-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_MESSAGE 4096U

/* The length of the message at data, or -1 when there is none whole and good. */
static long whole_message(const uint8_t *data, size_t left)
{
    size_t len;

    if (left < GRPC_FRAME_HEADER_BYTES || data[0] != 0)
        return -1;
    len = (size_t)data[1] << 24 | (size_t)data[2] << 16 | (size_t)data[3] << 8 | data[4];
    return len <= MAX_MESSAGE && len <= left - GRPC_FRAME_HEADER_BYTES ? (long)len : -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct grpc_reader r;
    size_t fed = 0, seen = 0;
    int n = 0;

    grpc_reader_init(&r, MAX_MESSAGE, 1 << 20);
    while (fed < size && n >= 0) {
        size_t step = (size_t)(data[fed] & 63) + 1, len;
        const uint8_t *bytes;

        if (step > size - fed)
            step = size - fed;
        if (grpc_reader_feed(&r, data + fed, step) < 0)
            break;
        fed += step;
        while ((n = grpc_reader_next(&r, &bytes, &len)) > 0) {
            if (whole_message(data + seen, fed - seen) != (long)len ||
                memcmp(bytes, data + seen + GRPC_FRAME_HEADER_BYTES, len) != 0)
                abort();
            seen += GRPC_FRAME_HEADER_BYTES + len;
        }
        if (n == 0 && whole_message(data + seen, fed - seen) >= 0)
            abort();
    }
    grpc_reader_done(&r);
    return 0;
}
