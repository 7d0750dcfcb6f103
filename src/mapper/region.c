/* SPDX-License-Identifier: Apache-2.0 */
/* The mapping: an anonymous read-only reservation with the files put over it. What a file does not
 * cover stays anonymous and reads as zeros. Of a small file nothing is kept here but the mapping itself:
 * a pod may have thousands. */
#include "mapper/region.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/str.h"
#include "mapper/fault.h"

#define PROBE_PAGES 256U      /* of one system call */
#define PROBE_NS 200000000ULL /* of one turn: others may wait for the lock */
#define RESERVE_MIN (1ULL << 32)

/* A large file, whose size is looked at first to find what it lost. */
struct watched {
    int fd;          /* owned */
    uint64_t offset; /* in the region, bytes */
    uint64_t mapped; /* bytes from offset that show the file; the rest are zero pages */
};

/* Bytes whose files may lose pages. */
struct range {
    uint64_t from, to;
};

/* Of each segment its pages (4 bytes) and its name with the NUL: looked through when something is lost. */
struct names {
    char *bytes;
    size_t used, room;
};

/* A segment in them. */
struct place {
    size_t at, next;   /* in the names */
    uint64_t from, to; /* in the region, bytes */
};

struct ro_region {
    uint8_t *base; /* mapping of reserved bytes */
    uint64_t reserved;
    uint8_t *start;       /* aligned; room for limit bytes from here */
    uint64_t limit, used; /* while it is built: bytes */
    uint64_t bytes;       /* 0: not finished */
    size_t n;             /* segments */
    pthread_mutex_t lock; /* guards mapped of each watched file, and the remapping */
    struct watched *watched;
    size_t n_watched;
    struct range *probed; /* ascending; adjacent ones are one */
    size_t n_probed;
    uint64_t probe_next; /* where the next turn goes on; bytes */
    struct names names;
    _Atomic uint64_t repaired;
    uint64_t faults_told;
};

static bool fd_is_sealed(int fd)
{
    const int need = F_SEAL_SHRINK | F_SEAL_GROW;
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & need) == need &&
           (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0;
}

/* The first leg. *ret_file: bytes the file has. */
static int check_fd(int fd, size_t index, uint64_t *ret_file, struct error **err)
{
    struct stat st;
    int flags;

    flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return error_set(err, -errno, "segment %zu", index);
    if ((flags & O_PATH) || ((flags & O_ACCMODE) != O_RDONLY && !fd_is_sealed(fd)))
        return error_set(err, -EACCES,
                         "segment %zu: the file is neither opened read-only nor sealed", index);
    if (fstat(fd, &st) < 0)
        return error_set(err, -errno, "segment %zu", index);
    if (!S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "segment %zu: not a regular file", index);
    *ret_file = (uint64_t)st.st_size;
    return 0;
}

static uint64_t pages_of(uint64_t bytes)
{
    uint64_t up = 0;

    return align_up(bytes, RO_REGION_PAGE, &up) ? up : 0;
}

/* first: number of the first of them in the region. Their sum is added to *total. */
static int check_segments(const struct ro_region_segment *in, size_t n, size_t first,
                          uint64_t *total, struct error **err)
{
    uint64_t file = 0;
    int r;

    if (!n || n > RO_REGION_SEGMENTS_MAX - first)
        return error_set(err, n ? -E2BIG : -EINVAL, "%zu segments: %u are allowed", first + n,
                         RO_REGION_SEGMENTS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (!in[i].bytes || in[i].bytes % RO_REGION_PAGE)
            return error_set(err, -EINVAL, "segment %zu: its size is no number of whole pages",
                             first + i);
        r = check_fd(in[i].fd, first + i, &file, err);
        if (r < 0)
            return r;
        if (pages_of(file) < in[i].bytes)
            return error_set(err, -EINVAL, "segment %zu: the file is shorter than announced",
                             first + i);
        if (!checked_add(*total, in[i].bytes, total) || *total > RO_REGION_BYTES_MAX)
            return error_set(err, -E2BIG, "the region is larger than allowed");
    }
    return 0;
}

static int reserve(struct ro_region *g, uint64_t bytes)
{
    void *base;

    g->reserved = bytes + RO_REGION_ALIGN;
    base = mmap(NULL, (size_t)g->reserved, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
    if (base == MAP_FAILED)
        return -errno;
    g->base = base;
    g->limit = bytes;
    g->start = g->base + (RO_REGION_ALIGN - (uintptr_t)base % RO_REGION_ALIGN) % RO_REGION_ALIGN;
    (void)madvise(base, (size_t)g->reserved, MADV_DONTDUMP);
    (void)madvise(base, (size_t)g->reserved, MADV_DONTFORK);
    return 0;
}

static void probe_later(struct ro_region *g, uint64_t from, uint64_t to)
{
    if (g->n_probed && g->probed[g->n_probed - 1].to == from) {
        g->probed[g->n_probed - 1].to = to;
        return;
    }
    g->probed = xrealloc(g->probed, g->n_probed + 1, sizeof(*g->probed));
    g->probed[g->n_probed++] = (struct range){from, to};
}

static int watch_later(struct ro_region *g, const struct ro_region_segment *s)
{
    int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);

    if (fd < 0)
        return -errno;
    g->watched = xrealloc(g->watched, g->n_watched + 1, sizeof(*g->watched));
    g->watched[g->n_watched++] = (struct watched){fd, g->used, s->bytes};
    return 0;
}

static void note_name(struct ro_region *g, const struct ro_region_segment *s)
{
    const char *name = s->name ? s->name : "";
    size_t len = strnlen(name, RO_REGION_NAME_MAX), need = sizeof(uint32_t) + len + 1;
    uint32_t pages = (uint32_t)(s->bytes / RO_REGION_PAGE); /* of 2^28 at the most */
    struct names *n = &g->names;

    if (n->room - n->used < need) {
        n->room = n->used + need > 2 * n->used ? n->used + need : 2 * n->used;
        n->bytes = xrealloc(n->bytes, n->room, 1);
    }
    memcpy(n->bytes + n->used, &pages, sizeof(pages));
    memcpy(n->bytes + n->used + sizeof(pages), name, len);
    n->bytes[n->used + need - 1] = '\0';
    n->used += need;
}

/* The second leg: PROT_READ, and the kernel refuses to widen a shared mapping of such an fd. */
static int map_segment(struct ro_region *g, const struct ro_region_segment *s, struct error **err)
{
    void *at;
    int r = 0;

    at = mmap(g->start + g->used, (size_t)s->bytes, PROT_READ,
              MAP_SHARED | MAP_NORESERVE | MAP_FIXED, s->fd, 0);
    if (at == MAP_FAILED)
        return error_set(err, -errno, "segment %zu: mapping it%s", g->n,
                         errno == ENOMEM ? ": no memory, or more mappings than vm.max_map_count"
                                         : "");
    if (!fd_is_sealed(s->fd)) { /* else nothing can be lost */
        probe_later(g, g->used, g->used + s->bytes);
        if (s->bytes >= RO_REGION_PROBED_BYTES)
            r = watch_later(g, s);
    }
    if (r < 0)
        return error_set(err, r, "segment %zu", g->n);
    note_name(g, s);
    g->used += s->bytes;
    g->n++;
    return 0;
}

static struct ro_region *region_alloc(void)
{
    struct ro_region *g = xcalloc(1, sizeof(*g));

    (void)pthread_mutex_init(&g->lock, NULL);
    return g;
}

int ro_region_begin(struct ro_region **ret, struct error **err)
{
    _cleanup_(ro_region_freep) struct ro_region *g = region_alloc();
    int r = -ENOMEM;

    /* address space alone; what is not used of it goes back at the end */
    for (uint64_t bytes = RO_REGION_BYTES_MAX; r == -ENOMEM && bytes >= RESERVE_MIN; bytes /= 2)
        r = reserve(g, bytes);
    if (r < 0)
        return error_set(err, r, "reserving address space");
    *ret = TAKE(g);
    return 0;
}

static int append_checked(struct ro_region *g, const struct ro_region_segment *segments, size_t n,
                          struct error **err)
{
    uint8_t *from = g->start + g->used;
    int r = 0;

    for (size_t i = 0; i < n && r >= 0; i++)
        r = map_segment(g, &segments[i], err);
    if (r < 0)
        return r;
    /* all at once: a volume may have thousands of files */
    (void)madvise(from, (size_t)(g->start + g->used - from), MADV_DONTDUMP);
    (void)madvise(from, (size_t)(g->start + g->used - from), MADV_DONTFORK);
    return 0;
}

int ro_region_append(struct ro_region *g, const struct ro_region_segment *segments, size_t n,
                     struct error **err)
{
    uint64_t total = g->used;
    int r = g->bytes ? -EINVAL : check_segments(segments, n, g->n, &total, err);

    if (r < 0)
        return r;
    if (total > g->limit)
        return error_set(err, -ENOMEM, "no address space for a region of %llu MiB",
                         (unsigned long long)(total >> 20));
    return append_checked(g, segments, n, err);
}

int ro_region_finish(struct ro_region *g, struct error **err)
{
    uint64_t bytes = (g->used + RO_REGION_ALIGN - 1) & ~(RO_REGION_ALIGN - 1);
    uint64_t keep = (uint64_t)(g->start - g->base) + bytes;
    int r;

    if (!g->n)
        return error_set(err, -EINVAL, "a region of nothing");
    if (keep < g->reserved && munmap(g->base + keep, (size_t)(g->reserved - keep)) == 0)
        g->reserved = keep;
    r = fault_watch(g->start, bytes);
    if (r < 0)
        return error_set(err, r, "too many regions");
    g->bytes = bytes;
    return 0;
}

int ro_region_new(const struct ro_region_segment *segments, size_t n, struct ro_region **ret,
                  struct error **err)
{
    _cleanup_(ro_region_freep) struct ro_region *g = region_alloc();
    uint64_t total = 0;
    int r = check_segments(segments, n, 0, &total, err);

    if (r < 0)
        return r;
    r = reserve(g, (total + RO_REGION_ALIGN - 1) & ~(RO_REGION_ALIGN - 1));
    if (r < 0)
        return error_set(err, r, "reserving address space");
    r = append_checked(g, segments, n, err);
    if (r >= 0)
        r = ro_region_finish(g, err);
    if (r < 0)
        return r;
    *ret = TAKE(g);
    return 0;
}

static void forget_files(struct ro_region *g)
{
    for (size_t i = 0; i < g->n_watched; i++)
        (void)close_fd(g->watched[i].fd);
    g->n_watched = g->n_probed = 0;
    g->names.used = 0;
    g->probe_next = 0;
}

/* Over files: what looks at the region while it lasts sees a file or zeros. */
static int put_nothing(struct ro_region *g, uint64_t bytes)
{
    if (mmap(g->start, (size_t)bytes, PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return -errno;
    forget_files(g);
    g->used = 0;
    g->n = 0;
    return 0;
}

int ro_region_vacate(struct ro_region *g)
{
    int r;

    (void)pthread_mutex_lock(&g->lock);
    r = put_nothing(g, g->bytes);
    if (r == 0) {
        fault_unwatch(g->start);
        g->limit = g->bytes;
        g->bytes = 0;
        g->faults_told = 0;
        atomic_store_explicit(&g->repaired, 0, memory_order_relaxed);
    }
    (void)pthread_mutex_unlock(&g->lock);
    return r;
}

int ro_region_refill(struct ro_region *g, const struct ro_region_segment *segments, size_t n,
                     struct error **err)
{
    uint64_t total = 0, bytes = 0;
    int r = g->bytes || g->used ? -EINVAL : check_segments(segments, n, 0, &total, err);

    if (r < 0)
        return r;
    if (!align_up(total, RO_REGION_ALIGN, &bytes) || bytes != g->limit)
        return error_set(err, -EXDEV, "a region of %llu bytes where %llu were",
                         (unsigned long long)bytes, (unsigned long long)g->limit);
    r = append_checked(g, segments, n, err);
    if (r >= 0)
        r = ro_region_finish(g, err);
    if (r < 0)
        (void)put_nothing(g, g->limit);
    return r;
}

void ro_region_free(struct ro_region *region)
{
    if (!region)
        return;
    if (region->bytes)
        fault_unwatch(region->start);
    if (region->base)
        (void)munmap(region->base, (size_t)region->reserved);
    forget_files(region);
    free(region->watched);
    free(region->probed);
    free(region->names.bytes);
    (void)pthread_mutex_destroy(&region->lock);
    free(region);
}

void ro_region_slot(const struct ro_region *region, struct ro_region_slot *ret)
{
    *ret = (struct ro_region_slot){
        .hva = region->start,
        .bytes = region->bytes,
        .kvm_flags = KVM_MEM_READONLY,
    };
}

/* ---------------------------------------------------------------- what files lost */

struct repair {
    struct ro_region_loss loss;
    struct place place;
    uint64_t last_file; /* where it starts in the region; UINT64_MAX: none yet */
};

/* Cheap if offsets ascend. */
static void seek(const struct ro_region *g, struct place *p, uint64_t offset)
{
    uint32_t pages;

    if (offset < p->from)
        *p = (struct place){0};
    while (offset >= p->to && p->next < g->names.used) {
        memcpy(&pages, g->names.bytes + p->next, sizeof(pages));
        p->at = p->next;
        p->from = p->to;
        p->to += pages * RO_REGION_PAGE;
        p->next += sizeof(pages) + strlen(g->names.bytes + p->next + sizeof(pages)) + 1;
    }
}

static void tell_place(const struct ro_region *g, const struct place *p, uint64_t offset,
                       struct ro_region_loss *ret)
{
    const char *name = g->names.used ? g->names.bytes + p->at + sizeof(uint32_t) : "";

    ret->offset = offset;
    ret->file_offset = offset - p->from;
    (void)snprintf(ret->file, sizeof(ret->file), "%s", name);
}

static void note_loss(const struct ro_region *g, uint64_t from, uint64_t to, struct repair *done)
{
    seek(g, &done->place, from);
    if (!done->loss.pages || from < done->loss.offset)
        tell_place(g, &done->place, from, &done->loss);
    done->loss.files += done->place.from != done->last_file;
    done->last_file = done->place.from;
    done->loss.pages += (to - from) / RO_REGION_PAGE;
}

/* Pages that come back with the file stay zeros: the snapshot is broken. */
static int put_zeros(struct ro_region *g, uint64_t from, uint64_t to, struct repair *done)
{
    if (mmap(g->start + from, (size_t)(to - from), PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return -errno;
    note_loss(g, from, to, done);
    return 0;
}

static int repair_watched(struct ro_region *g, struct watched *w, struct repair *done)
{
    struct stat st;
    uint64_t have;
    int r;

    if (fstat(w->fd, &st) < 0)
        return -errno;
    have = pages_of((uint64_t)st.st_size);
    if (have >= w->mapped)
        return 0;
    r = put_zeros(g, w->offset + have, w->offset + w->mapped, done);
    if (r == 0)
        w->mapped = have;
    return r;
}

/* Bytes from at on whose pages can be read, at most pages of them; the kernel finds out, so that no
 * signal comes of it. */
static int64_t readable_pages(const uint8_t *at, size_t pages)
{
    struct iovec there[PROBE_PAGES];
    uint8_t bytes[PROBE_PAGES];
    struct iovec here = {.iov_base = bytes, .iov_len = pages};
    ssize_t n;

    for (size_t i = 0; i < pages; i++)
        there[i] = (struct iovec){(void *)(uintptr_t)(at + i * RO_REGION_PAGE), 1};
    n = process_vm_readv(getpid(), &here, 1, there, pages, 0);
    if (n < 0)
        return errno == EFAULT ? 0 : -errno;
    return n;
}

/* A page alone; where that takes more mappings than the process may have, its whole file. */
static int put_zero_page(struct ro_region *g, uint64_t at, struct repair *done)
{
    int r = put_zeros(g, at, at + RO_REGION_PAGE, done);

    if (r != -ENOMEM)
        return r;
    seek(g, &done->place, at);
    return put_zeros(g, done->place.from, done->place.to, done);
}

/* One system call's worth, from *at on. */
static int probe(struct ro_region *g, uint64_t *at, uint64_t to, struct repair *done)
{
    uint64_t left = (to - *at) / RO_REGION_PAGE;
    size_t pages = left < PROBE_PAGES ? (size_t)left : PROBE_PAGES;
    int64_t n = readable_pages(g->start + *at, pages);
    int r;

    if (n < 0)
        return (int)n;
    *at += (uint64_t)n * RO_REGION_PAGE;
    if ((size_t)n == pages)
        return 0;
    r = put_zero_page(g, *at, done);
    *at += RO_REGION_PAGE;
    return r;
}

static int probe_a_while(struct ro_region *g, struct repair *done)
{
    uint64_t end = clock_mono_ns() + PROBE_NS, at;
    int r = 0;

    for (size_t i = 0; i < g->n_probed && r >= 0; i++) {
        at = g->probed[i].from > g->probe_next ? g->probed[i].from : g->probe_next;
        while (at < g->probed[i].to && r >= 0) {
            r = probe(g, &at, g->probed[i].to, done);
            if (r >= 0 && clock_mono_ns() > end && at < g->used) {
                g->probe_next = at;
                return -EAGAIN;
            }
        }
    }
    g->probe_next = 0;
    return r;
}

int64_t ro_region_repair(struct ro_region *region, struct ro_region_loss *ret)
{
    struct repair done = {.last_file = UINT64_MAX};
    int r = 0;

    (void)pthread_mutex_lock(&region->lock);
    for (size_t i = 0; i < region->n_watched && r >= 0; i++)
        r = repair_watched(region, &region->watched[i], &done);
    if (r >= 0 && !done.loss.pages)
        r = probe_a_while(region, &done);
    (void)pthread_mutex_unlock(&region->lock);
    atomic_fetch_add_explicit(&region->repaired, done.loss.pages, memory_order_relaxed);
    if (ret)
        *ret = done.loss;
    return done.loss.pages ? (int64_t)done.loss.pages : r;
}

bool ro_region_take_faults(struct ro_region *region, struct ro_region_loss *ret)
{
    struct place place = {0};
    uint64_t last = 0, pages;

    *ret = (struct ro_region_loss){.files = 1};
    (void)pthread_mutex_lock(&region->lock);
    pages = fault_last_in(region->start, &last);
    ret->pages = pages - region->faults_told;
    region->faults_told = pages;
    if (ret->pages) {
        seek(region, &place, last);
        tell_place(region, &place, last, ret);
    }
    (void)pthread_mutex_unlock(&region->lock);
    return ret->pages > 0;
}

uint64_t ro_region_repaired(const struct ro_region *region)
{
    return atomic_load_explicit(&region->repaired, memory_order_relaxed) +
           fault_count_in(region->start);
}
