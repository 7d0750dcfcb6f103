/* SPDX-License-Identifier: Apache-2.0 */
/* TLV reader and message decoder: any bytes, in pieces whose sizes the input chooses. */
#include <stddef.h>
#include <stdint.h>

#include "gen/msg/nexus.pb-c.h"
#include "wire/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tlv_reader r;
    struct tlv_frame f;
    size_t at = 0;
    int n = 0;

    tlv_reader_init(&r);
    while (at < size && n >= 0) {
        size_t step = (size_t)data[at] + 1;
        if (step > size - at)
            step = size - at;
        if (tlv_reader_feed(&r, data + at, step) < 0)
            break;
        at += step;
        while ((n = tlv_reader_next(&r, &f)) > 0) {
            message_free(message_unpack(&nexus__control_message__descriptor, f.value, f.len));
            message_free(message_unpack(&nexus__agent_message__descriptor, f.value, f.len));
        }
    }
    tlv_reader_done(&r);
    return 0;
}
