/* SPDX-License-Identifier: Apache-2.0 */
/* A look at JSON from outside before a parser spends memory on it: how deep and how many values. A
 * parser's tree can cost 80 times its text; with both capped it cannot. Accepts more than JSON; the
 * parser still decides what is valid. */
#pragma once

#include <stddef.h>

#define JSON_SCAN_TOKENS 100000 /* strings, numbers, literals and opened containers */

/* 0; -E2BIG: nested deeper than max_depth or more than max_tokens; -EINVAL: brackets do not match or
 * a string does not end. No allocation, one pass. */
int json_scan(const void *bytes, size_t len, unsigned max_depth, size_t max_tokens);
