/* SPDX-License-Identifier: Apache-2.0 */
/* The ring walker over guest memory that is the input itself: descriptor table, available ring and,
 * behind them, tables and buffers. What it takes must lie in memory and within the limits. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fuzz-input.h"
#include "lib/guest.h"
#include "virtio/queue.h"

#define BASE 0x100000ULL
#define SIZE 16U
#define AVAIL (BASE + 16ULL * SIZE)
#define USED (AVAIL + 64)
#define BYTES_MAX 65536U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct vq_chain *c)
{
    uint64_t out = 0, in = 0;
    uint8_t sink = 0;

    for (unsigned i = 0; i < (unsigned)c->n_out + c->n_in; i++) {
        const uint8_t *p = c->iov[i].iov_base;
        size_t n = c->iov[i].iov_len;

        *(i < c->n_out ? &out : &in) += n;
        sink ^= p[0] ^ p[n - 1]; /* both ends are mapped */
        if (i >= c->n_out)
            ((uint8_t *)c->iov[i].iov_base)[n - 1] = sink;
    }
    if (out != c->out_bytes || in != c->in_bytes || out + in > BYTES_MAX || c->head >= SIZE)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest g;
    static struct vq_chain c;
    struct vq_geometry geo = {.size = SIZE, .desc = BASE, .avail = AVAIL, .used = USED};
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in), ops = fuzz_u8(&in);
    const uint8_t *bytes;
    struct vq q;
    size_t n;

    if (!g.mem)
        guest_init(&g);
    n = fuzz_bytes(&in, 8192, &bytes);
    memset(guest_ptr(&g, BASE, 16384), 0, 16384);
    if (n)
        memcpy(guest_ptr(&g, BASE, n), bytes, n);
    if (vq_start(&q, g.mem, &geo, BYTES_MAX, flags & 1, flags & 2) < 0)
        abort();
    for (int i = 0; i < 64; i++) {
        int r = vq_pop(&q, &c);

        if (r < 0 && !q.fault)
            abort();
        if (r <= 0 && !vq_kicks_on(&q))
            break;
        if (r <= 0)
            continue;
        check(&c);
        if (ops & 1 && i % 3 == 0) {
            vq_rewind(&q, 1);
            ops >>= 1;
            continue;
        }
        vq_push(&q, c.head, c.in_bytes);
        if (ops & 2)
            (void)vq_flush(&q);
    }
    (void)vq_flush(&q);
    return 0;
}
