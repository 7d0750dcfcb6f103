/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/guest.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/le.h"

#define HEAP 0x100000ULL
#define TURNS_MAX 10000U

static void must(bool ok)
{
    if (!ok)
        abort();
}

void guest_init(struct guest *g)
{
    *g = (struct guest){.irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .brk = HEAP};
    must(g->irq_fd >= 0);
    must(loop_new(&g->loop) == 0);
    must(gmem_new(GUEST_RAM_BYTES, &g->mem) == 0);
    must(virtio_mmio_new(g->loop, g->mem, g->irq_fd, &g->w) == 0);
}

void guest_done(struct guest *g)
{
    virtio_mmio_free(g->w);
    loop_free(g->loop);
    gmem_free(g->mem);
    g->irq_fd = close_fd(g->irq_fd);
}

void guest_wipe(struct guest *g)
{
    if (g->brk > HEAP)
        memset(guest_ptr(g, HEAP, g->brk - HEAP), 0, g->brk - HEAP);
    g->brk = HEAP;
    memset(g->q, 0, sizeof(g->q));
}

uint32_t guest_read(struct guest *g, uint64_t offset)
{
    uint8_t b[4] = {0};

    virtio_mmio_access(g->w, offset, b, 4, false);
    return le32_load(b);
}

void guest_write(struct guest *g, uint64_t offset, uint32_t v)
{
    uint8_t b[4];

    le32_store(b, v);
    virtio_mmio_access(g->w, offset, b, 4, true);
}

uint8_t guest_config8(struct guest *g, uint64_t offset)
{
    uint8_t b = 0;

    virtio_mmio_access(g->w, VIRTIO_MMIO_CONFIG + offset, &b, 1, false);
    return b;
}

uint64_t guest_config64(struct guest *g, uint64_t offset)
{
    uint8_t b[8] = {0};

    virtio_mmio_access(g->w, VIRTIO_MMIO_CONFIG + offset, b, 8, false);
    return le64_load(b);
}

void guest_attach(struct guest *g, struct virtio_device *dev)
{
    must(virtio_mmio_attach(g->w, dev) == 0);
}

bool guest_negotiate(struct guest *g, uint64_t features)
{
    uint64_t offered = 0;

    guest_write(g, VIRTIO_MMIO_STATUS, 0);
    guest_write(g, VIRTIO_MMIO_STATUS, 1);
    guest_write(g, VIRTIO_MMIO_STATUS, 3);
    for (uint32_t i = 0; i < 2; i++) {
        guest_write(g, VIRTIO_MMIO_DEVICE_FEATURES_SEL, i);
        offered |= (uint64_t)guest_read(g, VIRTIO_MMIO_DEVICE_FEATURES) << (32 * i);
    }
    g->features = offered & features;
    for (uint32_t i = 0; i < 2; i++) {
        guest_write(g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
        guest_write(g, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(g->features >> (32 * i)));
    }
    guest_write(g, VIRTIO_MMIO_STATUS, 11);
    return guest_read(g, VIRTIO_MMIO_STATUS) == 11;
}

static void write_addr(struct guest *g, uint64_t offset, uint64_t v)
{
    guest_write(g, offset, (uint32_t)v);
    guest_write(g, offset + 4, (uint32_t)(v >> 32));
}

bool guest_setup_queue(struct guest *g, unsigned q, uint16_t size)
{
    struct guest_queue *gq = &g->q[q];

    *gq = (struct guest_queue){.size = size};
    gq->desc = guest_alloc(g, 16ULL * size);
    gq->avail = guest_alloc(g, 6 + 2ULL * size);
    gq->used = guest_alloc(g, 6 + 8ULL * size);
    guest_write(g, VIRTIO_MMIO_QUEUE_SEL, q);
    guest_write(g, VIRTIO_MMIO_QUEUE_NUM, size);
    write_addr(g, VIRTIO_MMIO_QUEUE_DESC_LOW, gq->desc);
    write_addr(g, VIRTIO_MMIO_QUEUE_AVAIL_LOW, gq->avail);
    write_addr(g, VIRTIO_MMIO_QUEUE_USED_LOW, gq->used);
    guest_write(g, VIRTIO_MMIO_QUEUE_READY, 1);
    return guest_read(g, VIRTIO_MMIO_QUEUE_READY) == 1;
}

bool guest_driver_ok(struct guest *g)
{
    guest_write(g, VIRTIO_MMIO_STATUS, 15);
    return guest_read(g, VIRTIO_MMIO_STATUS) == 15;
}

void guest_reset(struct guest *g)
{
    guest_write(g, VIRTIO_MMIO_STATUS, 0);
}

bool guest_start(struct guest *g, struct virtio_device *dev, uint64_t features, uint16_t size)
{
    guest_attach(g, dev);
    if (!guest_negotiate(g, features))
        return false;
    for (unsigned q = 0; q < virtio_mmio_queue_count(g->w); q++) {
        if (!guest_setup_queue(g, q, size))
            return false;
    }
    return guest_driver_ok(g);
}

uint64_t guest_alloc(struct guest *g, uint64_t bytes)
{
    uint64_t at = g->brk;

    g->brk = (at + bytes + 63) & ~63ULL;
    must(g->brk <= GUEST_RAM_BYTES);
    return at;
}

void *guest_ptr(struct guest *g, uint64_t gpa, uint64_t len)
{
    struct span s;

    must(gmem_span(g->mem, gpa, len, GMEM_WRITE, &s) == 0);
    return s.ptr;
}

void guest_desc(struct guest *g, unsigned q, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
                uint16_t next)
{
    uint8_t *d = guest_ptr(g, g->q[q].desc + 16ULL * i, 16);

    le64_store(d, gpa);
    le32_store(d + 8, len);
    le16_store(d + 12, flags);
    le16_store(d + 14, next);
}

void guest_offer(struct guest *g, unsigned q, uint16_t head)
{
    struct guest_queue *gq = &g->q[q];
    uint8_t *avail = guest_ptr(g, gq->avail, 6 + 2ULL * gq->size);

    le16_store(avail + 4 + 2U * (gq->avail_idx & (gq->size - 1U)), head);
    gq->avail_idx++;
    le16_store(avail + 2, gq->avail_idx);
}

uint16_t guest_add(struct guest *g, unsigned q, const struct guest_buf *bufs, unsigned n)
{
    struct guest_queue *gq = &g->q[q];
    uint16_t head = gq->desc_next;

    for (unsigned i = 0; i < n; i++) {
        uint16_t at = gq->desc_next;
        uint16_t next = (uint16_t)((at + 1U) & (gq->size - 1U));

        guest_desc(g, q, at, bufs[i].gpa, bufs[i].len,
                   (uint16_t)((bufs[i].write ? VRING_DESC_F_WRITE : 0) |
                              (i + 1 < n ? VRING_DESC_F_NEXT : 0)),
                   next);
        gq->desc_next = next;
    }
    guest_offer(g, q, head);
    return head;
}

void guest_kick(struct guest *g, unsigned q)
{
    guest_write(g, VIRTIO_MMIO_QUEUE_NOTIFY, q);
}

bool guest_wants_kick(struct guest *g, unsigned q, uint16_t from)
{
    struct guest_queue *gq = &g->q[q];
    const uint8_t *used = guest_ptr(g, gq->used, 6 + 8ULL * gq->size);

    if (!(g->features & (1ULL << VIRTIO_RING_F_EVENT_IDX)))
        return !(le16_load(used) & VRING_USED_F_NO_NOTIFY);
    return vring_need_event(le16_load(used + 4 + 8U * gq->size), gq->avail_idx, from);
}

bool guest_used(struct guest *g, unsigned q, uint32_t *ret_head, uint32_t *ret_len)
{
    struct guest_queue *gq = &g->q[q];
    const uint8_t *used = guest_ptr(g, gq->used, 6 + 8ULL * gq->size);
    const uint8_t *e = used + 4 + 8U * (gq->used_seen & (gq->size - 1U));

    if (le16_load(used + 2) == gq->used_seen)
        return false;
    *ret_head = le32_load(e);
    *ret_len = le32_load(e + 4);
    gq->used_seen++;
    return true;
}

void guest_set_used_event(struct guest *g, unsigned q, uint16_t v)
{
    struct guest_queue *gq = &g->q[q];

    le16_store(guest_ptr(g, gq->avail + 4 + 2ULL * gq->size, 2), v);
}

unsigned guest_run(struct guest *g)
{
    unsigned turns = 0;

    while (turns < TURNS_MAX && loop_turn(g->loop, 0) > 0)
        turns++;
    return turns;
}

unsigned guest_interrupts(struct guest *g)
{
    uint64_t v = 0;

    return read(g->irq_fd, &v, sizeof(v)) == sizeof(v) ? (unsigned)v : 0;
}

uint32_t guest_take_interrupt(struct guest *g)
{
    uint32_t v = guest_read(g, VIRTIO_MMIO_INTERRUPT_STATUS);

    guest_write(g, VIRTIO_MMIO_INTERRUPT_ACK, v);
    return v;
}

bool guest_needs_reset(struct guest *g)
{
    return guest_read(g, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}
