/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer with a hard limit. Invariant: used <= size <= max. */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct buf {
    uint8_t *data; /* owned; NULL while empty */
    size_t used;   /* bytes */
    size_t size;   /* bytes allocated */
    size_t max;    /* never grows beyond */
};

/* max: most bytes it may ever hold. No allocation yet. */
void buf_init(struct buf *b, size_t max);
void buf_done(struct buf *b);
/* Forgets the content, keeps the memory. */
void buf_clear(struct buf *b);

/* 0; -EMSGSIZE: max would be exceeded, nothing was added; -ENOMEM. */
int buf_append(struct buf *b, const void *bytes, size_t len);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Makes room for len more bytes and returns where they go, or NULL (as buf_append's errors); the
 * caller adds what it wrote to used. */
uint8_t *buf_reserve(struct buf *b, size_t len);
/* Drops len (<= used) bytes at the front. */
void buf_consume(struct buf *b, size_t len);
/* The content as a NUL-terminated string of the caller; leaves b empty. NULL without memory. */
char *buf_take_str(struct buf *b);
