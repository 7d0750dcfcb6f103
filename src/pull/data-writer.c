/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/data-writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/failpoint.h"

#define GAP_BYTES 4096

int data_writer_init(struct data_writer *w, int fd)
{
    *w = (struct data_writer){.fd = fd, .chunk = malloc(DATA_WRITER_BYTES)};
    return w->chunk ? 0 : -ENOMEM;
}

void data_writer_done(struct data_writer *w)
{
    free(w->chunk);
    w->chunk = NULL;
}

static int flush(struct data_writer *w)
{
    size_t done = 0;
    int r = FP("pull.data.write");

    while (r == 0 && done < w->used) {
        ssize_t n = pwrite(w->fd, w->chunk + done, w->used - done, (off_t)(w->start + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = -errno;
        else
            done += (size_t)n;
    }
    w->start += w->used;
    w->used = 0;
    return r;
}

int data_writer_put(struct data_writer *w, uint64_t pos, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    uint64_t gap;

    if (pos < w->start + w->used)
        return -EINVAL;
    gap = pos - (w->start + w->used);
    if (gap >= GAP_BYTES || gap > DATA_WRITER_BYTES - w->used) {
        int r = flush(w);

        if (r < 0)
            return r;
        w->start = pos;
    } else {
        memset(w->chunk + w->used, 0, (size_t)gap);
        w->used += (size_t)gap;
    }
    while (len) {
        size_t n = min_of(len, (size_t)DATA_WRITER_BYTES - w->used);

        memcpy(w->chunk + w->used, p, n);
        w->used += n;
        p += n;
        len -= n;
        if (w->used == DATA_WRITER_BYTES) {
            int r = flush(w);

            if (r < 0)
                return r;
        }
    }
    return 0;
}

int data_writer_end(struct data_writer *w, uint64_t size)
{
    int r = flush(w);

    if (r == 0 && ftruncate(w->fd, (off_t)size) < 0)
        r = -errno;
    return r;
}
