/* SPDX-License-Identifier: Apache-2.0 */
/* The resize channel: JSON objects {"Width":u16,"Height":u16} one after the other, in any pieces. Sans-IO. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESIZE_OBJECT_BYTES 256

struct resize_reader { /* members are private; zero is the beginning */
    char object[RESIZE_OBJECT_BYTES + 1];
    size_t used;
    bool lost; /* something that is no object came: the rest is ignored */
};

/* Takes bytes up to the end of an object and returns how many; *ret tells whether that was a size (both sides
 * above 0) in *columns, *rows. */
size_t resize_feed(struct resize_reader *r, const uint8_t *bytes, size_t len, bool *ret,
                   uint16_t *columns, uint16_t *rows);
