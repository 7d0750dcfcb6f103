/* SPDX-License-Identifier: Apache-2.0 */
/* For fuzzers of one device: chains as the input says, over a small arena that is filled from it. */
#pragma once

#include <string.h>

#include "lib/fuzz-input.h"
#include "lib/guest.h"

#define FUZZ_ARENA (64U << 10)

static inline void fuzz_fill(struct fuzz_input *in, struct guest *g, uint64_t arena)
{
    const uint8_t *bytes;
    uint16_t at = fuzz_u16(in);
    size_t n = fuzz_bytes(in, fuzz_u8(in), &bytes);

    if (n && n <= (size_t)(FUZZ_ARENA - at))
        memcpy(guest_ptr(g, arena + at, n), bytes, n);
}

/* One chain of up to 8 descriptors: u8 shape; per descriptor u16 offset, u16 length, u8 flags. Shape
 * bit 7: raw addresses and links, else honest ones. Not more than fit into the ring. */
static inline void fuzz_chain(struct fuzz_input *in, struct guest *g, unsigned q, uint64_t arena)
{
    uint8_t shape = fuzz_u8(in);
    unsigned n = (shape & 7U) + 1;
    struct guest_buf b[8];

    if ((unsigned)(uint16_t)(g->q[q].avail_idx - g->q[q].used_seen) + n > g->q[q].size)
        return;
    for (unsigned i = 0; i < n; i++) {
        uint16_t at = fuzz_u16(in), len = fuzz_u16(in);
        uint8_t flags = fuzz_u8(in);

        b[i] = (struct guest_buf){arena + at, len, flags & 1};
        if (flags & 2)
            b[i].len = len * 4099U;
        if (flags & 4)
            b[i].gpa = fuzz_u64(in);
    }
    (void)guest_add(g, q, b, n);
    if (shape & 0x80)
        guest_desc(g, q, fuzz_u8(in) & 63, arena + fuzz_u16(in), fuzz_u16(in), fuzz_u8(in) & 7,
                   fuzz_u8(in) & 63);
}

static inline void fuzz_take(struct guest *g, unsigned q)
{
    uint32_t head, len;

    (void)loop_turn(g->loop, 0);
    while (guest_used(g, q, &head, &len))
        ;
}
