/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/source.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"
#include "base/str.h"
#include "oci/digest.h"
#include "oci/sha256.h"

int source_read_all(struct source *s, struct buf *out, struct error **err)
{
    uint8_t chunk[8192];

    for (;;) {
        ssize_t n = s->read(s, chunk, sizeof(chunk), err);

        if (n <= 0)
            return (int)n;
        if (buf_append(out, chunk, (size_t)n) < 0)
            return error_set(err, -E2BIG, "the document is larger than %zu bytes", out->max);
    }
}

/* ---- file ---- */

struct fd_source {
    struct source base;
    int fd; /* borrowed */
};

static ssize_t fd_read(struct source *s, void *buf, size_t len, struct error **err)
{
    struct fd_source *f = container_of(s, struct fd_source, base);

    for (;;) {
        ssize_t n = read(f->fd, buf, len);

        if (n < 0 && errno == EINTR)
            continue;
        return n < 0 ? error_set(err, -errno, "cannot read a blob: %s", strerror(errno)) : n;
    }
}

static void fd_free(struct source *s)
{
    free(container_of(s, struct fd_source, base));
}

struct source *source_from_fd(int fd)
{
    struct fd_source *f = xcalloc(1, sizeof(*f));

    f->base = (struct source){fd_read, fd_free};
    f->fd = fd;
    return &f->base;
}

/* ---- memory ---- */

struct bytes_source {
    struct source base;
    const uint8_t *at; /* borrowed */
    size_t left;
};

static ssize_t bytes_read(struct source *s, void *buf, size_t len, struct error **err)
{
    struct bytes_source *b = container_of(s, struct bytes_source, base);
    size_t n = min_of(len, b->left);

    if (n)
        memcpy(buf, b->at, n);
    b->at += n;
    b->left -= n;
    return (ssize_t)n;
}

static void bytes_free(struct source *s)
{
    free(container_of(s, struct bytes_source, base));
}

struct source *source_from_bytes(const void *bytes, size_t len)
{
    struct bytes_source *b = xcalloc(1, sizeof(*b));

    b->base = (struct source){bytes_read, bytes_free};
    b->at = bytes;
    b->left = len;
    return &b->base;
}

/* ---- verify ---- */

struct verify_source {
    struct source base;
    struct source *inner; /* owned */
    struct sha256 *sha;   /* owned */
    struct oci_digest want;
    uint64_t size, seen;
    char *what; /* owned */
    _Atomic uint64_t *done;
    bool finished;
};

static int verify_end(struct verify_source *v, struct error **err)
{
    struct oci_digest got;

    if (v->seen != v->size)
        return error_set(err, -EBADMSG, "%s ended after %" PRIu64 " of %" PRIu64 " bytes", v->what,
                         v->seen, v->size);
    if (v->finished)
        return 0;
    v->finished = true;
    sha256_finish(v->sha, &got);
    if (!oci_digest_equal(&got, &v->want))
        return error_set(err, -EBADMSG, "%s has the digest sha256:%s instead of sha256:%s", v->what,
                         got.hex, v->want.hex);
    return 0;
}

static ssize_t verify_read(struct source *s, void *buf, size_t len, struct error **err)
{
    struct verify_source *v = container_of(s, struct verify_source, base);
    ssize_t n = v->inner->read(v->inner, buf, len, err);

    if (n < 0)
        return n;
    if (n == 0)
        return verify_end(v, err);
    if ((uint64_t)n > v->size - v->seen)
        return error_set(err, -EBADMSG, "%s is longer than its %" PRIu64 " bytes", v->what,
                         v->size);
    v->seen += (uint64_t)n;
    if (v->done)
        atomic_fetch_add_explicit(v->done, (uint64_t)n, memory_order_relaxed);
    sha256_add(v->sha, buf, (size_t)n);
    return n;
}

static void verify_free(struct source *s)
{
    struct verify_source *v = container_of(s, struct verify_source, base);

    source_free(v->inner);
    sha256_free(v->sha);
    free(v->what);
    free(v);
}

struct source *source_verify(struct source *inner, const struct oci_digest *digest, uint64_t size,
                             const char *what, _Atomic uint64_t *done)
{
    struct verify_source *v = xcalloc(1, sizeof(*v));

    v->base = (struct source){verify_read, verify_free};
    v->inner = inner;
    v->sha = sha256_new();
    v->want = *digest;
    v->size = size;
    v->what = str_dup(what);
    v->done = done;
    if (!v->sha)
        abort();
    return &v->base;
}
