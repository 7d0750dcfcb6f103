/* SPDX-License-Identifier: Apache-2.0 */
/* A port-forward connection. The first byte says which carrier; then SPDY frames as lib/fuzz-spdy.h makes them,
 * or (raw, WebSocket) runs of bytes, and what the server does between them; time passes. The older WebSocket form
 * gets messages of any channel, or raw bytes. */
#include <stdlib.h>

#include "base/checked.h"
#include "lib/fuzz-spdy.h"
#include "stream/forward.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t last_pair;

static int take_all(struct forward *f, uint64_t now_ns)
{
    struct forward_event ev;
    int r;

    while ((r = forward_next(f, now_ns, &ev)) > 0) {
        if (ev.type == FORWARD_LEFT)
            return -1;
        last_pair = ev.pair;
    }
    return r;
}

static void act(struct forward *f, uint8_t what)
{
    static const uint8_t bytes[FORWARD_WRITE_BYTES];
    const uint8_t *out;

    switch (what & 7) {
    case 0:
        forward_end(f, last_pair);
        break;
    case 1:
        forward_close(f, last_pair);
        break;
    case 2:
        forward_fail(f, last_pair, what & 8 ? "why" : NULL);
        break;
    case 3:
        forward_out_done(f, forward_out(f, &out) / 2);
        break;
    case 4:
        forward_out_done(f, forward_out(f, &out));
        break;
    default:
        (void)forward_write(f, last_pair, bytes, (size_t)what << 5);
        break;
    }
    if (what == 255)
        forward_finish(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t mode = fuzz_u8(&in);
    struct spdy_client client, frames;
    struct forward *f;
    uint64_t now_ns = 1;
    int r = 0;

    last_pair = 1;
    const uint16_t ports[] = {80, 65535, 1};
    struct upgrade upgrade = {.wire = mode & 1 ? UPGRADE_WEBSOCKET : UPGRADE_SPDY};

    if (mode & 4)
        upgrade = (struct upgrade){.wire = UPGRADE_PORTS, .base64 = mode & 8};
    client_init(&client, true);
    client_init(&frames, true);
    if (forward_new(&upgrade, ports, ARRAY_SIZE(ports), &f) < 0)
        abort();
    while (in.n && r == 0) {
        uint8_t what = fuzz_u8(&in);
        const uint8_t *p;
        size_t n;

        if (mode & 2) {
            n = fuzz_bytes(&in, fuzz_u8(&in), &p);
            client_bytes(&client, p, n);
        } else if (mode & 4) {
            n = fuzz_bytes(&in, fuzz_u8(&in) % 126, &p);
            client_bytes(&client,
                         (uint8_t[]){mode & 8 ? 0x81 : 0x82, (uint8_t)(0x80 | n), 0, 0, 0, 0}, 6);
            client_bytes(&client, p, n);
        } else {
            fuzz_spdy_frame(&in, mode & 1 ? &frames : &client);
        }
        if (mode & 1 && frames.out.used) { /* in messages, masked by nothing */
            n = min_of(frames.out.used, (size_t)100);
            client_bytes(&client, (uint8_t[]){0x82, (uint8_t)(0x80 | n), 0, 0, 0, 0}, 6);
            client_bytes(&client, frames.out.data, n);
            buf_consume(&frames.out, n);
        }
        if (forward_wants_input(f)) {
            n = min_of(client.out.used, (size_t)65536);
            if (forward_feed(f, client.out.data, n) < 0)
                abort(); /* it wanted input */
            buf_consume(&client.out, n);
        }
        r = take_all(f, now_ns);
        now_ns += (uint64_t)what << 30;
        (void)forward_tick(f, now_ns);
        act(f, what);
    }
    forward_free(f);
    client_done(&client);
    client_done(&frames);
    return 0;
}
