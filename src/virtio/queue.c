/* SPDX-License-Identifier: Apache-2.0 */
/* The ring walker. Order to read in: vq_start, vq_pop_iov and the walk below it, vq_flush.
 * Rules of memory order: avail.idx is read with acquire before the entries it covers; used.idx is
 * stored with release after the entries it covers; between a store the other side tests and a load
 * of what it stores (used.idx and used_event, avail_event and avail.idx) stands a full barrier. */
#include "virtio/queue.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/le.h"
#include "kvm/gmem.h"

#define DESC_BYTES 16U
#define DESC_NEXT 1U
#define DESC_WRITE 2U
#define DESC_INDIRECT 4U
#define AVAIL_NO_INTERRUPT 1U
#define USED_NO_NOTIFY 1U
#define RING_IDX 2U     /* offset of idx in both rings */
#define RING_ENTRIES 4U /* offset of the entries in both rings */
#define AVAIL_ENTRY 2U
#define USED_ENTRY 8U

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

static int corrupt(struct vq *q, const char *fault)
{
    q->fault = fault;
    return -EPROTO;
}

/* ---- guest memory, one access each ---- */

static uint16_t load16(const uint8_t *p)
{
    return le_swap16(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED));
}

static uint16_t load16_acquire(const uint8_t *p)
{
    return le_swap16(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static void store16(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, le_swap16(v), __ATOMIC_RELAXED);
}

static void store16_release(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, le_swap16(v), __ATOMIC_RELEASE);
}

static void store32(uint8_t *p, uint32_t v)
{
    __atomic_store_n((uint32_t *)(void *)p, le_swap32(v), __ATOMIC_RELAXED);
}

static void full_barrier(void)
{
#ifdef __SANITIZE_THREAD__ /* it knows no fences; a read-modify-write orders as much here */
    uint32_t word = 0;
    (void)__atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* An indirect table need not be aligned: copy, and let no compiler read the guest's bytes again. */
static struct desc load_desc(const uint8_t *p)
{
    uint8_t b[DESC_BYTES];

    memcpy(b, p, sizeof(b));
    __asm__ volatile("" : : "r"(b) : "memory");
    return (struct desc){
        .addr = le64_load(b),
        .len = le32_load(b + 8),
        .flags = le16_load(b + 12),
        .next = le16_load(b + 14),
    };
}

/* ---- geometry ---- */

static bool area(const struct gmem *mem, uint64_t gpa, uint64_t len, uint64_t align, uint8_t **ret)
{
    struct span s;

    /* write access for all three: rings live in RAM, never in a read-only region */
    if (gpa % align != 0 || gmem_span(mem, gpa, len, GMEM_WRITE, &s) < 0)
        return false;
    *ret = s.ptr;
    return true;
}

static bool resolve(const struct gmem *mem, const struct vq_geometry *g, uint16_t size_max,
                    uint8_t **desc, uint8_t **avail, uint8_t **used)
{
    if (!is_power_of_two(g->size) || g->size > size_max)
        return false;
    return area(mem, g->desc, (uint64_t)DESC_BYTES * g->size, 16, desc) &&
           area(mem, g->avail, 6 + (uint64_t)AVAIL_ENTRY * g->size, 2, avail) &&
           area(mem, g->used, 6 + (uint64_t)USED_ENTRY * g->size, 4, used);
}

bool vq_geometry_ok(const struct gmem *mem, const struct vq_geometry *g, uint16_t size_max)
{
    uint8_t *desc, *avail, *used;

    return resolve(mem, g, size_max, &desc, &avail, &used);
}

int vq_start(struct vq *q, const struct gmem *mem, const struct vq_geometry *g, uint32_t bytes_max,
             bool event_idx, bool indirect)
{
    uint8_t *desc, *avail, *used;

    if (!resolve(mem, g, VQ_SIZE_MAX, &desc, &avail, &used))
        return -EINVAL;
    *q = (struct vq){
        .mem = mem,
        .size = g->size,
        .event_idx = event_idx,
        .indirect = indirect,
        .bytes_max = bytes_max,
        .places = *g,
        .ram_end = gmem_ram_end(mem),
        .desc = desc,
        .avail = avail,
        .used = used,
    };
    return 0;
}

void vq_resume(struct vq *q)
{
    q->used_next = q->used_visible = q->avail_next = q->avail_known = load16(q->used + RING_IDX);
}

void vq_stop(struct vq *q)
{
    *q = (struct vq){0};
}

/* ---- taking chains ---- */

/* Chains waiting, or -EPROTO. avail.idx is asked again only when the known ones are used up. */
static int waiting(struct vq *q)
{
    uint16_t n = (uint16_t)(q->avail_known - q->avail_next);

    if (q->fault)
        return -EPROTO;
    if (n == 0) {
        q->avail_known = load16_acquire(q->avail + RING_IDX);
        n = (uint16_t)(q->avail_known - q->avail_next);
    }
    if (n > q->size)
        return corrupt(q, "available index jumped by more than the queue's size");
    return n;
}

struct walk {
    struct vq *q;
    struct vq_head *h;
    struct iovec *iov;
    unsigned max;
};

/* Adds one data descriptor to the chain. */
static int add_piece(struct walk *w, const struct desc *d)
{
    bool in = d->flags & DESC_WRITE;
    struct vq_head *h = w->h;
    struct span s;
    int r;

    if (!in && h->n_in)
        return corrupt(w->q, "readable descriptor after a writable one");
    if (d->len == 0)
        return 0; /* legal and void; the hop limit covers a chain of nothing else */
    if (d->len > w->q->bytes_max - h->out_bytes - h->in_bytes)
        return corrupt(w->q, "chain has too many bytes");
    if ((unsigned)h->n_out + h->n_in >= w->max)
        return -ENOBUFS;
    r = gmem_span(w->q->mem, d->addr, d->len, in ? GMEM_WRITE : GMEM_READ, &s);
    if (r == -EROFS)
        return corrupt(w->q, "writable descriptor in a read-only region");
    if (r < 0)
        return corrupt(w->q, "descriptor outside of guest memory");
    h->lasting = h->lasting && d->addr < w->q->ram_end;
    w->iov[h->n_out + h->n_in] = (struct iovec){.iov_base = s.ptr, .iov_len = d->len};
    if (in) {
        h->n_in++;
        h->in_bytes += d->len;
    } else {
        h->n_out++;
        h->out_bytes += d->len;
    }
    return 0;
}

/* Follows next from entry `at` of a table of `count` descriptors; hops is what the chain may still
 * use. In the ring's own table an INDIRECT descriptor is returned in *indirect to be walked next. */
static int walk_table(struct walk *w, const uint8_t *table, uint32_t count, uint32_t at,
                      bool nested, struct desc *indirect)
{
    uint32_t hops = min_of(count, (uint32_t)w->q->size);

    for (;;) {
        struct desc d;
        int r;

        if (hops-- == 0)
            return corrupt(w->q, "chain is longer than the queue");
        d = load_desc(table + (size_t)at * DESC_BYTES);
        if (d.flags & DESC_INDIRECT) {
            if (nested || !w->q->indirect)
                return corrupt(w->q, nested ? "indirect table inside an indirect table"
                                            : "indirect descriptor was not negotiated");
            if (d.flags & DESC_NEXT)
                return corrupt(w->q, "indirect descriptor with a next one");
            *indirect = d;
            return 1;
        }
        r = add_piece(w, &d);
        if (r < 0)
            return r;
        if (!(d.flags & DESC_NEXT))
            return 0;
        if (d.next >= count)
            return corrupt(w->q, "next descriptor out of range");
        at = d.next;
    }
}

static int walk_chain(struct walk *w)
{
    struct desc d;
    struct span s;
    int r = walk_table(w, w->q->desc, w->q->size, w->h->head, false, &d);

    if (r <= 0)
        return r;
    if (d.len == 0 || d.len % DESC_BYTES != 0 || d.len / DESC_BYTES > w->q->size)
        return corrupt(w->q, "indirect table of a wrong length");
    r = gmem_span(w->q->mem, d.addr, d.len, GMEM_READ, &s);
    if (r < 0)
        return corrupt(w->q, "indirect table outside of guest memory");
    return walk_table(w, s.ptr, d.len / DESC_BYTES, 0, true, &d);
}

int vq_pop_iov(struct vq *q, struct vq_head *ret, struct iovec *iov, unsigned max)
{
    struct vq_head h = {.lasting = true};
    struct walk w = {.q = q, .h = &h, .iov = iov, .max = max};
    uint16_t slot;
    int r = waiting(q);

    if (r <= 0)
        return r;
    if (q->in_flight >= q->size)
        return corrupt(q, "more chains in flight than the queue has descriptors");
    slot = q->avail_next & (uint16_t)(q->size - 1);
    h.head = load16(q->avail + RING_ENTRIES + (size_t)slot * AVAIL_ENTRY);
    if (h.head >= q->size)
        return corrupt(q, "available entry out of range");
    r = walk_chain(&w);
    if (r < 0)
        return r;
    q->avail_next++;
    q->in_flight++;
    *ret = h;
    return 1;
}

int vq_pop(struct vq *q, struct vq_chain *ret)
{
    struct vq_head h;
    int r = vq_pop_iov(q, &h, ret->iov, VQ_SEGS_MAX);

    if (r == -ENOBUFS)
        return corrupt(q, "chain has too many pieces");
    if (r <= 0)
        return r;
    ret->head = h.head;
    ret->lasting = h.lasting;
    ret->n_out = h.n_out;
    ret->n_in = h.n_in;
    ret->out_bytes = h.out_bytes;
    ret->in_bytes = h.in_bytes;
    return 1;
}

void vq_rewind(struct vq *q, unsigned n)
{
    n = min_of(n, (unsigned)q->in_flight);
    q->avail_next = (uint16_t)(q->avail_next - n);
    q->in_flight = (uint16_t)(q->in_flight - n);
}

/* ---- giving chains back ---- */

void vq_push(struct vq *q, uint16_t head, uint32_t written)
{
    uint8_t *e = q->used + RING_ENTRIES + (size_t)(q->used_next & (q->size - 1U)) * USED_ENTRY;

    if (q->in_flight == 0)
        return; /* the device was reset meanwhile */
    store32(e, head);
    store32(e + 4, written);
    q->used_next++;
    q->in_flight--;
}

bool vq_flush(struct vq *q)
{
    uint16_t from = q->used_visible, to = q->used_next, event;

    if (from == to)
        return false;
    store16_release(q->used + RING_IDX, to);
    q->used_visible = to;
    full_barrier();
    if (!q->event_idx)
        return !(load16(q->avail) & AVAIL_NO_INTERRUPT);
    event = load16(q->avail + RING_ENTRIES + (size_t)q->size * AVAIL_ENTRY);
    return (uint16_t)(to - event - 1) < (uint16_t)(to - from);
}

void vq_kicks_off(struct vq *q)
{
    /* with EVENT_IDX an avail_event left behind suppresses them: nothing to write */
    if (!q->event_idx)
        store16(q->used, USED_NO_NOTIFY);
}

bool vq_kicks_on(struct vq *q)
{
    if (q->fault)
        return false;
    if (q->event_idx)
        store16(q->used + RING_ENTRIES + (size_t)q->size * USED_ENTRY, q->avail_next);
    else
        store16(q->used, 0);
    full_barrier();
    q->avail_known = load16_acquire(q->avail + RING_IDX);
    return q->avail_known != q->avail_next;
}

/* ---- copies ---- */

unsigned vq_iov_slice(const struct iovec *iov, unsigned n_iov, size_t at, size_t n,
                      struct iovec *ret, unsigned max, size_t *ret_bytes)
{
    unsigned count = 0;
    size_t bytes = 0;

    for (unsigned i = 0; i < n_iov && bytes < n && count < max; i++) {
        size_t len = iov[i].iov_len;

        if (at >= len) {
            at -= len;
            continue;
        }
        len = min_of(len - at, n - bytes);
        ret[count++] = (struct iovec){.iov_base = (uint8_t *)iov[i].iov_base + at, .iov_len = len};
        bytes += len;
        at = 0;
    }
    *ret_bytes = bytes;
    return count;
}

static size_t copy(const struct iovec *iov, unsigned n_iov, size_t at, uint8_t *mine, size_t n,
                   bool to_guest)
{
    size_t done = 0;

    for (unsigned i = 0; i < n_iov && done < n; i++) {
        size_t len = iov[i].iov_len;
        uint8_t *guest;

        if (at >= len) {
            at -= len;
            continue;
        }
        guest = (uint8_t *)iov[i].iov_base + at;
        len = min_of(len - at, n - done);
        if (to_guest)
            memcpy(guest, mine + done, len);
        else
            memcpy(mine + done, guest, len);
        done += len;
        at = 0;
    }
    return done;
}

size_t vq_chain_read(const struct vq_chain *c, size_t at, void *ret, size_t n)
{
    return copy(c->iov, c->n_out, at, ret, n, false);
}

size_t vq_iov_write(const struct iovec *iov, unsigned n_iov, size_t at, const void *bytes, size_t n)
{
    union {
        const void *in;
        uint8_t *out;
    } u = {.in = bytes}; /* copy() does not write it in this direction */

    return copy(iov, n_iov, at, u.out, n, true);
}

size_t vq_chain_write(const struct vq_chain *c, size_t at, const void *bytes, size_t n)
{
    return vq_iov_write(c->iov + c->n_out, c->n_in, at, bytes, n);
}
