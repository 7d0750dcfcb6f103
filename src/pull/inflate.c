/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/inflate.h"

#include <inttypes.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/checked.h"
#include "base/limit.h"
#include "base/str.h"
#include "oci/sha256.h"

#define IN_BYTES (128U << 10)
#define ZSTD_WINDOW_LOG 27 /* 128 MiB */
#define RATIO_FROM_BYTES (64ULL << 20)

enum format { FORMAT_UNKNOWN, FORMAT_PLAIN, FORMAT_GZIP, FORMAT_ZSTD };

struct inflate_source {
    struct source base;
    struct source *inner; /* owned */
    struct sha256 *sha;   /* owned */
    enum format format;
    z_stream z;
    bool z_ready;
    ZSTD_DStream *zstd; /* owned */
    bool between;       /* gzip members, zstd frames: here the input may end */
    bool in_end;
    uint64_t in_bytes, out_bytes, limit;
    size_t in_at, in_used;
    uint8_t in[IN_BYTES];
};

static int fill(struct inflate_source *s, struct error **err)
{
    ssize_t n;

    if (s->in_end || s->in_at < s->in_used)
        return 0;
    n = s->inner->read(s->inner, s->in, sizeof(s->in), err);
    if (n < 0)
        return (int)n;
    s->in_at = 0;
    s->in_used = (size_t)n;
    s->in_bytes += (uint64_t)n;
    s->in_end = n == 0;
    return 0;
}

/* The first four bytes tell. They may come one by one. */
static int detect(struct inflate_source *s, struct error **err)
{
    while (s->in_used < 4 && !s->in_end) {
        ssize_t n = s->inner->read(s->inner, s->in + s->in_used, sizeof(s->in) - s->in_used, err);

        if (n < 0)
            return (int)n;
        s->in_used += (size_t)n;
        s->in_bytes += (uint64_t)n;
        s->in_end = n == 0;
    }
    s->format = FORMAT_PLAIN;
    if (s->in_used >= 2 && s->in[0] == 0x1f && s->in[1] == 0x8b)
        s->format = FORMAT_GZIP;
    else if (s->in_used >= 4 && memcmp(s->in, "\x28\xb5\x2f\xfd", 4) == 0)
        s->format = FORMAT_ZSTD;
    else if (s->in_used >= 4 && (s->in[0] & 0xf0) == 0x50 &&
             memcmp(s->in + 1, "\x2a\x4d\x18", 3) == 0)
        s->format = FORMAT_ZSTD; /* begins with a skippable frame */
    if (s->format == FORMAT_GZIP) {
        if (inflateInit2(&s->z, 15 + 16) != Z_OK)
            return error_set(err, -ENOMEM, "out of memory");
        s->z_ready = true;
    }
    if (s->format == FORMAT_ZSTD) {
        s->zstd = ZSTD_createDStream();
        if (!s->zstd ||
            ZSTD_isError(ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG)))
            return error_set(err, -ENOMEM, "out of memory");
    }
    return 0;
}

static ssize_t read_plain(struct inflate_source *s, void *buf, size_t len)
{
    size_t n = min_of(len, s->in_used - s->in_at);

    memcpy(buf, s->in + s->in_at, n);
    s->in_at += n;
    return (ssize_t)n;
}

static ssize_t read_gzip(struct inflate_source *s, void *buf, size_t len, struct error **err)
{
    int z;

    if (s->between && inflateReset(&s->z) != Z_OK)
        return error_set(err, -EIO, "gzip cannot be reset");
    s->between = false;
    s->z.next_in = s->in + s->in_at;
    s->z.avail_in = (uInt)(s->in_used - s->in_at);
    s->z.next_out = buf;
    s->z.avail_out = (uInt)len;
    z = inflate(&s->z, Z_NO_FLUSH);
    s->in_at = s->in_used - s->z.avail_in;
    if (z == Z_STREAM_END)
        s->between = true;
    else if (z == Z_MEM_ERROR)
        return error_set(err, -ENOMEM, "out of memory");
    else if (z != Z_OK && z != Z_BUF_ERROR)
        return error_set(err, -EBADMSG, "the layer's gzip stream is damaged: %s",
                         s->z.msg ? s->z.msg : "no gzip");
    return (ssize_t)(len - s->z.avail_out);
}

static ssize_t read_zstd(struct inflate_source *s, void *buf, size_t len, struct error **err)
{
    ZSTD_inBuffer in = {s->in, s->in_used, s->in_at};
    ZSTD_outBuffer out = {buf, len, 0};
    size_t z = ZSTD_decompressStream(s->zstd, &out, &in);

    s->in_at = in.pos;
    if (ZSTD_isError(z))
        return error_set(err, -EBADMSG, "the layer's zstd stream is refused: %s",
                         ZSTD_getErrorName(z));
    s->between = z == 0;
    return (ssize_t)out.pos;
}

/* Plain bytes that pass: hashed, counted, limited. */
static ssize_t pass(struct inflate_source *s, const void *buf, ssize_t n, struct error **err)
{
    s->out_bytes += (uint64_t)n;
    if (s->out_bytes > s->limit)
        return error_set(err, -E2BIG, "the layer unpacks to more than %" PRIu64 " bytes", s->limit);
    if (s->out_bytes > RATIO_FROM_BYTES && s->out_bytes / LIMIT_LAYER_RATIO > s->in_bytes)
        return error_set(err, -E2BIG, "the layer unpacks to more than %d times its size",
                         LIMIT_LAYER_RATIO);
    sha256_add(s->sha, buf, (size_t)n);
    return n;
}

static ssize_t decode(struct inflate_source *s, void *buf, size_t len, struct error **err)
{
    switch (s->format) {
    case FORMAT_GZIP:
        return read_gzip(s, buf, len, err);
    case FORMAT_ZSTD:
        return read_zstd(s, buf, len, err);
    case FORMAT_PLAIN:
    case FORMAT_UNKNOWN:
    default:
        return read_plain(s, buf, len);
    }
}

static ssize_t inflate_read(struct source *base, void *buf, size_t len, struct error **err)
{
    struct inflate_source *s = container_of(base, struct inflate_source, base);
    int r = 0;

    len = min_of(len, (size_t)1 << 30);
    if (s->format == FORMAT_UNKNOWN)
        r = detect(s, err);
    while (r == 0) {
        ssize_t n;

        r = fill(s, err);
        if (r < 0)
            return r;
        if (s->in_end && s->in_at == s->in_used && (s->format == FORMAT_PLAIN || s->between))
            return 0;
        n = decode(s, buf, len, err);
        if (n < 0)
            return n;
        if (n > 0)
            return pass(s, buf, n, err);
        if (s->in_end && s->in_at == s->in_used && !s->between)
            return error_set(err, -EBADMSG, "the layer's compressed stream is cut");
    }
    return r;
}

static void inflate_free(struct source *base)
{
    struct inflate_source *s = container_of(base, struct inflate_source, base);

    source_free(s->inner);
    sha256_free(s->sha);
    if (s->z_ready)
        (void)inflateEnd(&s->z);
    (void)ZSTD_freeDStream(s->zstd);
    free(s);
}

struct source *source_inflate(struct source *inner, uint64_t limit)
{
    struct inflate_source *s = xcalloc(1, sizeof(*s));

    s->base = (struct source){inflate_read, inflate_free};
    s->inner = inner;
    s->limit = limit;
    s->sha = sha256_new();
    if (!s->sha) {
        inflate_free(&s->base);
        return NULL;
    }
    return &s->base;
}

void source_inflate_result(struct source *base, struct oci_digest *ret_diff_id, uint64_t *ret_bytes)
{
    struct inflate_source *s = container_of(base, struct inflate_source, base);

    sha256_finish(s->sha, ret_diff_id);
    *ret_bytes = s->out_bytes;
}
