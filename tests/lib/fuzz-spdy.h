/* SPDX-License-Identifier: Apache-2.0 */
/* Turns a fuzzer's input into what a SPDY client sends: zlib would stop raw bytes at the first block, so
 * frames are described and their blocks are compressed here. */
#pragma once

#include "lib/fuzz-input.h"
#include "lib/spdy-frames.h"

/* Appends one frame that the input describes. */
static inline void fuzz_spdy_frame(struct fuzz_input *in, struct spdy_client *c)
{
    static const char *const words[] = {"streamtype", "error",  "stdin", "stdout",
                                        "stderr",     "resize", "data",  "port",
                                        "requestid",  "80",     "0",     ""};
    uint8_t what = fuzz_u8(in), flags = fuzz_u8(in) & 3;
    uint32_t id = fuzz_u8(in);
    const char *list[9] = {0};
    const uint8_t *p;
    size_t n;

    switch (what & 7) {
    case 0:
    case 1:
        for (size_t i = 0; i < (size_t)(what >> 5) + 1; i++)
            list[i] = words[fuzz_u8(in) % (sizeof(words) / sizeof(words[0]))];
        client_syn(c, id, flags, list);
        break;
    case 2:
        n = fuzz_bytes(in, 64, &p);
        client_syn_raw(c, id, flags, p, n);
        break;
    case 3:
    case 4:
        n = fuzz_bytes(in, what >> 3, &p);
        client_data(c, id, flags, p, n);
        break;
    case 5:
        client_words(c, what >> 3 & 15, 2, id, fuzz_u32(in));
        break;
    case 6:
        n = fuzz_bytes(in, what >> 3, &p);
        client_control(c, flags + 1U, 0, p, n);
        break;
    default: /* bytes as they are */
        n = fuzz_bytes(in, what >> 3, &p);
        client_bytes(c, p, n);
        break;
    }
}
