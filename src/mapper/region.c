/* SPDX-License-Identifier: Apache-2.0 */
/* The mapping: an anonymous read-only reservation with the files put over it. What a file does not
 * cover stays anonymous and reads as zeros. */
#include "mapper/region.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/str.h"
#include "mapper/fault.h"

struct segment {
    int fd;          /* owned; -EBADF: sealed, it cannot shrink */
    uint64_t offset; /* in the region, bytes */
    uint64_t bytes;
    uint64_t mapped; /* bytes from offset that show the file; the rest are zero pages */
};

struct ro_region {
    uint8_t *base; /* mapping of reserved bytes */
    uint64_t reserved;
    uint64_t bytes;       /* = reserved less the slack for alignment */
    uint8_t *start;       /* aligned */
    pthread_mutex_t lock; /* guards mapped of each segment, and the remapping */
    size_t n;
    struct segment segments[];
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

static int check_segments(const struct ro_region_segment *in, size_t n, uint64_t *ret_bytes,
                          struct error **err)
{
    uint64_t total = 0, file = 0;
    int r;

    if (!n || n > RO_REGION_SEGMENTS_MAX)
        return error_set(err, n ? -E2BIG : -EINVAL, "%zu segments", n);
    for (size_t i = 0; i < n; i++) {
        if (!in[i].bytes || in[i].bytes % RO_REGION_PAGE)
            return error_set(err, -EINVAL, "segment %zu: its size is no number of whole pages", i);
        r = check_fd(in[i].fd, i, &file, err);
        if (r < 0)
            return r;
        if (pages_of(file) < in[i].bytes)
            return error_set(err, -EINVAL, "segment %zu: the file is shorter than announced", i);
        if (!checked_add(total, in[i].bytes, &total) || total > RO_REGION_BYTES_MAX)
            return error_set(err, -E2BIG, "the region is larger than allowed");
    }
    *ret_bytes = (total + RO_REGION_ALIGN - 1) & ~(RO_REGION_ALIGN - 1);
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
    g->bytes = bytes;
    g->start = g->base + (RO_REGION_ALIGN - (uintptr_t)base % RO_REGION_ALIGN) % RO_REGION_ALIGN;
    (void)madvise(base, (size_t)g->reserved, MADV_DONTDUMP);
    (void)madvise(base, (size_t)g->reserved, MADV_DONTFORK);
    return 0;
}

/* The second leg: PROT_READ, and the kernel refuses to widen a shared mapping of such an fd. */
static int map_segment(struct ro_region *g, struct segment *s, int fd, size_t index,
                       struct error **err)
{
    void *at;

    s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (s->fd < 0)
        return error_set(err, -errno, "segment %zu", index);
    at = mmap(g->start + s->offset, (size_t)s->bytes, PROT_READ,
              MAP_SHARED | MAP_NORESERVE | MAP_FIXED, s->fd, 0);
    if (at == MAP_FAILED)
        return error_set(err, -errno, "segment %zu: mapping it", index);
    s->mapped = s->bytes;
    if (fd_is_sealed(s->fd))
        s->fd = close_fd(s->fd); /* the mapping holds the file, and nothing is left to watch */
    (void)madvise(at, (size_t)s->bytes, MADV_DONTDUMP);
    (void)madvise(at, (size_t)s->bytes, MADV_DONTFORK);
    return 0;
}

int ro_region_new(const struct ro_region_segment *segments, size_t n, struct ro_region **ret,
                  struct error **err)
{
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    uint64_t bytes = 0, offset = 0;
    int r;

    r = check_segments(segments, n, &bytes, err);
    if (r < 0)
        return r;
    g = xcalloc(1, sizeof(*g) + n * sizeof(g->segments[0]));
    (void)pthread_mutex_init(&g->lock, NULL);
    for (size_t i = 0; i < n; i++)
        g->segments[i].fd = -EBADF;
    g->n = n;
    r = reserve(g, bytes);
    if (r < 0)
        return error_set(err, r, "reserving address space");
    for (size_t i = 0; i < n; i++) {
        struct segment *s = &g->segments[i];

        s->offset = offset;
        s->bytes = segments[i].bytes;
        offset += s->bytes;
        r = map_segment(g, s, segments[i].fd, i, err);
        if (r < 0)
            return r;
    }
    r = fault_watch(g->start, g->bytes);
    if (r < 0)
        return error_set(err, r, "too many regions");
    *ret = TAKE(g);
    return 0;
}

void ro_region_free(struct ro_region *region)
{
    if (!region)
        return;
    if (region->start)
        fault_unwatch(region->start);
    if (region->base)
        (void)munmap(region->base, (size_t)region->reserved);
    for (size_t i = 0; i < region->n; i++)
        region->segments[i].fd = close_fd(region->segments[i].fd);
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

static int repair_segment(struct ro_region *g, struct segment *s)
{
    struct stat st;
    uint64_t have;
    void *at;

    if (s->fd < 0)
        return 0;
    if (fstat(s->fd, &st) < 0)
        return -errno;
    have = pages_of((uint64_t)st.st_size);
    if (have >= s->mapped)
        return 0;
    at = mmap(g->start + s->offset + have, (size_t)(s->mapped - have), PROT_READ,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (at == MAP_FAILED)
        return -errno;
    s->mapped = have; /* pages that come back with the file stay zeros: the snapshot is broken */
    return 1;
}

int ro_region_repair(struct ro_region *region)
{
    int mended = 0, r = 0;

    (void)pthread_mutex_lock(&region->lock);
    for (size_t i = 0; i < region->n && r >= 0; i++) {
        r = repair_segment(region, &region->segments[i]);
        if (r > 0)
            mended++;
    }
    (void)pthread_mutex_unlock(&region->lock);
    return r < 0 ? r : mended;
}
