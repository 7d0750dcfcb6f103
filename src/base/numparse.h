/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers from text: the whole string, no sign tricks, no white space, in range; or an error. */
#pragma once

#include <stdint.h>

/* Decimal digits only, max inclusive. 0; -EINVAL: not a number; -ERANGE: above max. */
int parse_u64(const char *s, uint64_t max, uint64_t *ret);
int parse_u32(const char *s, uint32_t max, uint32_t *ret);
/* An optional '-' and digits, within [min, max]. */
int parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret);
/* Bytes: digits with an optional K, M, G or T (powers of 1024, an "i" and a "B" may follow). */
int parse_size(const char *s, uint64_t max, uint64_t *ret);
/* A time span in milliseconds: digits followed by ms, s, m or h; plain digits are seconds. */
int parse_span_ms(const char *s, uint64_t max_ms, uint64_t *ret);
