/* SPDX-License-Identifier: Apache-2.0 */
/* Block requests on a file descriptor. The loop takes chains from the ring in batches (next_batch), the
 * thread of the device parses and runs them (run), the loop gives them back (on_done). Between
 * hand-over and on_done a batch is the thread's, and the queue is the loop's all the time. Every number
 * of a request is checked against the chain and the disk before anything is done; a request that is
 * wrong gets an error status, one that has no place for a status ends the device. */
#include "virtio/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
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
#include <sys/eventfd.h>

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
#define BATCH 16U              /* requests handed over at once … */
#define BATCH_BYTES (4U << 20) /* … until they have this many bytes */
#define THREAD_STACK_BYTES (128U << 10)
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

struct job {
    struct vq_chain c;
    uint32_t written; /* result: bytes written into the chain */
};

struct blk {
    struct virtio_device dev;
    /* constant after new */
    int fd; /* borrowed */
    uint64_t bytes;
    bool read_only, durable, discard;
    char serial[SERIAL_BYTES];
    int done_fd;
    struct loop_source *done;
    pthread_t thread;
    bool started;

    bool handed_over; /* the loop's: jobs were handed over and are not given back yet */
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    bool busy; /* under lock; true: jobs are the thread's, false: the loop's */
    bool quit; /* under lock */
    unsigned n;
    struct job jobs[BATCH];
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

static uint8_t read_or_write(const struct blk *b, const struct data *d, uint64_t sector, bool write)
{
    uint64_t offset;

    if ((write && b->read_only) || !on_disk(b, sector, d->len, &offset))
        return VIRTIO_BLK_S_IOERR;
    return move(b, d, offset, write) ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
}

static uint8_t flush(const struct blk *b)
{
    if (b->durable && fdatasync(b->fd) < 0)
        return VIRTIO_BLK_S_IOERR;
    return VIRTIO_BLK_S_OK;
}

static uint8_t punch(const struct blk *b, const uint8_t seg[DISCARD_SEGMENT_BYTES], bool zeroes)
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

static uint8_t discard(const struct blk *b, const struct vq_chain *c, bool zeroes)
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
    return status;
}

/* The request's status; *ret_written: bytes of data given to the guest. */
static uint8_t run(const struct blk *b, const struct vq_chain *c, uint32_t *ret_written)
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

/* Thread or, for a chain that does not last, loop. The chain has room for a status. */
static void run_job(const struct blk *b, struct job *j)
{
    uint32_t written = 0;
    uint8_t status = run(b, &j->c, &written);

    (void)vq_chain_write(&j->c, j->c.in_bytes - 1, &status, 1);
    j->written = written + 1;
}

/* ---- the thread ---- */

static void *blk_thread(void *arg)
{
    struct blk *b = arg;
    const uint64_t one = 1;

    (void)pthread_mutex_lock(&b->lock);
    for (;;) {
        while (!b->busy && !b->quit)
            (void)pthread_cond_wait(&b->work, &b->lock);
        if (b->quit)
            break;
        (void)pthread_mutex_unlock(&b->lock);
        for (unsigned i = 0; i < b->n; i++)
            run_job(b, &b->jobs[i]);
        (void)pthread_mutex_lock(&b->lock);
        b->busy = false;
        (void)pthread_cond_signal(&b->idle);
        if (write(b->done_fd, &one, sizeof(one)) < 0)
            continue; /* it is readable already */
    }
    (void)pthread_mutex_unlock(&b->lock);
    return NULL;
}

static int start_thread(struct blk *b)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int r;

    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&b->thread, &attr, blk_thread, b);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&attr);
    b->started = r == 0;
    return -r;
}

/* ---- the loop ---- */

static void hand_over(struct blk *b)
{
    b->handed_over = true;
    (void)pthread_mutex_lock(&b->lock);
    b->busy = true;
    (void)pthread_cond_signal(&b->work);
    (void)pthread_mutex_unlock(&b->lock);
}

/* Takes the next chain as job n. 1: to be handed over; 0: nothing more for this batch; -EAGAIN: it was
 * run here; -EPROTO. */
static int take_job(struct blk *b, const char **ret_fault)
{
    struct vq *q = &b->dev.vq[0];
    struct job *j = &b->jobs[b->n];
    int r = vq_pop(q, &j->c);

    if (r <= 0)
        return r;
    if (j->c.in_bytes == 0) {
        *ret_fault = "request without a status byte";
        return -EPROTO;
    }
    if (j->c.lasting)
        return 1;
    /* pieces in a region that the loop may remove at any time: not for another thread, and in turn */
    if (b->n) {
        vq_rewind(q, 1);
        return 0;
    }
    run_job(b, j);
    vq_push(q, j->c.head, j->written);
    return -EAGAIN;
}

static void next_batch(struct blk *b)
{
    struct vq *q = &b->dev.vq[0];
    const char *fault = NULL;
    uint64_t bytes = 0;
    unsigned here = 0;
    int r = 1;

    if (b->handed_over || !b->dev.running)
        return;
    vq_kicks_off(q);
    b->n = 0;
    while (b->n < BATCH && bytes < BATCH_BYTES && here < BATCH) {
        r = take_job(b, &fault);
        if (r == 0 && b->n == 0 && vq_kicks_on(q))
            continue;
        if (r == 0 || r == -EPROTO)
            break;
        if (r == -EAGAIN) {
            here++;
            continue;
        }
        bytes += (uint64_t)b->jobs[b->n].c.out_bytes + b->jobs[b->n].c.in_bytes;
        b->n++;
    }
    virtio_queue_flush(&b->dev, 0);
    if (r == -EPROTO)
        virtio_device_fail(&b->dev, fault ? fault : q->fault);
    else if (b->n)
        hand_over(b);
    else if (here == BATCH)
        virtio_queue_again(&b->dev, 0);
}

static void on_done(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct blk *b = userdata;
    uint64_t v;
    bool busy;

    if (read(fd, &v, sizeof(v)) < 0)
        return;
    (void)pthread_mutex_lock(&b->lock);
    busy = b->busy;
    (void)pthread_mutex_unlock(&b->lock);
    if (busy || !b->handed_over)
        return; /* the word of a batch that a reset dropped */
    b->handed_over = false;
    if (!b->dev.running)
        return;
    for (unsigned i = 0; i < b->n; i++)
        vq_push(&b->dev.vq[0], b->jobs[i].c.head, b->jobs[i].written);
    virtio_queue_flush(&b->dev, 0);
    next_batch(b);
}

static void blk_kick(struct virtio_device *dev, unsigned q)
{
    next_batch(container_of(dev, struct blk, dev));
}

static void blk_reset(struct virtio_device *dev)
{
    struct blk *b = container_of(dev, struct blk, dev);

    /* nothing may touch the guest's memory any more when the driver reads that it is reset */
    (void)pthread_mutex_lock(&b->lock);
    while (b->busy)
        (void)pthread_cond_wait(&b->idle, &b->lock);
    (void)pthread_mutex_unlock(&b->lock);
    b->handed_over = false;
}

static void blk_free(struct virtio_device *dev)
{
    struct blk *b = container_of(dev, struct blk, dev);

    if (b->started) {
        (void)pthread_mutex_lock(&b->lock);
        b->quit = true;
        (void)pthread_cond_signal(&b->work);
        (void)pthread_mutex_unlock(&b->lock);
        (void)pthread_join(b->thread, NULL);
    }
    (void)pthread_cond_destroy(&b->work);
    (void)pthread_cond_destroy(&b->idle);
    (void)pthread_mutex_destroy(&b->lock);
    loop_remove(b->done);
    b->done_fd = close_fd(b->done_fd);
    free(b);
}

static const struct virtio_ops blk_ops = {
    .name = "blk",
    .device_id = VIRTIO_ID_BLOCK,
    .queues = 1,
    .queue_size = 128,
    .bytes_max = CHAIN_BYTES_MAX,
    .reset = blk_reset,
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

static uint64_t features_of(const struct blk *b)
{
    uint64_t features =
        VIRTIO_FEATURE(VIRTIO_BLK_F_SIZE_MAX) | VIRTIO_FEATURE(VIRTIO_BLK_F_SEG_MAX) |
        VIRTIO_FEATURE(VIRTIO_BLK_F_BLK_SIZE) | VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC);

    if (b->read_only)
        features |= VIRTIO_FEATURE(VIRTIO_BLK_F_RO);
    if (b->durable)
        features |= VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH);
    if (b->discard)
        features |=
            VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) | VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
    return features;
}

static int open_done(struct blk *b, struct loop *loop)
{
    b->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->done_fd < 0)
        return -errno;
    return loop_add_io(loop, b->done_fd, LOOP_READ, on_done, b, &b->done);
}

int virtio_blk_new(struct loop *loop, const struct virtio_blk_config *cfg,
                   struct virtio_device **ret)
{
    struct blk *b;
    int r;

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
    (void)pthread_mutex_init(&b->lock, NULL);
    (void)pthread_cond_init(&b->work, NULL);
    (void)pthread_cond_init(&b->idle, NULL);
    virtio_device_init(&b->dev, &blk_ops, features_of(b), CONFIG_BYTES);
    fill_config(b);
    r = open_done(b, loop);
    if (r == 0)
        r = start_thread(b);
    if (r < 0) {
        blk_free(&b->dev);
        return r;
    }
    *ret = &b->dev;
    return 0;
}
