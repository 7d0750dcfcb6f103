/* SPDX-License-Identifier: Apache-2.0 */
/* Register accesses in any order and width against a window with a device, with turns of the loop in
 * between. Each access: u8 what, u16 offset, u32 value. */
#include <stddef.h>
#include <stdint.h>

#include "lib/fuzz-input.h"
#include "lib/guest.h"
#include "virtio/pmem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct virtio_device *dev;
    static struct guest g;

    if (!g.mem)
        guest_init(&g);
    if (virtio_pmem_new(4ULL << 30, 2 << 20, &dev) < 0)
        return 0;
    guest_attach(&g, dev);
    while (in.n) {
        uint8_t what = fuzz_u8(&in);
        uint64_t offset = fuzz_u16(&in) & 0x3ff;
        uint32_t value = fuzz_u32(&in);
        uint8_t b[8] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                        (uint8_t)(value >> 24)};

        if (what & 0x10)
            offset &= 0xfc;
        if (what & 0x20)
            value &= 15;
        if (what & 0x40)
            guest_write(&g, offset & 0xfc, value);
        else
            virtio_mmio_access(g.w, offset, b, what & 0x10 ? 4 : 1U << (what & 3), what & 4);
        if (what & 0x80)
            (void)loop_turn(g.loop, 0);
    }
    virtio_mmio_detach(g.w);
    (void)loop_turn(g.loop, 0);
    (void)guest_interrupts(&g);
    return 0;
}
