/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of bytes one reads from: a blob from a registry, a file of a layout, memory in a test. Stages
 * (inflate, verify) wrap another source. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/error.h"

struct source {
    /* Up to len (> 0) bytes; 0 at the end of a stream that is whole and right; or an errno. */
    ssize_t (*read)(struct source *s, void *buf, size_t len, struct error **err);
    void (*free)(struct source *s); /* NULL: nothing to free */
};

static inline void source_free(struct source *s)
{
    if (s && s->free)
        s->free(s);
}
DEFINE_CLEANUP(struct source *, source_free);

/* Everything into out (whose max holds: -E2BIG). */
int source_read_all(struct source *s, struct buf *out, struct error **err);

/* An open file from its current offset, read to its end. Borrows fd. */
struct source *source_from_fd(int fd);
/* Memory; borrows bytes. */
struct source *source_from_bytes(const void *bytes, size_t len);

/* Checks size and SHA-256 of what passes: at the end, and that no byte comes beyond size. what names it in
 * errors. Owns inner. done (may be NULL) counts the bytes that passed, for other threads to read. */
struct oci_digest;
struct source *source_verify(struct source *inner, const struct oci_digest *digest, uint64_t size,
                             const char *what, _Atomic uint64_t *done);
