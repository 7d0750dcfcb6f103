/* SPDX-License-Identifier: Apache-2.0 */
/* Chains in the queue of a block device on a memfd, whose size must not change. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fuzz-chains.h"
#include "virtio/blk.h"

#define DISK (256U << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest g;
    static int fd;
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    struct virtio_blk_config cfg = {.bytes = DISK,
                                    .read_only = flags & 1,
                                    .durable = flags & 2,
                                    .discard = flags & 4,
                                    .serial = "fuzz"};
    struct virtio_device *dev;
    struct stat st;
    uint64_t arena;

    if (!g.mem) {
        guest_init(&g);
        fd = memfd_create("disk", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, DISK) < 0)
            abort();
    }
    cfg.fd = fd;
    if (virtio_blk_new(g.loop, &cfg, &dev) < 0)
        abort();
    guest_wipe(&g);
    if (!guest_start(&g, dev, GUEST_FEATURES_ALL, 64))
        abort();
    arena = guest_alloc(&g, 2 * FUZZ_ARENA);
    while (in.n) {
        if (fuzz_u8(&in) & 1) {
            fuzz_fill(&in, &g, arena);
            continue;
        }
        fuzz_chain(&in, &g, 0, arena);
        guest_kick(&g, 0);
        fuzz_take(&g, 0);
    }
    virtio_mmio_detach(g.w);
    (void)loop_turn(g.loop, 0);
    (void)guest_interrupts(&g);
    if (fstat(fd, &st) < 0 || st.st_size != DISK)
        abort();
    return 0;
}
