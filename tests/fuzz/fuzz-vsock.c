/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile guest and a fickle user on one vsock device: the input is a list of what each does. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "base/limit.h"
#include "lib/fuzz-input.h"
#include "lib/guest.h"
#include "virtio/vsock.h"

#define RX 0
#define TX 1
#define HDR 44
#define CONNS 8
#define QUEUE 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
    struct guest g;
    struct vsock *v;
    struct vsock_conn *c[CONNS];
    struct fuzz_input in;
    uint64_t tx, rx;
    uint32_t last_src, last_dst; /* of the last packet to the guest: to answer to */
    unsigned callbacks;
};

static void forget(struct world *w, const struct vsock_conn *c)
{
    for (unsigned i = 0; i < CONNS; i++) {
        if (w->c[i] == c)
            w->c[i] = NULL;
    }
}

static size_t on_data(struct vsock_conn *c, const uint8_t *p, size_t n, void *ud)
{
    struct world *w = ud;
    uint8_t what = fuzz_u8(&w->in);

    if (n == 0 || n > LIMIT_VSOCK_BUFFER_BYTES)
        abort();
    if (what == 0xff) {
        forget(w, c);
        vsock_conn_close(c);
        return 0;
    }
    if (what & 1)
        (void)vsock_conn_write(c, p, n);
    if (what & 2)
        vsock_conn_shutdown(c);
    return what & 4 ? n / 2 : n;
}

static void on_event(struct vsock_conn *c, void *ud)
{
    struct world *w = ud;

    if (w->callbacks++ > 1000000)
        abort();
    if (fuzz_u8(&w->in) == 0xfe) {
        forget(w, c);
        vsock_conn_close(c);
    }
}

static void on_closed(struct vsock_conn *c, int reason, void *ud)
{
    forget(ud, c);
}

static const struct vsock_conn_ops ops = {on_event, on_data, on_event, on_event, on_closed};

static void keep(struct world *w, struct vsock_conn *c)
{
    for (unsigned i = 0; i < CONNS; i++) {
        if (!w->c[i]) {
            w->c[i] = c;
            return;
        }
    }
    vsock_conn_close(c);
}

static bool on_accept(struct vsock *v, struct vsock_conn *c, void *ud)
{
    struct world *w = ud;

    if (fuzz_u8(&w->in) & 1)
        return false;
    vsock_conn_set_ops(c, &ops, w);
    keep(w, c);
    return true;
}

/* Most fields are likely values; each may be anything. */
static void guest_packet(struct world *w)
{
    struct fuzz_input *in = &w->in;
    uint8_t odd = fuzz_u8(in);
    uint8_t *b = guest_ptr(&w->g, w->tx, HDR);
    uint32_t len = fuzz_u8(in) * 300U, chain = len;
    struct guest_buf bufs[2];

    le64_store(b, odd & 1 && fuzz_u8(in) == 0 ? fuzz_u64(in) : 3);
    le64_store(b + 8, odd & 1 && fuzz_u8(in) == 0 ? fuzz_u64(in) : 2);
    le32_store(b + 16, odd & 2 ? w->last_dst : 5000U + (fuzz_u8(in) & 7));
    le32_store(b + 20, odd & 2 ? w->last_src : odd & 4 ? fuzz_u32(in) : 1024);
    if (odd & 8)
        len = fuzz_u32(in);
    le32_store(b + 24, len);
    le16_store(b + 28, odd & 16 ? fuzz_u16(in) : 1);
    le16_store(b + 30, odd & 32 ? fuzz_u16(in) : fuzz_u8(in) & 7);
    le32_store(b + 32, odd & 64 ? fuzz_u32(in) : fuzz_u8(in) & 3);
    le32_store(b + 36, odd & 128 ? fuzz_u32(in) : 65536);
    le32_store(b + 40, odd & 128 ? fuzz_u32(in) : 0);
    bufs[0] = (struct guest_buf){w->tx, HDR, false};
    bufs[1] = (struct guest_buf){w->tx + 64, chain ? chain : 1, false};
    (void)guest_add(&w->g, TX, bufs, chain ? 2 : 1);
    guest_kick(&w->g, TX);
}

static void give_rx(struct world *w, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct guest_buf b = {w->rx, HDR + fuzz_u8(&w->in) * 16U, true};

        if ((uint16_t)(w->g.q[RX].avail_idx - w->g.q[RX].used_seen) >= QUEUE)
            break;
        (void)guest_add(&w->g, RX, &b, 1);
    }
    guest_kick(&w->g, RX);
}

static void take(struct world *w)
{
    uint32_t head, len;

    (void)loop_turn(w->g.loop, 0);
    while (guest_used(&w->g, RX, &head, &len)) {
        const uint8_t *b = guest_ptr(&w->g, w->rx, HDR);

        if (len < HDR || len > HDR + 255 * 16)
            abort();
        w->last_src = le32_load(b + 16);
        w->last_dst = le32_load(b + 20);
    }
    while (guest_used(&w->g, TX, &head, &len))
        ;
    if (vsock_conn_count(w->v) > LIMIT_VSOCK_CONNECTIONS)
        abort();
}

static void user_acts(struct world *w, uint8_t what)
{
    static const uint8_t bytes[4096];
    unsigned i = fuzz_u8(&w->in) % CONNS;
    struct vsock_conn *c = w->c[i];

    if (!c) {
        if (what == 3 && vsock_connect(w->v, 1025, &ops, w, &c) == 0)
            w->c[i] = c;
        return;
    }
    if (what == 3) {
        (void)vsock_conn_write(c, bytes, fuzz_u16(&w->in) % sizeof(bytes));
    } else if (what == 4) {
        vsock_conn_resume(c);
    } else if (what == 5) {
        vsock_conn_shutdown(c);
    } else {
        w->c[i] = NULL;
        vsock_conn_close(c);
    }
}

static bool start(struct world *w)
{
    guest_wipe(&w->g);
    if (!guest_negotiate(&w->g, GUEST_FEATURES_ALL))
        return false;
    for (unsigned q = 0; q < 3; q++) {
        if (!guest_setup_queue(&w->g, q, QUEUE))
            return false;
    }
    w->tx = guest_alloc(&w->g, 128 << 10);
    w->rx = guest_alloc(&w->g, 8192);
    return guest_driver_ok(&w->g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world w;

    if (!w.g.mem)
        guest_init(&w.g);
    w.in = (struct fuzz_input){data, size};
    w.callbacks = 0;
    memset(w.c, 0, sizeof(w.c));
    if (vsock_new(w.g.loop, 3, &w.v) < 0 || vsock_listen(w.v, 1024, on_accept, &w) < 0)
        abort();
    guest_attach(&w.g, vsock_device(w.v));
    if (!start(&w))
        abort();
    give_rx(&w, 8);
    while (w.in.n) {
        uint8_t what = fuzz_u8(&w.in) & 7;

        if (what < 2)
            guest_packet(&w);
        else if (what == 2)
            give_rx(&w, fuzz_u8(&w.in) & 31);
        else if (what < 7)
            user_acts(&w, what);
        else if (fuzz_u8(&w.in) == 0 && !start(&w))
            abort();
        take(&w);
    }
    virtio_mmio_detach(w.g.w);
    (void)loop_turn(w.g.loop, 0);
    (void)guest_interrupts(&w.g);
    return 0;
}
