/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory. Slots 0 and 1 are RAM and never change; the others are published by a release store
 * of their length, so that a reader that sees a length sees the rest too. */
#include "kvm/gmem.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/str.h"
#include "kvm/layout.h"

struct slot {
    _Atomic uint64_t gpa;
    _Atomic uint64_t len; /* 0: not in use; written last when adding, first when removing */
    _Atomic(uint8_t *) hva;
};

struct gmem {
    int fd;       /* the memfd of RAM, ram_bytes, the low part first */
    uint8_t *ram; /* its mapping */
    uint64_t ram_bytes;
    uint64_t low_bytes;
    struct slot slots[GMEM_SLOTS];
};

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define RAM_SLOTS 2U
#define HUGE_BYTES (2ULL << 20)

static void slot_publish(struct slot *s, uint64_t gpa, uint8_t *hva, uint64_t len)
{
    atomic_store_explicit(&s->gpa, gpa, memory_order_relaxed);
    atomic_store_explicit(&s->hva, hva, memory_order_relaxed);
    atomic_store_explicit(&s->len, len, memory_order_release);
}

static uint64_t slot_len(const struct slot *s)
{
    return atomic_load_explicit(&s->len, memory_order_acquire);
}

/* A memfd of so many bytes that nobody can make shorter or longer any more: whoever maps it, here or in
 * a device's process, is safe from SIGBUS. No page of it exists yet. */
static int memfd_new(uint64_t bytes)
{
    const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    _cleanup_(closep) int fd = memfd_create("nexus-ram", flags | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create("nexus-ram", flags);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) < 0)
        return -errno;
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    return TAKE_FD(fd);
}

/* Maps it on a 2 MiB border, so that huge pages of the file are huge pages of the guest. */
static int ram_map(struct gmem *mem)
{
    size_t total = (size_t)(mem->ram_bytes + HUGE_BYTES);
    uint8_t *at, *start, *end;

    at = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return -errno;
    start = at + (HUGE_BYTES - (uintptr_t)at % HUGE_BYTES) % HUGE_BYTES;
    end = start + mem->ram_bytes;
    if (start > at)
        (void)munmap(at, (size_t)(start - at));
    if (end < at + total)
        (void)munmap(end, (size_t)(at + total - end));
    mem->ram = start;
    if (mmap(start, (size_t)mem->ram_bytes, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_NORESERVE | MAP_FIXED, mem->fd, 0) == MAP_FAILED)
        return -errno;
    /* hints: a host without them runs just as well */
    (void)madvise(start, (size_t)mem->ram_bytes, MADV_DONTDUMP);
    (void)madvise(start, (size_t)mem->ram_bytes, MADV_DONTFORK);
    (void)madvise(start, (size_t)mem->ram_bytes, MADV_HUGEPAGE);
    return 0;
}

int gmem_new(uint64_t ram_bytes, struct gmem **ret)
{
    _cleanup_(gmem_freep) struct gmem *mem = NULL;
    int r;

    if (ram_bytes < GMEM_RAM_MIN || ram_bytes > GMEM_RAM_MAX || ram_bytes % HUGE_BYTES)
        return -EINVAL;
    mem = xcalloc(1, sizeof(*mem));
    mem->ram_bytes = ram_bytes;
    mem->low_bytes = min_of(ram_bytes, (uint64_t)LAYOUT_RAM_LOW_TOP);
    mem->fd = memfd_new(ram_bytes);
    if (mem->fd < 0)
        return mem->fd;
    r = ram_map(mem);
    if (r < 0)
        return r;
    slot_publish(&mem->slots[0], 0, mem->ram, mem->low_bytes);
    if (ram_bytes > mem->low_bytes)
        slot_publish(&mem->slots[1], LAYOUT_RAM_HIGH_BASE, mem->ram + mem->low_bytes,
                     ram_bytes - mem->low_bytes);
    *ret = TAKE(mem);
    return 0;
}

void gmem_free(struct gmem *mem)
{
    if (!mem)
        return;
    if (mem->ram)
        (void)munmap(mem->ram, (size_t)mem->ram_bytes);
    mem->fd = close_fd(mem->fd);
    free(mem);
}

/* The slot of gpa and the bytes left in it from there; NULL: none. */
static const struct slot *slot_find(const struct gmem *mem, uint64_t gpa, uint64_t *ret_offset,
                                    uint64_t *ret_left)
{
    for (unsigned i = 0; i < GMEM_SLOTS; i++) {
        const struct slot *s = &mem->slots[i];
        uint64_t len = slot_len(s);
        uint64_t start = atomic_load_explicit(&s->gpa, memory_order_relaxed);

        if (!len || gpa < start || gpa - start >= len)
            continue;
        *ret_offset = gpa - start;
        *ret_left = len - (gpa - start);
        return s;
    }
    return NULL;
}

static bool slot_is_readonly(const struct gmem *mem, const struct slot *s)
{
    return s >= &mem->slots[RAM_SLOTS];
}

int gmem_span(const struct gmem *mem, uint64_t gpa, uint64_t len, enum gmem_access access,
              struct span *ret)
{
    uint64_t offset, left;
    const struct slot *s;

    if (!len)
        return -EINVAL;
    s = slot_find(mem, gpa, &offset, &left);
    if (!s || len > left)
        return -EFAULT;
    if (access == GMEM_WRITE && slot_is_readonly(mem, s))
        return -EROFS;
    ret->ptr = atomic_load_explicit(&s->hva, memory_order_relaxed) + offset;
    ret->len = len;
    return 0;
}

int gmem_read(const struct gmem *mem, uint64_t gpa, void *ret, uint64_t len)
{
    struct span span;
    int r;

    if (!len)
        return 0;
    r = gmem_span(mem, gpa, len, GMEM_READ, &span);
    if (r < 0)
        return r;
    memcpy(ret, span.ptr, (size_t)len);
    return 0;
}

int gmem_write(const struct gmem *mem, uint64_t gpa, const void *bytes, uint64_t len)
{
    struct span span;
    int r;

    if (!len)
        return 0;
    r = gmem_span(mem, gpa, len, GMEM_WRITE, &span);
    if (r < 0)
        return r;
    memcpy(span.ptr, bytes, (size_t)len);
    return 0;
}

int gmem_discard(const struct gmem *mem, uint64_t gpa, uint64_t len)
{
    struct span span;
    int r;

    if (gpa % GMEM_PAGE || len % GMEM_PAGE)
        return -EINVAL;
    r = gmem_span(mem, gpa, len, GMEM_WRITE, &span);
    if (r < 0)
        return r;
    return madvise(span.ptr, (size_t)len, MADV_REMOVE) < 0 ? -errno : 0;
}

void gmem_expect(const struct gmem *mem, uint64_t gpa, uint64_t len)
{
    struct span span;
    uint8_t *at, *end;

    if (gmem_span(mem, gpa, len, GMEM_WRITE, &span) < 0)
        return;
    at = (uint8_t *)span.ptr - (uintptr_t)span.ptr % HUGE_BYTES; /* RAM begins on a border */
    end = (uint8_t *)span.ptr + len;
    for (; at < end && mem->ram + mem->ram_bytes - at >= (ptrdiff_t)HUGE_BYTES; at += HUGE_BYTES) {
        (void)*(volatile uint8_t *)at; /* only what has a page already can be collapsed */
        if (madvise(at, HUGE_BYTES, MADV_COLLAPSE) < 0 && errno != EAGAIN)
            return; /* before Linux 6.1, or the host has no more: searching costs time */
    }
}

uint64_t gmem_ram_bytes(const struct gmem *mem)
{
    return mem->ram_bytes;
}

uint64_t gmem_ram_low_bytes(const struct gmem *mem)
{
    return mem->low_bytes;
}

uint64_t gmem_ram_end(const struct gmem *mem)
{
    return LAYOUT_RAM_HIGH_BASE + (mem->ram_bytes - mem->low_bytes);
}

bool gmem_slot_get(const struct gmem *mem, unsigned index, struct gmem_slot *ret)
{
    const struct slot *s;
    uint64_t len;

    if (index >= GMEM_SLOTS)
        return false;
    s = &mem->slots[index];
    len = slot_len(s);
    if (!len)
        return false;
    *ret = (struct gmem_slot){
        .fd = -EBADF,
        .gpa = atomic_load_explicit(&s->gpa, memory_order_relaxed),
        .len = len,
        .hva = atomic_load_explicit(&s->hva, memory_order_relaxed),
        .readonly = slot_is_readonly(mem, s),
    };
    if (!ret->readonly) {
        ret->fd = mem->fd;
        ret->fd_offset = (uint64_t)((uint8_t *)ret->hva - mem->ram);
    }
    return true;
}

bool gmem_is_readonly(const struct gmem *mem, uint64_t gpa)
{
    uint64_t offset, left;
    const struct slot *s = slot_find(mem, gpa, &offset, &left);

    return s && slot_is_readonly(mem, s);
}

/* True if [gpa, gpa + len) (no wrap) touches a slot; *ret_end is where that slot ends. */
static bool slots_overlap(const struct gmem *mem, uint64_t gpa, uint64_t len, uint64_t *ret_end)
{
    for (unsigned i = 0; i < GMEM_SLOTS; i++) {
        struct gmem_slot s;

        if (!gmem_slot_get(mem, i, &s) || gpa >= s.gpa + s.len || s.gpa >= gpa + len)
            continue;
        *ret_end = s.gpa + s.len;
        return true;
    }
    return false;
}

int gmem_add_readonly(struct gmem *mem, uint64_t gpa, const void *hva, uint64_t len)
{
    uint64_t end;

    if (!len || len % LAYOUT_PMEM_ALIGN || gpa % LAYOUT_PMEM_ALIGN || !checked_add(gpa, len, &end))
        return -EINVAL;
    if (gpa < gmem_ram_end(mem) || slots_overlap(mem, gpa, len, &end))
        return -EEXIST;
    for (unsigned i = RAM_SLOTS; i < GMEM_SLOTS; i++) {
        if (slot_len(&mem->slots[i]))
            continue;
        /* the const goes here and nowhere comes back: GMEM_WRITE never yields this pointer */
        slot_publish(&mem->slots[i], gpa, (uint8_t *)(uintptr_t)hva, len);
        return (int)i;
    }
    return -ENOSPC;
}

int gmem_remove_readonly(struct gmem *mem, uint64_t gpa)
{
    for (unsigned i = RAM_SLOTS; i < GMEM_SLOTS; i++) {
        struct gmem_slot s;

        if (!gmem_slot_get(mem, i, &s) || s.gpa != gpa)
            continue;
        slot_publish(&mem->slots[i], 0, NULL, 0);
        return (int)i;
    }
    return -ENOENT;
}

int gmem_find_readonly(const struct gmem *mem, uint64_t len, uint64_t limit_gpa, uint64_t *ret_gpa)
{
    uint64_t gpa = 0, end = 0, top;

    if (!len || !align_up(gmem_ram_end(mem), LAYOUT_PMEM_START_ALIGN, &gpa))
        return -EINVAL;
    for (;;) {
        if (!checked_add(gpa, len, &top) || top > limit_gpa)
            return -ENOSPC;
        if (!slots_overlap(mem, gpa, len, &end))
            break;
        gpa = end; /* slots end on 2 MiB */
    }
    *ret_gpa = gpa;
    return 0;
}
