/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic on numbers from outside: every form tells whether the result is exact. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True and *ret set if a op b fits the type of *ret; false: *ret is not to be used. */
#define checked_add(a, b, ret) (!__builtin_add_overflow((a), (b), (ret)))
#define checked_sub(a, b, ret) (!__builtin_sub_overflow((a), (b), (ret)))
#define checked_mul(a, b, ret) (!__builtin_mul_overflow((a), (b), (ret)))

/* True if [start, start + len) lies in [0, limit); no wrap is possible. */
static inline bool range_within(uint64_t start, uint64_t len, uint64_t limit)
{
    return start <= limit && len <= limit - start;
}

static inline bool is_power_of_two(uint64_t v)
{
    return v && (v & (v - 1)) == 0;
}

/* v rounded up to a multiple of align (a power of two). False: it would wrap. */
static inline bool align_up(uint64_t v, uint64_t align, uint64_t *ret)
{
    uint64_t sum;

    if (!checked_add(v, align - 1, &sum))
        return false;
    *ret = sum & ~(align - 1);
    return true;
}

#define min_of(a, b)                       \
    __extension__({                        \
        __typeof__(a) min_a_ = (a);        \
        __typeof__(b) min_b_ = (b);        \
        min_a_ < min_b_ ? min_a_ : min_b_; \
    })
#define max_of(a, b)                       \
    __extension__({                        \
        __typeof__(a) max_a_ = (a);        \
        __typeof__(b) max_b_ = (b);        \
        max_a_ > max_b_ ? max_a_ : max_b_; \
    })
