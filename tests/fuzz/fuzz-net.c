/* SPDX-License-Identifier: Apache-2.0 */
/* Chains in both queues of the network device and frames on its wire (a socket pair). */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "lib/fuzz-chains.h"
#include "virtio/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest g;
    static int sv[2];
    struct fuzz_input in = {data, size};
    struct virtio_net_config cfg = {.mac = {2}};
    struct virtio_device *dev;
    uint8_t features = fuzz_u8(&in), sink[256];
    const uint8_t *bytes;
    uint64_t arena;

    if (!g.mem) {
        guest_init(&g);
        if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, sv) < 0)
            abort();
    }
    cfg.tap_fd = sv[1];
    cfg.mtu = features & 1 ? 68 : 0;
    if (virtio_net_new(g.loop, &cfg, &dev) < 0)
        abort();
    guest_wipe(&g);
    if (!guest_start(&g, dev, features & 2 ? GUEST_FEATURES_ALL : 1ULL << 32, 64))
        abort();
    arena = guest_alloc(&g, 2 * FUZZ_ARENA);
    while (in.n) {
        uint8_t what = fuzz_u8(&in);

        if (what & 8) {
            fuzz_fill(&in, &g, arena);
        } else if (what & 4) {
            size_t n = fuzz_bytes(&in, fuzz_u8(&in), &bytes);
            (void)send(sv[0], bytes, n, 0);
        } else {
            fuzz_chain(&in, &g, what & 1, arena);
            guest_kick(&g, what & 1);
        }
        fuzz_take(&g, 0);
        fuzz_take(&g, 1);
        while (recv(sv[0], sink, sizeof(sink), 0) >= 0)
            ;
    }
    virtio_mmio_detach(g.w);
    while (recv(sv[1], sink, sizeof(sink), 0) >= 0)
        ;
    (void)loop_turn(g.loop, 0);
    (void)guest_interrupts(&g);
    return 0;
}
