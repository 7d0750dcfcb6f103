/* SPDX-License-Identifier: Apache-2.0 */
/* A remote command's channels. The first byte says which carrier and version; then SPDY frames as
 * lib/fuzz-spdy.h makes them or (raw, WebSocket) runs of bytes, and what the server does between them. */
#include <stdlib.h>

#include "base/checked.h"
#include "lib/fuzz-spdy.h"
#include "stream/channels.h"
#include "stream/resize.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int take_all(struct channels *c, struct resize_reader *resize)
{
    struct channels_event ev;
    int r;

    while ((r = channels_next(c, &ev)) > 0) {
        uint16_t columns, rows;
        bool is_size;

        while (ev.type == CHANNELS_DATA && ev.channel == CHANNEL_RESIZE && ev.len) {
            size_t n = resize_feed(resize, ev.data, ev.len, &is_size, &columns, &rows);

            ev.data += n;
            ev.len -= n;
        }
        if (ev.type == CHANNELS_LEFT)
            return -1;
    }
    return r;
}

/* What the server does: writes, ends, drains. */
static void act(struct channels *c, uint8_t what)
{
    static const uint8_t bytes[CHANNELS_WRITE_BYTES];
    const uint8_t *out;

    if (what & 1)
        (void)channels_write(c, CHANNEL_STDOUT, bytes, (size_t)what << 5);
    if (what & 2)
        channels_end(c, CHANNEL_STDERR);
    if (what & 4)
        (void)channels_write(c, CHANNEL_ERROR, bytes, what);
    if (what & 8)
        channels_out_done(c, channels_out(c, &out));
    if (what & 16)
        channels_out_done(c, channels_out(c, &out) / 2);
    if (what == 255)
        channels_finish(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t mode = fuzz_u8(&in);
    struct channels_config config = {.upgrade = {mode & 1 ? UPGRADE_WEBSOCKET : UPGRADE_SPDY,
                                                 1U + (unsigned)(mode >> 1) % 5U, mode & 16},
                                     .in = true,
                                     .out = true,
                                     .err = !(mode & 32),
                                     .tty = mode & 32};
    struct resize_reader resize = {0};
    struct spdy_client client;
    struct channels *c;
    const uint8_t *p;
    int r = 0;

    client_init(&client, true);
    if (channels_new(&config, &c) < 0)
        abort();
    while (in.n && r == 0) {
        uint8_t what = fuzz_u8(&in);

        if (mode & 1 || mode & 64) {
            size_t n = fuzz_bytes(&in, fuzz_u8(&in), &p);

            client_bytes(&client, p, n);
        } else {
            fuzz_spdy_frame(&in, &client);
        }
        if (channels_want_input(c)) {
            size_t n = min_of(client.out.used, (size_t)65536);

            if (channels_feed(c, client.out.data, n) < 0)
                abort(); /* it wanted input */
            buf_consume(&client.out, n);
        }
        r = take_all(c, &resize);
        act(c, what);
    }
    channels_free(c);
    client_done(&client);
    return 0;
}
