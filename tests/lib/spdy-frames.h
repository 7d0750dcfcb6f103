/* SPDX-License-Identifier: Apache-2.0 */
/* What a SPDY client sends, well or badly made: frames appended to a buffer. */
#pragma once

#include <string.h>
#include <zlib.h>

#include "base/buf.h"
#include "base/le.h"
#include "stream/spdy-header.h"

struct spdy_client {
    struct buf out;
    z_stream z; /* of its header blocks */
};

static inline void client_init(struct spdy_client *c, bool dictionary)
{
    memset(c, 0, sizeof(*c));
    buf_init(&c->out, 8U << 20);
    if (deflateInit(&c->z, 6) != Z_OK)
        abort();
    if (dictionary)
        (void)deflateSetDictionary(&c->z, spdy_dictionary(), SPDY_DICTIONARY_BYTES);
}

static inline void client_done(struct spdy_client *c)
{
    (void)deflateEnd(&c->z);
    buf_done(&c->out);
}

static inline void client_bytes(struct spdy_client *c, const void *bytes, size_t len)
{
    if (buf_append(&c->out, bytes, len) < 0)
        abort();
}

static inline void client_u32(struct spdy_client *c, uint32_t v)
{
    uint8_t b[4];

    be32_store(b, v);
    client_bytes(c, b, 4);
}

static inline void client_control(struct spdy_client *c, uint32_t type, uint32_t flags,
                                  const void *payload, size_t len)
{
    client_u32(c, 0x80030000U | type);
    client_u32(c, flags << 24 | (uint32_t)len);
    client_bytes(c, payload, len);
}

static inline void client_words(struct spdy_client *c, uint32_t type, size_t n, uint32_t a,
                                uint32_t b)
{
    uint8_t p[8];

    be32_store(p, a);
    be32_store(p + 4, b);
    client_control(c, type, 0, p, n * 4);
}

static inline void client_data(struct spdy_client *c, uint32_t id, uint32_t flags,
                               const void *bytes, size_t len)
{
    client_u32(c, id);
    client_u32(c, flags << 24 | (uint32_t)len);
    client_bytes(c, bytes, len);
}

/* A SYN_STREAM around a block that is compressed as it is, whatever is in it. */
static inline void client_syn_raw(struct spdy_client *c, uint32_t id, uint32_t flags,
                                  const void *block, size_t len)
{
    uint8_t p[8192] = {0}; /* of what compresses well */

    be32_store(p, id);
    c->z.next_in = (uint8_t *)(uintptr_t)block;
    c->z.avail_in = (uInt)len;
    c->z.next_out = p + 10;
    c->z.avail_out = sizeof(p) - 10;
    if (deflate(&c->z, Z_SYNC_FLUSH) == Z_STREAM_ERROR || c->z.avail_in)
        abort();
    client_control(c, 1, flags, p, sizeof(p) - c->z.avail_out);
}

/* names_values: name, value, …, NULL. */
static inline void client_syn(struct spdy_client *c, uint32_t id, uint32_t flags,
                              const char *const *names_values)
{
    uint8_t block[4096];
    size_t at = 4, n = 0;

    for (; names_values[n]; n++) {
        size_t len = strlen(names_values[n]);

        be32_store(block + at, (uint32_t)len);
        memcpy(block + at + 4, names_values[n], len);
        at += 4 + len;
    }
    be32_store(block, (uint32_t)n / 2);
    client_syn_raw(c, id, flags, block, at);
}
#define HEADERS(...) ((const char *const[]){__VA_ARGS__, NULL})
