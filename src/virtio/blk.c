/* SPDX-License-Identifier: Apache-2.0 */
/* Block requests on a file descriptor. Start at serve(): it parses one request and runs it. Every
 * number of the request is checked against the chain and the disk before anything is done; a request
 * that is wrong gets an error status, one that has no place for a status ends the device. */
#include "virtio/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off: the header has a struct of the name of our options */
#define virtio_blk_config virtio_blk_config_space
#include <linux/virtio_blk.h>
#undef virtio_blk_config
/* clang-format on */
#include <linux/falloc.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include "base/checked.h"
#include "base/le.h"
#include "event/loop.h"
#include "virtio/device-impl.h"

#define SECTOR 512U
#define HEADER_BYTES 16U
#define SERIAL_BYTES 20U
#define SEGMENTS_MAX 62U              /* data descriptors of a request … */
#define SEGMENT_BYTES_MAX (64U << 10) /* … of at most this much: below 4 MiB in all */
#define CHAIN_BYTES_MAX (4U << 20)
#define TURN_BYTES (4U << 20)
#define DISCARD_SEGMENTS_MAX 32U
#define DISCARD_SECTORS_MAX (1U << 21) /* 1 GiB per segment */
#define DISCARD_SEGMENT_BYTES 16U
#define DISCARD_ALIGNMENT_SECTORS 8U

/* the device's config space; struct virtio_blk_config_space has the same fields */
#define CONFIG_CAPACITY 0U
#define CONFIG_SIZE_MAX 8U
#define CONFIG_SEG_MAX 12U
#define CONFIG_BLK_SIZE 20U
#define CONFIG_DISCARD_SECTORS 36U
#define CONFIG_DISCARD_SEGMENTS 40U
#define CONFIG_DISCARD_ALIGNMENT 44U
#define CONFIG_ZEROES_SECTORS 48U
#define CONFIG_ZEROES_SEGMENTS 52U
#define CONFIG_ZEROES_MAY_UNMAP 56U
#define CONFIG_BYTES 60U

struct blk {
    struct virtio_device dev;
    int fd; /* borrowed */
    uint64_t bytes;
    bool read_only, durable, discard;
    char serial[SERIAL_BYTES];
    uint64_t turn_bytes; /* moved in this turn */
};

/* Where a request's data is: pieces [0, n) of iov, from byte `at`, len bytes. */
struct data {
    const struct iovec *iov;
    unsigned n;
    uint32_t at, len;
};

/* len is a multiple of the sector and [sector * 512, … + len) lies on the disk. */
static bool on_disk(const struct blk *b, uint64_t sector, uint64_t len, uint64_t *ret_offset)
{
    uint64_t offset;

    if (len % SECTOR != 0 || !checked_mul(sector, (uint64_t)SECTOR, &offset) ||
        !range_within(offset, len, b->bytes))
        return false;
    *ret_offset = offset;
    return true;
}

/* Reads or writes all of it. False: an error, or the file ended. */
static bool move(const struct blk *b, const struct data *d, uint64_t offset, bool write)
{
    struct iovec v[VQ_SEGS_MAX];
    uint32_t done = 0;

    while (done < d->len) {
        size_t bytes;
        unsigned n =
            vq_iov_slice(d->iov, d->n, d->at + done, d->len - done, v, VQ_SEGS_MAX, &bytes);
        off_t at = (off_t)(offset + done);
        ssize_t r = write ? pwritev(b->fd, v, (int)n, at) : preadv(b->fd, v, (int)n, at);

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return false;
        done += (uint32_t)r;
    }
    return true;
}

static uint8_t read_or_write(struct blk *b, const struct data *d, uint64_t sector, bool write)
{
    uint64_t offset;

    if ((write && b->read_only) || !on_disk(b, sector, d->len, &offset))
        return VIRTIO_BLK_S_IOERR;
    b->turn_bytes += d->len;
    return move(b, d, offset, write) ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
}

static uint8_t flush(struct blk *b)
{
    if (b->durable && fdatasync(b->fd) < 0)
        return VIRTIO_BLK_S_IOERR;
    return VIRTIO_BLK_S_OK;
}

static uint8_t punch(struct blk *b, const uint8_t seg[DISCARD_SEGMENT_BYTES], bool zeroes)
{
    uint64_t sector = le64_load(seg), offset;
    uint32_t sectors = le32_load(seg + 8), flags = le32_load(seg + 12);
    uint64_t len = (uint64_t)sectors * SECTOR;

    /* unmap is a hint of WRITE_ZEROES and no flag of DISCARD */
    if (flags & ~(zeroes ? (uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0U))
        return VIRTIO_BLK_S_UNSUPP;
    if (sectors > DISCARD_SECTORS_MAX || !on_disk(b, sector, len, &offset))
        return VIRTIO_BLK_S_IOERR;
    if (len == 0)
        return VIRTIO_BLK_S_OK;
    if (fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) < 0)
        return VIRTIO_BLK_S_IOERR;
    return VIRTIO_BLK_S_OK;
}

static uint8_t discard(struct blk *b, const struct vq_chain *c, bool zeroes)
{
    uint32_t len = c->out_bytes - HEADER_BYTES;
    uint8_t segs[DISCARD_SEGMENTS_MAX * DISCARD_SEGMENT_BYTES];
    uint8_t status = VIRTIO_BLK_S_OK;

    if (!b->discard)
        return VIRTIO_BLK_S_UNSUPP;
    if (b->read_only || len == 0 || len % DISCARD_SEGMENT_BYTES != 0 || len > sizeof(segs))
        return VIRTIO_BLK_S_IOERR;
    (void)vq_chain_read(c, HEADER_BYTES, segs, len);
    for (uint32_t at = 0; at < len && status == VIRTIO_BLK_S_OK; at += DISCARD_SEGMENT_BYTES)
        status = punch(b, segs + at, zeroes);
    b->turn_bytes +=
        TURN_BYTES / DISCARD_SEGMENTS_MAX; /* a call into the file system is not free */
    return status;
}

/* The request's status; *ret_written: bytes of data given to the guest. */
static uint8_t run(struct blk *b, const struct vq_chain *c, uint32_t *ret_written)
{
    uint32_t room = c->in_bytes - 1; /* the last byte is the status */
    uint8_t header[HEADER_BYTES], status;
    struct data in = {c->iov + c->n_out, c->n_in, 0, room};
    struct data out = {c->iov, c->n_out, HEADER_BYTES, 0};
    uint64_t sector;

    if (vq_chain_read(c, 0, header, sizeof(header)) < sizeof(header))
        return VIRTIO_BLK_S_IOERR;
    out.len = c->out_bytes - HEADER_BYTES;
    sector = le64_load(header + 8);
    switch (le32_load(header)) {
    case VIRTIO_BLK_T_IN:
        status = read_or_write(b, &in, sector, false);
        *ret_written = status == VIRTIO_BLK_S_OK ? room : 0;
        return status;
    case VIRTIO_BLK_T_OUT:
        return read_or_write(b, &out, sector, true);
    case VIRTIO_BLK_T_FLUSH:
        return flush(b);
    case VIRTIO_BLK_T_GET_ID:
        *ret_written = (uint32_t)vq_chain_write(c, 0, b->serial, min_of(room, SERIAL_BYTES));
        return VIRTIO_BLK_S_OK;
    case VIRTIO_BLK_T_DISCARD:
        return discard(b, c, false);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return discard(b, c, true);
    default: /* SCSI commands among them: never */
        return VIRTIO_BLK_S_UNSUPP;
    }
}

static int serve(struct virtio_device *dev, const struct vq_chain *c, const char **ret_fault)
{
    struct blk *b = container_of(dev, struct blk, dev);
    uint32_t written = 0;
    uint8_t status;

    if (b->turn_bytes >= TURN_BYTES)
        return -EAGAIN;
    if (c->in_bytes == 0) {
        *ret_fault = "request without a status byte";
        return -EPROTO;
    }
    status = run(b, c, &written);
    (void)vq_chain_write(c, c->in_bytes - 1, &status, 1);
    return (int)(written + 1);
}

static void blk_kick(struct virtio_device *dev, unsigned q)
{
    struct blk *b = container_of(dev, struct blk, dev);

    b->turn_bytes = 0;
    virtio_queue_serve(dev, q, serve);
    if (b->turn_bytes >= TURN_BYTES && dev->running)
        virtio_queue_again(dev, q);
}

static void blk_free(struct virtio_device *dev)
{
    free(container_of(dev, struct blk, dev));
}

static const struct virtio_ops blk_ops = {
    .name = "blk",
    .device_id = VIRTIO_ID_BLOCK,
    .queues = 1,
    .queue_size = 128,
    .bytes_max = CHAIN_BYTES_MAX,
    .kick = blk_kick,
    .free = blk_free,
};

static void fill_config(struct blk *b)
{
    uint8_t *c = b->dev.config;

    le64_store(c + CONFIG_CAPACITY, b->bytes / SECTOR);
    le32_store(c + CONFIG_SIZE_MAX, SEGMENT_BYTES_MAX);
    le32_store(c + CONFIG_SEG_MAX, SEGMENTS_MAX);
    le32_store(c + CONFIG_BLK_SIZE, SECTOR);
    le32_store(c + CONFIG_DISCARD_SECTORS, DISCARD_SECTORS_MAX);
    le32_store(c + CONFIG_DISCARD_SEGMENTS, DISCARD_SEGMENTS_MAX);
    le32_store(c + CONFIG_DISCARD_ALIGNMENT, DISCARD_ALIGNMENT_SECTORS);
    le32_store(c + CONFIG_ZEROES_SECTORS, DISCARD_SECTORS_MAX);
    le32_store(c + CONFIG_ZEROES_SEGMENTS, DISCARD_SEGMENTS_MAX);
    c[CONFIG_ZEROES_MAY_UNMAP] = 1;
}

int virtio_blk_new(struct loop *loop, const struct virtio_blk_config *cfg,
                   struct virtio_device **ret)
{
    struct blk *b;
    uint64_t features =
        VIRTIO_FEATURE(VIRTIO_BLK_F_SIZE_MAX) | VIRTIO_FEATURE(VIRTIO_BLK_F_SEG_MAX) |
        VIRTIO_FEATURE(VIRTIO_BLK_F_BLK_SIZE) | VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC);

    if (cfg->bytes == 0 || cfg->bytes % SECTOR != 0 || cfg->bytes > INT64_MAX)
        return -EINVAL;
    b = calloc(1, sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->fd = cfg->fd;
    b->bytes = cfg->bytes;
    b->read_only = cfg->read_only;
    b->durable = cfg->durable;
    b->discard = cfg->discard && !cfg->read_only;
    if (cfg->serial)
        memcpy(b->serial, cfg->serial, strnlen(cfg->serial, SERIAL_BYTES));
    if (b->read_only)
        features |= VIRTIO_FEATURE(VIRTIO_BLK_F_RO);
    if (b->durable)
        features |= VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH);
    if (b->discard)
        features |=
            VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) | VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
    virtio_device_init(&b->dev, &blk_ops, features, CONFIG_BYTES);
    fill_config(b);
    *ret = &b->dev;
    return 0;
}
