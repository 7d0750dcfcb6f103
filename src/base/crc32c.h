/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli, reflected polynomial 0x82f63b78): finds accidents, not attackers. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Continues crc over len bytes without inverting at either end; a plain checksum is
 * ~crc32c_update(~0u, …). EROFS takes the raw form. */
uint32_t crc32c_update(uint32_t crc, const void *bytes, size_t len);
