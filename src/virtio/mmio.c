/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-mmio transport: registers, the status machine, interrupts and kicks.
 *
 * Two sides meet here. vCPU threads read and write registers; the loop's thread owns the device and
 * its queues. `lock` covers the register state and is held for a few instructions only. The interrupt
 * status is one atomic word: it is what the guest touches most, so it takes no lock. Whatever starts or
 * stops the device is a request handed to the loop: the vCPU thread leaves it in `request`, wakes the
 * loop and waits for it; one at a time, later ones queue up on the same condition. When the loop's
 * own thread writes registers (tests), it serves the request at once. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/le.h"
#include "base/log.h"
#include "event/loop.h"
#include "virtio/device-impl.h"

#define MAGIC 0x74726976U
#define VENDOR 0x4e58554eU /* "NUXN" */
#define STATUS_STEPS                                                                      \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | \
     VIRTIO_CONFIG_S_DRIVER_OK)
#define ALL_ONES 0xffffffffU

enum request {
    REQUEST_NONE,
    REQUEST_ACTIVATE, /* DRIVER_OK was written */
    REQUEST_RESET,    /* 0 was written */
};

struct queue_regs {
    struct vq_geometry g;
    bool ready;
};

struct kick {
    struct virtio_mmio *w;
    unsigned q;
    int fd;
    struct loop_source *source;
};

struct virtio_mmio {
    /* constant after new */
    struct loop *loop;
    const struct gmem *mem;
    int irq_fd;
    pthread_t loop_thread;

    pthread_mutex_t lock;
    pthread_cond_t served; /* request went back to NONE, or stopping */
    /* under lock */
    struct virtio_device *dev; /* owned; changed by the loop's thread only */
    enum request request;
    bool stopping;
    bool was_driven;
    uint32_t status;
    uint32_t device_features_sel;
    uint32_t driver_features_sel;
    uint64_t driver_features; /* as written, offered or not */
    uint32_t queue_sel;
    uint32_t generation;
    struct queue_regs queue[VIRTIO_QUEUES_MAX];

    uint32_t interrupt_status;    /* atomic */
    struct virtio_counters count; /* atomic members */

    /* the loop's thread only */
    int wake_fd;
    struct loop_source *wake;
    struct loop_source *again;
    unsigned again_queues; /* bit per queue */
    bool fail_pending;     /* ops->reset is owed */
    struct kick kick[VIRTIO_QUEUES_MAX];
};

static void count(uint64_t *c)
{
    (void)__atomic_fetch_add(c, 1, __ATOMIC_RELAXED);
}

static void wake(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof(one));

    (void)n; /* EAGAIN: the counter is full, so it is readable already */
}

static void drain(int fd)
{
    uint64_t v;
    ssize_t n = read(fd, &v, sizeof(v));

    (void)n;
}

/* ---- interrupts ---- */

/* A bit the guest has not acknowledged yet has its pulse under way: the driver reads the status,
 * acknowledges, and only then looks at the rings, so it will find what was put there before this. */
static void interrupt(struct virtio_mmio *w, uint32_t bit)
{
    uint32_t old = __atomic_fetch_or(&w->interrupt_status, bit, __ATOMIC_SEQ_CST);

    if (old & bit)
        return;
    count(&w->count.interrupts);
    wake(w->irq_fd);
}

void virtio_queue_flush(struct virtio_device *dev, unsigned q)
{
    if (vq_is_started(&dev->vq[q]) && vq_flush(&dev->vq[q]))
        interrupt(dev->window, VIRTIO_MMIO_INT_VRING);
}

int virtio_queue_kick_fd(const struct virtio_device *dev, unsigned q)
{
    return dev->window->kick[q].fd;
}

void virtio_queue_interrupt(struct virtio_device *dev)
{
    interrupt(dev->window, VIRTIO_MMIO_INT_VRING);
}

void virtio_queue_again(struct virtio_device *dev, unsigned q)
{
    dev->window->again_queues |= 1U << q;
    loop_defer_arm(dev->window->again);
}

void virtio_config_set(struct virtio_device *dev, size_t at, const void *bytes, size_t n)
{
    struct virtio_mmio *w = dev->window;
    bool tell = false;

    if (at > dev->config_bytes || n > dev->config_bytes - at)
        return;
    if (w)
        (void)pthread_mutex_lock(&w->lock);
    memcpy(dev->config + at, bytes, n);
    if (w) {
        w->generation++;
        tell = w->status & VIRTIO_CONFIG_S_DRIVER_OK;
        (void)pthread_mutex_unlock(&w->lock);
    }
    if (tell)
        interrupt(w, VIRTIO_MMIO_INT_CONFIG);
}

/* ---- the device's life, on the loop's thread ---- */

static void stop_queues(struct virtio_device *dev)
{
    for (unsigned q = 0; q < dev->ops->queues; q++)
        vq_stop(&dev->vq[q]);
}

void virtio_device_fail(struct virtio_device *dev, const char *reason)
{
    struct virtio_mmio *w = dev->window;

    if (!dev->running)
        return;
    dev->running = false;
    count(&w->count.failures);
    log_limited(LOG_WARNING, "virtio-%s: guest broke the rules, device stopped: %s", dev->ops->name,
                reason ? reason : "no reason given");
    (void)pthread_mutex_lock(&w->lock);
    if (w->request != REQUEST_RESET) /* else it comes: the status reads 0 already, and stays so */
        w->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    (void)pthread_mutex_unlock(&w->lock);
    interrupt(w, VIRTIO_MMIO_INT_CONFIG);
    /* the device may be in the middle of something: it is told when it is not */
    w->fail_pending = true;
    loop_defer_arm(w->again);
}

static void kick_queue(struct virtio_mmio *w, unsigned q)
{
    struct virtio_device *dev = w->dev;

    if (!dev || !dev->running || !vq_is_started(&dev->vq[q]))
        return;
    dev->ops->kick(dev, q);
}

static void end_device(struct virtio_mmio *w)
{
    struct virtio_device *dev = w->dev;
    bool was_active = dev->running || w->fail_pending;

    dev->running = false;
    w->fail_pending = false;
    w->again_queues = 0;
    if (was_active && dev->ops->reset)
        dev->ops->reset(dev);
    stop_queues(dev);
    dev->features = 0;
}

static int start_queues(struct virtio_mmio *w, struct virtio_device *dev)
{
    bool event_idx = virtio_has(dev, VIRTIO_RING_F_EVENT_IDX);
    bool indirect = virtio_has(dev, VIRTIO_RING_F_INDIRECT_DESC);

    for (unsigned q = 0; q < dev->ops->queues; q++) {
        /* geometry and ready do not change any more: DRIVER_OK froze them */
        int r = w->queue[q].ready ? vq_start(&dev->vq[q], w->mem, &w->queue[q].g,
                                             dev->ops->bytes_max, event_idx, indirect)
                                  : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static void activate(struct virtio_mmio *w)
{
    struct virtio_device *dev = w->dev;
    int r;

    dev->features = w->driver_features & dev->offered;
    dev->running = true;
    r = start_queues(w, dev);
    if (r == 0 && dev->ops->activate)
        r = dev->ops->activate(dev);
    if (r < 0) {
        virtio_device_fail(dev, "cannot be activated");
        return;
    }
    for (unsigned q = 0; q < dev->ops->queues; q++)
        kick_queue(w, q); /* a kick may have come before anybody listened */
}

/* Takes the request a vCPU left, if any. The register state it needs does not change meanwhile: every
 * writer of it waits for the request to be served. */
static void serve_request(struct virtio_mmio *w)
{
    enum request request;

    (void)pthread_mutex_lock(&w->lock);
    request = w->request;
    (void)pthread_mutex_unlock(&w->lock);
    if (request == REQUEST_NONE)
        return;
    if (w->dev && request == REQUEST_ACTIVATE)
        activate(w);
    if (w->dev && request == REQUEST_RESET) {
        end_device(w);
        __atomic_store_n(&w->interrupt_status, 0, __ATOMIC_SEQ_CST);
    }
    (void)pthread_mutex_lock(&w->lock);
    w->request = REQUEST_NONE;
    (void)pthread_cond_broadcast(&w->served);
    (void)pthread_mutex_unlock(&w->lock);
}

static void on_wake(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    drain(fd);
    serve_request(userdata);
}

static void on_kick(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct kick *k = userdata;

    drain(fd);
    count(&k->w->count.kicks);
    kick_queue(k->w, k->q);
}

static void on_again(struct loop_source *s, void *userdata)
{
    struct virtio_mmio *w = userdata;
    unsigned queues = w->again_queues;

    w->again_queues = 0;
    if (!w->dev)
        return;
    if (w->fail_pending) {
        end_device(w);
        return;
    }
    for (unsigned q = 0; q < w->dev->ops->queues; q++) {
        if (queues & (1U << q))
            kick_queue(w, q);
    }
}

int virtio_queue_watch(struct virtio_device *dev, unsigned q)
{
    struct kick *k = &dev->window->kick[q];

    return loop_add_io(dev->window->loop, k->fd, LOOP_READ, on_kick, k, &k->source);
}

/* ---- registers, any thread ---- */

/* lock held; returns with it held and no request pending (or the window on its way down). */
static void wait_served(struct virtio_mmio *w)
{
    while (w->request != REQUEST_NONE && !w->stopping)
        (void)pthread_cond_wait(&w->served, &w->lock);
}

/* lock held; the status and frozen registers are already as they shall be. */
static void hand_over(struct virtio_mmio *w, enum request request)
{
    w->request = request;
    if (pthread_equal(pthread_self(), w->loop_thread)) {
        (void)pthread_mutex_unlock(&w->lock);
        serve_request(w);
        (void)pthread_mutex_lock(&w->lock);
        return;
    }
    wake(w->wake_fd);
    wait_served(w);
}

static void registers_reset(struct virtio_mmio *w)
{
    uint16_t size = w->dev ? w->dev->ops->queue_size : 0;

    w->status = 0;
    w->device_features_sel = w->driver_features_sel = 0;
    w->driver_features = 0;
    w->queue_sel = 0;
    for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
        w->queue[q] = (struct queue_regs){.g.size = size};
}

static bool features_acceptable(const struct virtio_mmio *w)
{
    return !(w->driver_features & ~w->dev->offered) &&
           (w->driver_features & VIRTIO_FEATURE(VIRTIO_F_VERSION_1));
}

static bool write_status(struct virtio_mmio *w, uint32_t v)
{
    uint32_t steps, added;

    /* Linux writes back what it read, so a NEEDS_RESET bit is no attempt to set it */
    v &= ~(uint32_t)VIRTIO_CONFIG_S_NEEDS_RESET;
    if (v == 0) {
        bool fresh = w->status == 0;

        registers_reset(w);
        if (!fresh)
            hand_over(w, REQUEST_RESET);
        return true;
    }
    if (v & ~(STATUS_STEPS | (uint32_t)VIRTIO_CONFIG_S_FAILED))
        return false;
    if (v & VIRTIO_CONFIG_S_FAILED) {
        w->status |= VIRTIO_CONFIG_S_FAILED;
        return true;
    }
    steps = w->status & STATUS_STEPS;
    if (v == steps)
        return true;
    /* exactly the next step: ACKNOWLEDGE 1, DRIVER 2, FEATURES_OK 8, DRIVER_OK 4 */
    added = steps == 0   ? VIRTIO_CONFIG_S_ACKNOWLEDGE
            : steps == 1 ? VIRTIO_CONFIG_S_DRIVER
            : steps == 3 ? VIRTIO_CONFIG_S_FEATURES_OK
                         : VIRTIO_CONFIG_S_DRIVER_OK;
    if ((w->status & VIRTIO_CONFIG_S_FAILED) || v != (steps | added))
        return false;
    if (added == VIRTIO_CONFIG_S_FEATURES_OK && !features_acceptable(w))
        return false; /* the bit stays clear, and the driver reads that back */
    w->status |= added;
    if (added == VIRTIO_CONFIG_S_DRIVER_OK) {
        w->was_driven = true;
        hand_over(w, REQUEST_ACTIVATE);
    }
    return true;
}

/* The selected queue if it may be configured now, else NULL. */
static struct queue_regs *configurable(struct virtio_mmio *w)
{
    uint32_t phase = w->status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK |
                                  VIRTIO_CONFIG_S_FAILED);

    if (phase != VIRTIO_CONFIG_S_FEATURES_OK || w->queue_sel >= w->dev->ops->queues)
        return NULL;
    return &w->queue[w->queue_sel];
}

static bool write_queue_ready(struct virtio_mmio *w, uint32_t v)
{
    struct queue_regs *q = configurable(w);

    /* Linux writes 0 for every queue after the reset that cleared it */
    if (v == 0 && w->queue_sel < w->dev->ops->queues && !w->queue[w->queue_sel].ready)
        return true;
    if (!q || v > 1)
        return false;
    if (v && !q->ready && !vq_geometry_ok(w->mem, &q->g, w->dev->ops->queue_size))
        return false;
    q->ready = v;
    return true;
}

static bool write_queue(struct virtio_mmio *w, uint32_t offset, uint32_t v)
{
    struct queue_regs *q = configurable(w);
    uint64_t *addr;
    bool high;

    if (!q || q->ready)
        return false;
    if (offset == VIRTIO_MMIO_QUEUE_NUM) {
        if (v == 0 || v > w->dev->ops->queue_size || (v & (v - 1)))
            return false;
        q->g.size = (uint16_t)v;
        return true;
    }
    high = offset & 4;
    addr = offset < VIRTIO_MMIO_QUEUE_AVAIL_LOW  ? &q->g.desc
           : offset < VIRTIO_MMIO_QUEUE_USED_LOW ? &q->g.avail
                                                 : &q->g.used;
    *addr = high ? (*addr & ALL_ONES) | (uint64_t)v << 32 : (*addr & ~(uint64_t)ALL_ONES) | v;
    return true;
}

static bool write_features(struct virtio_mmio *w, uint32_t v)
{
    unsigned shift = w->driver_features_sel * 32;

    if ((w->status & (STATUS_STEPS | VIRTIO_CONFIG_S_FAILED)) !=
        (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER))
        return false;
    if (w->driver_features_sel > 1)
        return v == 0; /* no such features exist */
    w->driver_features &= ~((uint64_t)ALL_ONES << shift);
    w->driver_features |= (uint64_t)v << shift;
    return true;
}

/* lock held. False: not allowed. */
static bool write_register(struct virtio_mmio *w, uint32_t offset, uint32_t v)
{
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        w->device_features_sel = v;
        return true;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        return write_features(w, v);
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        w->driver_features_sel = v;
        return true;
    case VIRTIO_MMIO_QUEUE_SEL:
        w->queue_sel = v;
        return true;
    case VIRTIO_MMIO_QUEUE_READY:
        return write_queue_ready(w, v);
    case VIRTIO_MMIO_QUEUE_NUM:
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        return write_queue(w, offset, v);
    case VIRTIO_MMIO_QUEUE_NOTIFY: /* an ioeventfd takes nearly all of these */
        if (v >= w->dev->ops->queues)
            return false;
        wake(w->kick[v].fd);
        return true;
    case VIRTIO_MMIO_STATUS:
        return write_status(w, v);
    case VIRTIO_MMIO_SHM_SEL:
        return true; /* there is no shared memory region to select */
    default:
        return false;
    }
}

static uint32_t read_register(struct virtio_mmio *w, uint32_t offset)
{
    bool queue = w->queue_sel < w->dev->ops->queues;

    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
        return MAGIC;
    case VIRTIO_MMIO_VERSION:
        return 2;
    case VIRTIO_MMIO_DEVICE_ID:
        return w->dev->ops->device_id;
    case VIRTIO_MMIO_VENDOR_ID:
        return VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return w->device_features_sel > 1
                   ? 0
                   : (uint32_t)(w->dev->offered >> (w->device_features_sel * 32));
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
        return queue ? w->dev->ops->queue_size : 0;
    case VIRTIO_MMIO_QUEUE_READY:
        return queue && w->queue[w->queue_sel].ready;
    case VIRTIO_MMIO_STATUS:
        return w->status;
    case VIRTIO_MMIO_CONFIG_GENERATION:
        return w->generation;
    default: /* write-only, unknown, and the length of a shared memory region that is not there */
        return ALL_ONES;
    }
}

static void access_empty(uint32_t offset, void *data, bool is_write)
{
    uint32_t v = offset == VIRTIO_MMIO_MAGIC_VALUE ? MAGIC
                 : offset == VIRTIO_MMIO_VERSION   ? 2
                 : offset == VIRTIO_MMIO_VENDOR_ID ? VENDOR
                                                   : 0;
    if (!is_write)
        le32_store(data, v);
}

/* lock held; offset is that of the config space. Reads beyond its end are zero. */
static void access_config(struct virtio_mmio *w, uint64_t offset, uint8_t *data, unsigned len,
                          bool is_write)
{
    if (is_write) {
        count(&w->count.rejected); /* no device here has a config field the driver may write */
        return;
    }
    for (unsigned i = 0; i < len; i++)
        data[i] = offset + i < w->dev->config_bytes ? w->dev->config[offset + i] : 0;
}

static void access_locked(struct virtio_mmio *w, uint64_t offset, void *data, unsigned len,
                          bool is_write)
{
    bool ok = len == 4 && offset % 4 == 0;

    if (offset >= VIRTIO_MMIO_CONFIG && w->dev) {
        access_config(w, offset - VIRTIO_MMIO_CONFIG, data, len, is_write);
        return;
    }
    if (!is_write)
        memset(data, 0xff, len);
    if (!ok || offset >= VIRTIO_MMIO_CONFIG)
        count(&w->count.rejected);
    else if (!w->dev)
        access_empty((uint32_t)offset, data, is_write);
    else if (!is_write)
        le32_store(data, read_register(w, (uint32_t)offset));
    else if (!write_register(w, (uint32_t)offset, le32_load(data)))
        count(&w->count.rejected);
}

void virtio_mmio_access(struct virtio_mmio *w, uint64_t offset, void *data, unsigned len,
                        bool is_write)
{
    count(&w->count.accesses);
    /* the two accesses of every interrupt come first and take no lock */
    if (len == 4 && offset == VIRTIO_MMIO_INTERRUPT_STATUS && !is_write) {
        le32_store(data, __atomic_load_n(&w->interrupt_status, __ATOMIC_SEQ_CST));
        return;
    }
    if (len == 4 && offset == VIRTIO_MMIO_INTERRUPT_ACK && is_write) {
        (void)__atomic_fetch_and(&w->interrupt_status, ~le32_load(data), __ATOMIC_SEQ_CST);
        return;
    }
    (void)pthread_mutex_lock(&w->lock);
    if (is_write)
        wait_served(w);
    /* on the way down a request may be half served: its registers stay as they are */
    if (!is_write || !w->stopping)
        access_locked(w, offset, data, len, is_write);
    (void)pthread_mutex_unlock(&w->lock);
}

/* ---- windows ---- */

int virtio_mmio_new(struct loop *loop, const struct gmem *mem, int irq_fd, struct virtio_mmio **ret)
{
    struct virtio_mmio *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    w->loop = loop;
    w->mem = mem;
    w->irq_fd = irq_fd;
    w->loop_thread = pthread_self();
    w->wake_fd = -EBADF;
    for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
        w->kick[q] = (struct kick){.w = w, .q = q, .fd = -EBADF};
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->served, NULL);
    *ret = w;
    return 0;
}

void virtio_mmio_free(struct virtio_mmio *w)
{
    if (!w)
        return;
    virtio_mmio_stop(w);
    virtio_mmio_detach(w);
    (void)pthread_cond_destroy(&w->served);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}

static void close_sources(struct virtio_mmio *w)
{
    for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++) {
        loop_remove(w->kick[q].source);
        w->kick[q].source = NULL;
        w->kick[q].fd = close_fd(w->kick[q].fd);
    }
    loop_remove(w->wake);
    loop_remove(w->again);
    w->wake = w->again = NULL;
    w->wake_fd = close_fd(w->wake_fd);
}

static int watch(struct virtio_mmio *w, loop_io_fn fn, void *userdata, int *ret_fd,
                 struct loop_source **ret)
{
    *ret_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (*ret_fd < 0)
        return -errno;
    return loop_add_io(w->loop, *ret_fd, LOOP_READ, fn, userdata, ret);
}

static int open_kick(struct virtio_mmio *w, unsigned q, bool foreign)
{
    struct kick *k = &w->kick[q];

    if (!foreign)
        return watch(w, on_kick, k, &k->fd, &k->source);
    k->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return k->fd < 0 ? -errno : 0;
}

static int open_sources(struct virtio_mmio *w, const struct virtio_ops *ops)
{
    int r = watch(w, on_wake, w, &w->wake_fd, &w->wake);

    if (r == 0)
        r = loop_add_defer(w->loop, on_again, w, &w->again);
    for (unsigned q = 0; q < ops->queues && r == 0; q++)
        r = open_kick(w, q, ops->foreign_kicks);
    return r;
}

int virtio_mmio_attach(struct virtio_mmio *w, struct virtio_device *dev)
{
    int r;

    if (w->dev)
        return -EBUSY;
    r = open_sources(w, dev->ops);
    if (r < 0) {
        close_sources(w);
        return r;
    }
    dev->window = w;
    (void)pthread_mutex_lock(&w->lock);
    w->dev = dev;
    registers_reset(w);
    w->generation++;
    (void)pthread_mutex_unlock(&w->lock);
    return 0;
}

void virtio_mmio_detach(struct virtio_mmio *w)
{
    struct virtio_device *dev = w->dev;

    if (!dev)
        return;
    end_device(w);
    (void)pthread_mutex_lock(&w->lock);
    w->dev = NULL;
    registers_reset(w);
    w->request = REQUEST_NONE; /* whoever waits finds an empty window */
    (void)pthread_cond_broadcast(&w->served);
    close_sources(w); /* under the lock: a slow-path notify writes to these */
    (void)pthread_mutex_unlock(&w->lock);
    __atomic_store_n(&w->interrupt_status, 0, __ATOMIC_SEQ_CST);
    dev->window = NULL;
    virtio_device_free(dev);
}

bool virtio_mmio_is_empty(struct virtio_mmio *w)
{
    return w->dev == NULL;
}

bool virtio_mmio_is_active(struct virtio_mmio *w)
{
    return w->dev && w->dev->running;
}

bool virtio_mmio_is_driven(struct virtio_mmio *w)
{
    uint32_t status;

    (void)pthread_mutex_lock(&w->lock);
    status = w->status;
    (void)pthread_mutex_unlock(&w->lock);
    /* ACKNOWLEDGE alone is what Linux leaves behind when a driver lets go (virtio_dev_remove) */
    return w->dev && (status & VIRTIO_CONFIG_S_DRIVER);
}

bool virtio_mmio_was_driven(struct virtio_mmio *w)
{
    bool was;

    (void)pthread_mutex_lock(&w->lock);
    was = w->was_driven;
    (void)pthread_mutex_unlock(&w->lock);
    return was;
}

unsigned virtio_mmio_queue_count(const struct virtio_mmio *w)
{
    return w->dev ? w->dev->ops->queues : 0;
}

int virtio_mmio_kick_fd(const struct virtio_mmio *w, unsigned q)
{
    return q < virtio_mmio_queue_count(w) ? w->kick[q].fd : -EINVAL;
}

void virtio_mmio_quiesce(struct virtio_mmio *w)
{
    if (w->dev)
        end_device(w);
}

void virtio_mmio_stop(struct virtio_mmio *w)
{
    (void)pthread_mutex_lock(&w->lock);
    w->stopping = true;
    (void)pthread_cond_broadcast(&w->served);
    (void)pthread_mutex_unlock(&w->lock);
}

void virtio_mmio_counters(const struct virtio_mmio *w, struct virtio_counters *ret)
{
    ret->accesses = __atomic_load_n(&w->count.accesses, __ATOMIC_RELAXED);
    ret->rejected = __atomic_load_n(&w->count.rejected, __ATOMIC_RELAXED);
    ret->kicks = __atomic_load_n(&w->count.kicks, __ATOMIC_RELAXED);
    ret->interrupts = __atomic_load_n(&w->count.interrupts, __ATOMIC_RELAXED);
    ret->failures = __atomic_load_n(&w->count.failures, __ATOMIC_RELAXED);
}

const char *virtio_mmio_name(struct virtio_mmio *w)
{
    return w->dev ? w->dev->ops->name : "empty";
}
