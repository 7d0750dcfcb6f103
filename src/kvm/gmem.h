/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: the only module that turns a guest-physical address into a host pointer. RAM is one
 * memfd, mapped shared, in one or two slots (below 3 GiB, from 4 GiB); pmem regions are further,
 * read-only slots. Knows nothing of KVM, devices, queues or exits. Start reading at gmem_span().
 *
 * Threads: slots are added and removed by one thread (the loop); any thread may look addresses up.
 * A span into RAM is valid for the life of the gmem. A span into a read-only slot is valid until
 * that slot is removed, so it may be kept only by the thread that removes slots. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/limit.h"

struct gmem;

struct span {
    void *ptr;
    uint64_t len; /* bytes */
};
enum gmem_access { GMEM_READ, GMEM_WRITE };

#define GMEM_PAGE 4096ULL
#define GMEM_RAM_MIN (64ULL << 20)
#define GMEM_RAM_MAX (512ULL << 30)
#define GMEM_SLOTS (2U + LIMIT_REGIONS + LIMIT_PARKED)

/* ram_bytes: a multiple of 2 MiB in [GMEM_RAM_MIN, GMEM_RAM_MAX]. The pages are not there yet: the
 * first touch makes them, zeroed; huge ones where the host has them for shared memory
 * (/sys/kernel/mm/transparent_hugepage/shmem_enabled: advise or always). The memfd is sealed: its
 * size is fixed for ever. 0; -EINVAL; -ENOMEM; what memfd_create and mmap say. */
int gmem_new(uint64_t ram_bytes, struct gmem **ret);
/* Unmaps RAM and closes its fd; read-only slots are only forgotten. */
void gmem_free(struct gmem *mem);
DEFINE_CLEANUP(struct gmem *, gmem_free);

/* The host view of guest-physical bytes [gpa, gpa + len).
 *   gpa, len   bytes; chosen by the guest and not trusted
 *   ret        borrowed; written on success only
 * 0; -EINVAL: len is 0; -EFAULT: a byte outside the slot of gpa, or gpa + len wraps; -EROFS: write
 * to a read-only slot. Any thread; no allocation, no log. The guest may change the bytes at any
 * time: copy, then check. Reading a read-only slot whose file was truncated raises SIGBUS, which
 * mapper/fault.h turns into zeros. Source: virtio 1.3 section 2.7, kernel
 * Documentation/virt/kvm/api.rst. */
int gmem_span(const struct gmem *mem, uint64_t gpa, uint64_t len, enum gmem_access access,
              struct span *ret);
/* Copies; errors of gmem_span. len 0 succeeds. */
int gmem_read(const struct gmem *mem, uint64_t gpa, void *ret, uint64_t len);
int gmem_write(const struct gmem *mem, uint64_t gpa, const void *bytes, uint64_t len);

/* Gives whole pages of RAM back to the host; they read as zeros afterwards. gpa, len: multiples of
 * GMEM_PAGE, from the guest. Errors of gmem_span (-EROFS for pmem), -EINVAL: not aligned. */
int gmem_discard(const struct gmem *mem, uint64_t gpa, uint64_t len);

/* Most of [gpa, gpa + len) of RAM is about to be written: huge pages, where the host can make them, of
 * all 2 MiB pieces that it touches, at once and also where huge pages of shared memory are not given by
 * themselves (shmem_enabled: never, the default of most kernels). A hint; before vCPUs run. */
void gmem_expect(const struct gmem *mem, uint64_t gpa, uint64_t len);

uint64_t gmem_ram_bytes(const struct gmem *mem);
/* RAM below 3 GiB, in bytes: [0, low). */
uint64_t gmem_ram_low_bytes(const struct gmem *mem);
/* First guest-physical address above all RAM; never below 4 GiB, so that pmem has no hole to mind. */
uint64_t gmem_ram_end(const struct gmem *mem);

struct gmem_slot {
    uint64_t gpa; /* bytes */
    uint64_t len; /* bytes; 0: slot not in use */
    void *hva;
    bool readonly;
    int fd;             /* RAM: the memfd, borrowed, for a device's process to map; else negative */
    uint64_t fd_offset; /* bytes; where the slot begins in it */
};
/* A copy of slot index (< GMEM_SLOTS); false: not in use. The index is the KVM slot number. */
bool gmem_slot_get(const struct gmem *mem, unsigned index, struct gmem_slot *ret);
/* True if gpa lies in a read-only slot. */
bool gmem_is_readonly(const struct gmem *mem, uint64_t gpa);

/* Makes [gpa, gpa + len) a read-only view of len bytes at hva (borrowed, must outlive the slot).
 * The slot index, or -EINVAL: not 2 MiB aligned, empty or wrapping; -EEXIST: overlaps a slot;
 * -ENOSPC: all slots are in use. Thread: the loop's (or before other threads exist). */
int gmem_add_readonly(struct gmem *mem, uint64_t gpa, const void *hva, uint64_t len);
/* The index that became free, or -ENOENT: no read-only slot starts at gpa. */
int gmem_remove_readonly(struct gmem *mem, uint64_t gpa);
/* Where a read-only slot of len bytes (a multiple of 2 MiB) fits above RAM: lowest free, first one
 * on a GiB. -ENOSPC: nothing below limit_gpa. */
int gmem_find_readonly(const struct gmem *mem, uint64_t len, uint64_t limit_gpa, uint64_t *ret_gpa);
