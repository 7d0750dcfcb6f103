/* SPDX-License-Identifier: Apache-2.0 */
/* Split virtqueues: the only code that walks a ring. Everything in guest memory may change at any
 * moment, so each field is read once, into a local, and then checked; the geometry (size, addresses)
 * is this side's own copy, taken when the device starts, and nothing the guest writes later changes
 * it. Limits: a chain has at most `size` descriptors (an indirect table counts as its entries), at
 * most VQ_SEGS_MAX pieces and at most bytes_max bytes; readable descriptors come before writable ones.
 *
 * A violation is never survivable: the call returns -EPROTO, vq->fault says what it was, and the
 * device goes to NEEDS_RESET. Threads: one, the loop's. No allocation.
 * Source: virtio 1.2 section 2.7. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct gmem;

#define VQ_SIZE_MAX 256U
#define VQ_SEGS_MAX 256U

/* What the driver wrote into the transport's registers. Addresses are guest-physical. */
struct vq_geometry {
    uint16_t size; /* descriptors: a power of two */
    uint64_t desc;
    uint64_t avail; /* "driver area" */
    uint64_t used;  /* "device area" */
};

struct vq {
    const struct gmem *mem; /* borrowed; NULL: not started */
    uint16_t size;
    bool event_idx; /* negotiated */
    bool indirect;  /* negotiated */
    uint32_t bytes_max;
    struct vq_geometry places;
    uint64_t ram_end; /* gpa; what lies beyond may be taken away by the loop */
    /* host views of the three areas, in RAM, valid for the life of the guest's memory */
    const uint8_t *desc;
    uint8_t *avail;
    uint8_t *used;
    uint16_t avail_next;   /* index of the next entry to take */
    uint16_t avail_known;  /* avail.idx when it was last read */
    uint16_t used_next;    /* index of the next entry to fill */
    uint16_t used_visible; /* used.idx as the guest sees it */
    uint16_t in_flight;    /* taken and not given back; <= size */
    const char *fault;     /* static text; NULL: healthy */
};

/* One chain: iov[0 … n_out) is what the device reads, the n_in pieces after it what it may write. The
 * pieces point into guest memory: valid until control returns to the loop or, if lasting, as long as
 * that memory. */
struct vq_chain {
    uint16_t head;
    bool lasting; /* all pieces are in RAM */
    uint16_t n_out;
    uint16_t n_in;
    uint32_t out_bytes;
    uint32_t in_bytes;
    struct iovec iov[VQ_SEGS_MAX];
};

/* True if the queue can be started: size a power of two in [1, size_max], the areas aligned (16, 2,
 * 4), each whole in writable RAM. Any thread. */
bool vq_geometry_ok(const struct gmem *mem, const struct vq_geometry *g, uint16_t size_max);

/* bytes_max: most bytes of one chain. 0; -EINVAL: the geometry is not right (any more). */
int vq_start(struct vq *q, const struct gmem *mem, const struct vq_geometry *g, uint32_t bytes_max,
             bool event_idx, bool indirect);
/* Goes on where the ring's last server stopped, which gave back what it took in the order of taking. */
void vq_resume(struct vq *q);
void vq_stop(struct vq *q);
static inline bool vq_is_started(const struct vq *q)
{
    return q->mem != NULL;
}

/* The next chain. 1: *ret is one, to be given back by vq_push(); 0: none; -EPROTO. */
int vq_pop(struct vq *q, struct vq_chain *ret);
/* The same with the pieces appended to the caller's iov, of which max are free; ret is a chain's
 * header alone. Also -ENOBUFS: the chain has more pieces; it was not taken. */
struct vq_head {
    uint16_t head;
    bool lasting;
    uint16_t n_out;
    uint16_t n_in;
    uint32_t out_bytes;
    uint32_t in_bytes;
};
int vq_pop_iov(struct vq *q, struct vq_head *ret, struct iovec *iov, unsigned max);
/* Puts back the last n chains taken; none of them was pushed. */
void vq_rewind(struct vq *q, unsigned n);

/* Gives a chain back; written: bytes the device wrote into it. Visible after vq_flush(). */
void vq_push(struct vq *q, uint16_t head, uint32_t written);
/* Shows the guest everything pushed. True: it wants an interrupt. */
bool vq_flush(struct vq *q);

/* Kicks are noise while the device is looking at the queue anyway. */
void vq_kicks_off(struct vq *q);
/* Asks for a kick at the next chain. True: chains are there already, look again (the kick for them
 * may have been suppressed); also when the ring is corrupt, which vq_pop() then tells. */
bool vq_kicks_on(struct vq *q);

/* Copies between the readable (out) or writable (in) part of a chain, from byte `at` of it, and
 * memory of ours: the number of bytes, fewer than n where the part ends. */
size_t vq_chain_read(const struct vq_chain *c, size_t at, void *ret, size_t n);
size_t vq_chain_write(const struct vq_chain *c, size_t at, const void *bytes, size_t n);
/* Bytes [at, at + n) of pieces iov[0 … n_iov) as pieces: their number, at most max; the bytes they
 * cover in *ret_bytes. */
unsigned vq_iov_slice(const struct iovec *iov, unsigned n_iov, size_t at, size_t n,
                      struct iovec *ret, unsigned max, size_t *ret_bytes);
size_t vq_iov_write(const struct iovec *iov, unsigned n_iov, size_t at, const void *bytes,
                    size_t n);
