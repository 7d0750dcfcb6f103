/* SPDX-License-Identifier: Apache-2.0 */
/* Header blocks of SPDY/3.1: zlib with the protocol's preset dictionary, one state per direction for the
 * whole connection, so a block that cannot be read ends the connection. Sans-IO.
 * Source: SPDY protocol draft 3.1, section 2.6.10. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define SPDY_HEADERS_MAX 32
#define SPDY_BLOCK_BYTES (16U << 10) /* inflated; client-go's blocks have about 100 */
#define SPDY_DICTIONARY_BYTES 1423

struct spdy_header { /* bytes are borrowed, not terminated */
    const char *name, *value;
    size_t name_len, value_len;
};
struct spdy_headers {
    struct spdy_header list[SPDY_HEADERS_MAX];
    size_t n;
};

/* The dictionary; 1423 bytes. */
const uint8_t *spdy_dictionary(void);

struct spdy_inflater;
struct spdy_deflater;

/* 0 or -ENOMEM. */
int spdy_inflater_new(struct spdy_inflater **ret);
void spdy_inflater_free(struct spdy_inflater *i);
/* Reads one compressed block; ret is borrowed until the next call. -EBADMSG: no zlib, another dictionary, or
 * no list of distinct lower-case names; -EMSGSIZE: more than SPDY_BLOCK_BYTES or SPDY_HEADERS_MAX. After
 * an error the connection is lost. */
int spdy_inflate(struct spdy_inflater *i, const uint8_t *bytes, size_t len,
                 struct spdy_headers *ret);
/* The value of a header in one piece, or NULL; *ret_len bytes. */
const char *spdy_header_get(const struct spdy_headers *h, const char *name, size_t *ret_len);

/* 0 or -ENOMEM. */
int spdy_deflater_new(struct spdy_deflater **ret);
void spdy_deflater_free(struct spdy_deflater *d);
/* Appends the block of n headers to out. 0; -EMSGSIZE: too many or too long; -ENOMEM. */
int spdy_deflate(struct spdy_deflater *d, const struct spdy_header *headers, size_t n,
                 struct buf *out);
