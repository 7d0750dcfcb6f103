/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/spdy-header.h"

#include <string.h>
#include <zlib.h>

#include "base/checked.h"
#include "base/le.h"

/* The peer inflates with a whole window whatever ours is; this one holds the dictionary. */
#define DEFLATE_WINDOW_BITS 11
#define DEFLATE_MEM_LEVEL 1
#define DEFLATE_MAX_OVERHEAD 1024

/* ---- dictionary */

/* Each word goes in with its length before it, as headers do, the rest as it is. */
static const char *const words[] = {
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
};
static const char rest[] =
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,"
    "deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

const uint8_t *spdy_dictionary(void)
{
    static uint8_t bytes[SPDY_DICTIONARY_BYTES];
    static size_t used; /* one thread; filled once */

    if (used)
        return bytes;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        size_t n = strlen(words[i]);

        be32_store(bytes + used, (uint32_t)n);
        memcpy(bytes + used + 4, words[i], n);
        used += 4 + n;
    }
    memcpy(bytes + used, rest, sizeof(rest) - 1); /* a test checks length and Adler-32 */
    used += sizeof(rest) - 1;
    return bytes;
}

/* ---- reading */

struct spdy_inflater {
    z_stream z;
    uint8_t block[SPDY_BLOCK_BYTES + 1]; /* the last byte tells "too long" */
};

int spdy_inflater_new(struct spdy_inflater **ret)
{
    struct spdy_inflater *i = calloc(1, sizeof(*i));

    if (!i)
        return -ENOMEM;
    if (inflateInit(&i->z) != Z_OK) {
        free(i);
        return -ENOMEM;
    }
    *ret = i;
    return 0;
}

void spdy_inflater_free(struct spdy_inflater *i)
{
    if (!i)
        return;
    (void)inflateEnd(&i->z);
    free(i);
}

/* Bytes of the block, or errno. */
static ssize_t inflate_block(struct spdy_inflater *i, const uint8_t *bytes, size_t len)
{
    z_stream *z = &i->z;

    z->next_in = (uint8_t *)(uintptr_t)bytes; /* only read */
    z->avail_in = (uInt)len;
    z->next_out = i->block;
    z->avail_out = sizeof(i->block);
    while (z->avail_in > 0 && z->avail_out > 0) {
        int r = inflate(z, Z_SYNC_FLUSH);

        if (r == Z_NEED_DICT)
            r = inflateSetDictionary(z, spdy_dictionary(), SPDY_DICTIONARY_BYTES);
        if (r == Z_MEM_ERROR)
            return -ENOMEM;
        if (r != Z_OK) /* also Z_STREAM_END: the state lasts as long as the connection */
            return -EBADMSG;
    }
    if (z->avail_out == 0)
        return -EMSGSIZE;
    return (ssize_t)(sizeof(i->block) - z->avail_out);
}

/* Takes a length and that many bytes off the front. */
static int take_string(const uint8_t **p, size_t *left, const char **ret, size_t *ret_len)
{
    uint32_t n;

    if (*left < 4)
        return -EBADMSG;
    n = be32_load(*p);
    if (n > *left - 4)
        return -EBADMSG;
    *ret = (const char *)*p + 4;
    *ret_len = n;
    *p += 4 + (size_t)n;
    *left -= 4 + (size_t)n;
    return 0;
}

static bool is_good_name(const struct spdy_headers *h, const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (name[i] <= ' ' || name[i] > '~' || (name[i] >= 'A' && name[i] <= 'Z'))
            return false;
    for (size_t i = 0; i < h->n; i++)
        if (h->list[i].name_len == len && memcmp(h->list[i].name, name, len) == 0)
            return false;
    return len > 0;
}

static int parse_block(const uint8_t *p, size_t left, struct spdy_headers *ret)
{
    uint32_t count;

    ret->n = 0;
    if (left < 4)
        return -EBADMSG;
    count = be32_load(p);
    if (count > SPDY_HEADERS_MAX)
        return -EMSGSIZE;
    p += 4;
    left -= 4;
    for (; count > 0; count--) {
        struct spdy_header *h = &ret->list[ret->n];
        int r = take_string(&p, &left, &h->name, &h->name_len);

        if (r == 0)
            r = take_string(&p, &left, &h->value, &h->value_len);
        if (r < 0)
            return r;
        if (!is_good_name(ret, h->name, h->name_len))
            return -EBADMSG;
        ret->n++;
    }
    return left == 0 ? 0 : -EBADMSG;
}

int spdy_inflate(struct spdy_inflater *i, const uint8_t *bytes, size_t len,
                 struct spdy_headers *ret)
{
    ssize_t n = inflate_block(i, bytes, len);

    return n < 0 ? (int)n : parse_block(i->block, (size_t)n, ret);
}

const char *spdy_header_get(const struct spdy_headers *h, const char *name, size_t *ret_len)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < h->n; i++) {
        if (h->list[i].name_len != len || memcmp(h->list[i].name, name, len) != 0)
            continue;
        *ret_len = h->list[i].value_len;
        return h->list[i].value;
    }
    return NULL;
}

/* ---- writing */

struct spdy_deflater {
    z_stream z;
};

int spdy_deflater_new(struct spdy_deflater **ret)
{
    struct spdy_deflater *d = calloc(1, sizeof(*d));

    if (!d)
        return -ENOMEM;
    if (deflateInit2(&d->z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, DEFLATE_WINDOW_BITS,
                     DEFLATE_MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
        free(d);
        return -ENOMEM;
    }
    (void)deflateSetDictionary(&d->z, spdy_dictionary(), SPDY_DICTIONARY_BYTES);
    *ret = d;
    return 0;
}

void spdy_deflater_free(struct spdy_deflater *d)
{
    if (!d)
        return;
    (void)deflateEnd(&d->z);
    free(d);
}

static int put_u32(struct buf *b, size_t v)
{
    uint8_t bytes[4];

    be32_store(bytes, (uint32_t)v);
    return buf_append(b, bytes, sizeof(bytes));
}

static int build_block(const struct spdy_header *headers, size_t n, struct buf *b)
{
    int r = n > SPDY_HEADERS_MAX ? -EMSGSIZE : put_u32(b, n);

    for (size_t i = 0; r == 0 && i < n; i++) {
        r = put_u32(b, headers[i].name_len);
        if (r == 0)
            r = buf_append(b, headers[i].name, headers[i].name_len);
        if (r == 0)
            r = put_u32(b, headers[i].value_len);
        if (r == 0)
            r = buf_append(b, headers[i].value, headers[i].value_len);
    }
    return r;
}

int spdy_deflate(struct spdy_deflater *d, const struct spdy_header *headers, size_t n,
                 struct buf *out)
{
    _cleanup_(buf_done) struct buf block;
    size_t room;
    uint8_t *to;
    int r;

    buf_init(&block, SPDY_BLOCK_BYTES);
    r = build_block(headers, n, &block);
    if (r < 0)
        return r;
    room = block.used + block.used / 8 + DEFLATE_MAX_OVERHEAD;
    to = buf_reserve(out, room);
    if (!to)
        return -ENOMEM;
    d->z.next_in = block.data;
    d->z.avail_in = (uInt)block.used;
    d->z.next_out = to;
    d->z.avail_out = (uInt)room;
    if (deflate(&d->z, Z_SYNC_FLUSH) != Z_OK || d->z.avail_in || d->z.avail_out == 0)
        return -ENOMEM;
    out->used += room - d->z.avail_out;
    return 0;
}
