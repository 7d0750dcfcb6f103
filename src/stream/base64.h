/* SPDX-License-Identifier: Apache-2.0 */
/* Messages whose bytes are in base64. Sans-IO. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define BASE64_SIZE(n) (((n) + 2) / 3 * 4 + 1) /* of n bytes, with NUL */

/* BASE64_SIZE(len) bytes at most are written to ret, with NUL. Their number without it. */
size_t base64_encode(const uint8_t *bytes, size_t len, uint8_t *ret);
/* What was in out is replaced. 0; -EPROTO: it is none; -EMSGSIZE, -ENOMEM. */
int base64_decode(const uint8_t *text, size_t len, struct buf *out);
