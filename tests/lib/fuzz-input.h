/* SPDX-License-Identifier: Apache-2.0 */
/* Takes numbers from the front of a fuzzer's input; zeros when it is used up. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fuzz_input {
    const uint8_t *p;
    size_t n;
};

static inline uint8_t fuzz_u8(struct fuzz_input *f)
{
    if (f->n == 0)
        return 0;
    f->n--;
    return *f->p++;
}
static inline uint16_t fuzz_u16(struct fuzz_input *f)
{
    uint16_t lo = fuzz_u8(f);
    return (uint16_t)(lo | fuzz_u8(f) << 8);
}
static inline uint32_t fuzz_u32(struct fuzz_input *f)
{
    uint32_t lo = fuzz_u16(f);
    return lo | (uint32_t)fuzz_u16(f) << 16;
}
static inline uint64_t fuzz_u64(struct fuzz_input *f)
{
    uint64_t lo = fuzz_u32(f);
    return lo | (uint64_t)fuzz_u32(f) << 32;
}
/* Up to max bytes, borrowed from the input. */
static inline size_t fuzz_bytes(struct fuzz_input *f, size_t max, const uint8_t **ret)
{
    size_t n = f->n < max ? f->n : max;

    *ret = f->p;
    f->p += n;
    f->n -= n;
    return n;
}
