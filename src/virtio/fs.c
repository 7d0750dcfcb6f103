/* SPDX-License-Identifier: Apache-2.0 */
/* Order to read in: on_features (the beginning), start and stop (the guest's driver comes and goes), lose
 * and refuse (the back end is gone). */
#include "virtio/fs.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/fdpass.h"
#include "base/le.h"
#include "base/log.h"
#include "event/loop.h"
#include "kvm/gmem.h"
#include "virtio/device-impl.h"
#include "virtio/vhost-user.h"

#define QUEUES 2U /* urgent ones ("forget"), requests */
#define QUEUE_SIZE 256U
#define CHAIN_BYTES_MAX (2U << 20) /* Linux: 1 MiB of data and two headers */
#define CONFIG_QUEUES VIRTIO_FS_TAG_MAX
#define CONFIG_BYTES (VIRTIO_FS_TAG_MAX + 4U)
#define ANSWER_MS 10000 /* for the back end to answer anything */
#define RAM_SLOTS 2U

/* of a request and its answer (linux/fuse.h) */
#define IN_UNIQUE 8U
#define IN_HEADER 40U
#define OUT_HEADER 16U

enum fs_state {
    FS_HELLO,    /* GET_FEATURES is out */
    FS_IDLE,     /* no driver */
    FS_RUNNING,  /* the back end has the queues */
    FS_STOPPING, /* it was asked to give them back */
    FS_LOST,
};

struct fs {
    struct virtio_device dev;
    struct loop *loop;
    struct virtio_fs_config cfg; /* fd: owned */
    enum fs_state state;
    bool wanted;       /* STOPPING: the guest's driver is there again */
    bool watching;     /* LOST: kicks come here */
    unsigned asked;    /* STOPPING: queues that were not given back yet, as bits */
    uint64_t features; /* of the back end */
    int call_fd;       /* the back end's interrupts */
    uint8_t reply[64];
    size_t reply_bytes;
    struct loop_source *io, *call, *timer;
};

static struct fs *fs_of(struct virtio_device *dev)
{
    return container_of(dev, struct fs, dev);
}

static void lose(struct fs *fs, int r, const char *why);

/* ---- messages */

static void send_with(struct fs *fs, const uint8_t *bytes, size_t n, const int *fds, size_t n_fds)
{
    ssize_t sent;

    if (fs->state == FS_LOST)
        return;
    sent = fdpass_send(fs->cfg.fd, bytes, n, fds, n_fds);
    if (sent != (ssize_t)n) /* a socket full of these few bytes: nobody reads */
        lose(fs, sent < 0 ? (int)sent : -EPIPE, "it takes no messages");
}

static void send_plain(struct fs *fs, enum vhost_user_request request)
{
    uint8_t out[VHOST_USER_BYTES_MAX];

    send_with(fs, out, vhost_user_plain(out, request), NULL, 0);
}

static void send_vring(struct fs *fs, enum vhost_user_request request, unsigned q, uint32_t value)
{
    uint8_t out[VHOST_USER_BYTES_MAX];

    send_with(fs, out, vhost_user_vring(out, request, q, value), NULL, 0);
}

static void send_fd(struct fs *fs, enum vhost_user_request request, unsigned q, int fd)
{
    uint8_t out[VHOST_USER_BYTES_MAX];

    send_with(fs, out, vhost_user_value(out, request, q), &fd, 1);
}

static void send_memory(struct fs *fs)
{
    struct vhost_user_region regions[RAM_SLOTS];
    uint8_t out[VHOST_USER_BYTES_MAX];
    struct gmem_slot slot;
    int fds[RAM_SLOTS];
    size_t n = 0;

    for (unsigned i = 0; i < RAM_SLOTS; i++) {
        if (!gmem_slot_get(fs->cfg.mem, i, &slot) || slot.readonly || slot.fd < 0)
            continue;
        regions[n] = (struct vhost_user_region){slot.gpa, slot.len, slot.fd_offset};
        fds[n++] = slot.fd;
    }
    send_with(fs, out, vhost_user_mem_table(out, regions, n), fds, n);
}

static void send_queue(struct fs *fs, unsigned q)
{
    const struct vq *vq = &fs->dev.vq[q];
    uint8_t out[VHOST_USER_BYTES_MAX];

    send_vring(fs, VHOST_USER_SET_VRING_NUM, q, vq->size);
    send_vring(fs, VHOST_USER_SET_VRING_BASE, q, 0);
    send_with(fs, out,
              vhost_user_vring_addr(out, q, vq->places.desc, vq->places.avail, vq->places.used),
              NULL, 0);
    send_fd(fs, VHOST_USER_SET_VRING_CALL, q, fs->call_fd);
    send_fd(fs, VHOST_USER_SET_VRING_KICK, q, virtio_queue_kick_fd(&fs->dev, q));
}

/* ---- the back end is gone */

static int refuse(struct virtio_device *dev, const struct vq_chain *c, const char **ret_fault)
{
    uint8_t in[IN_HEADER] = {0}, out[OUT_HEADER];

    if (c->in_bytes < OUT_HEADER)
        return 0; /* "forget": nobody waits for an answer */
    (void)vq_chain_read(c, 0, in, sizeof(in));
    le32_store(out, OUT_HEADER);
    le32_store(out + 4, (uint32_t)-EIO);
    memcpy(out + 8, in + IN_UNIQUE, 8);
    return (int)vq_chain_write(c, 0, out, sizeof(out));
}

static void take_over(struct fs *fs)
{
    for (unsigned q = 0; q < QUEUES; q++) {
        if (!fs->watching && virtio_queue_watch(&fs->dev, q) < 0)
            log_warning("virtio-fs: kicks of queue %u go unheard", q);
        if (vq_is_started(&fs->dev.vq[q])) {
            vq_resume(&fs->dev.vq[q]);
            virtio_queue_again(&fs->dev, q);
        }
    }
    virtio_queue_interrupt(&fs->dev); /* its last call may be one that it did not come to */
    fs->watching = true;
}

static void lose(struct fs *fs, int r, const char *why)
{
    bool hello = fs->state == FS_HELLO;

    if (fs->state == FS_LOST)
        return;
    fs->state = FS_LOST;
    fs->wanted = false;
    loop_remove(TAKE(fs->io));
    loop_timer_set(fs->timer, UINT64_MAX);
    fs->cfg.fd = close_fd(fs->cfg.fd);
    log_warning("virtio-fs: its server is lost: %s: %s", why, strerror(-r));
    if (hello)
        fs->cfg.ready(fs->cfg.userdata, r);
    else if (fs->dev.running)
        take_over(fs);
}

static void fs_kick(struct virtio_device *dev, unsigned q)
{
    if (fs_of(dev)->state == FS_LOST)
        virtio_queue_serve(dev, q, refuse);
}

/* ---- the guest's driver */

static void start(struct fs *fs)
{
    uint8_t out[VHOST_USER_BYTES_MAX];

    fs->state = FS_RUNNING;
    fs->wanted = false;
    send_with(fs, out, vhost_user_value(out, VHOST_USER_SET_FEATURES, fs->dev.features), NULL, 0);
    send_memory(fs);
    for (unsigned q = 0; q < QUEUES; q++)
        if (vq_is_started(&fs->dev.vq[q]))
            send_queue(fs, q);
}

static int fs_activate(struct virtio_device *dev)
{
    struct fs *fs = fs_of(dev);

    if (fs->state == FS_LOST)
        take_over(fs);
    else if (fs->state == FS_STOPPING)
        fs->wanted = true;
    else
        start(fs);
    return 0;
}

/* The answers say that it touches the queues no more; until then no driver gets the device again. */
static void fs_reset(struct virtio_device *dev)
{
    struct fs *fs = fs_of(dev);

    fs->wanted = false;
    if (fs->state != FS_RUNNING)
        return;
    fs->state = FS_STOPPING;
    fs->asked = 0;
    for (unsigned q = 0; q < QUEUES; q++) {
        if (!vq_is_started(&dev->vq[q]))
            continue;
        fs->asked |= 1U << q;
        send_vring(fs, VHOST_USER_GET_VRING_BASE, q, 0);
    }
    if (fs->state != FS_STOPPING)
        return;
    if (fs->asked)
        loop_timer_set_after_ms(fs->timer, ANSWER_MS);
    else
        fs->state = FS_IDLE;
}

/* ---- what the back end says */

static void on_features(struct fs *fs, uint64_t features)
{
    if (!(features & VIRTIO_FEATURE(VIRTIO_F_VERSION_1))) {
        lose(fs, -EOPNOTSUPP, "it knows no modern device");
        return;
    }
    fs->features = features;
    fs->dev.offered &= features;
    send_plain(fs, VHOST_USER_SET_OWNER);
    if (fs->state == FS_LOST)
        return;
    fs->state = FS_IDLE;
    loop_timer_set(fs->timer, UINT64_MAX);
    fs->cfg.ready(fs->cfg.userdata, 0);
}

static void on_given_back(struct fs *fs, uint32_t q)
{
    fs->asked &= ~(1U << q);
    if (fs->asked)
        return;
    loop_timer_set(fs->timer, UINT64_MAX);
    fs->state = FS_IDLE;
    if (fs->wanted)
        start(fs);
}

static void on_reply(struct fs *fs, const struct vhost_user_reply *reply)
{
    if (reply->request == VHOST_USER_GET_FEATURES && fs->state == FS_HELLO)
        on_features(fs, reply->features);
    else if (reply->request == VHOST_USER_GET_VRING_BASE && fs->state == FS_STOPPING &&
             reply->queue < QUEUES && (fs->asked & 1U << reply->queue))
        on_given_back(fs, reply->queue);
    else
        lose(fs, -EPROTO, "an answer to no question");
}

static void on_readable(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct fs *fs = userdata;
    struct vhost_user_reply reply;
    ssize_t n = recv(fd, fs->reply + fs->reply_bytes, sizeof(fs->reply) - fs->reply_bytes,
                     MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int r;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        lose(fs, n < 0 ? -errno : -ECONNRESET, "the connection ended");
        return;
    }
    fs->reply_bytes += (size_t)n;
    while (fs->state != FS_LOST &&
           (r = vhost_user_parse(fs->reply, fs->reply_bytes, &reply)) != 0) {
        if (r < 0) {
            lose(fs, r, "it does not speak vhost-user");
            return;
        }
        fs->reply_bytes -= (size_t)r;
        memmove(fs->reply, fs->reply + r, fs->reply_bytes);
        on_reply(fs, &reply);
    }
}

static void on_late(struct loop_source *s, void *userdata)
{
    lose(userdata, -ETIMEDOUT, "no answer");
}

static void on_call(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct fs *fs = userdata;
    uint64_t count;

    (void)!read(fd, &count, sizeof(count));
    if (fs->dev.running)
        virtio_queue_interrupt(&fs->dev);
}

/* ---- life */

static void fs_free(struct virtio_device *dev)
{
    struct fs *fs = fs_of(dev);

    loop_remove(fs->io);
    loop_remove(fs->call);
    loop_remove(fs->timer);
    (void)close_fd(fs->cfg.fd);
    (void)close_fd(fs->call_fd);
    free(fs);
}

static const struct virtio_ops fs_ops = {
    .name = "fs",
    .device_id = VIRTIO_ID_FS,
    .queues = QUEUES,
    .queue_size = QUEUE_SIZE,
    .bytes_max = CHAIN_BYTES_MAX,
    .foreign_kicks = true,
    .activate = fs_activate,
    .reset = fs_reset,
    .kick = fs_kick,
    .free = fs_free,
};

static int open_sources(struct fs *fs)
{
    int r = fs->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (r < 0)
        return -errno;
    r = loop_add_io(fs->loop, fs->call_fd, LOOP_READ, on_call, fs, &fs->call);
    if (r == 0)
        r = loop_add_timer(fs->loop, on_late, fs, &fs->timer);
    if (r == 0)
        r = fd_set_nonblock(fs->cfg.fd, 1);
    if (r == 0)
        r = loop_add_io(fs->loop, fs->cfg.fd, LOOP_READ, on_readable, fs, &fs->io);
    return r;
}

int virtio_fs_new(struct loop *loop, const struct virtio_fs_config *cfg, struct virtio_device **ret)
{
    uint8_t out[VHOST_USER_BYTES_MAX];
    size_t tag = strlen(cfg->tag), n;
    struct fs *fs;
    int r;

    if (tag == 0 || tag > VIRTIO_FS_TAG_MAX)
        return -EINVAL;
    fs = calloc(1, sizeof(*fs));
    if (!fs)
        return -ENOMEM;
    virtio_device_init(&fs->dev, &fs_ops, VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC),
                       CONFIG_BYTES);
    memcpy(fs->dev.config, cfg->tag, tag);
    le32_store(fs->dev.config + CONFIG_QUEUES, QUEUES - 1);
    fs->loop = loop;
    fs->cfg = *cfg;
    fs->cfg.tag = NULL;
    fs->call_fd = -EBADF;
    r = open_sources(fs);
    n = vhost_user_plain(out, VHOST_USER_GET_FEATURES);
    if (r == 0 && fdpass_send(fs->cfg.fd, out, n, NULL, 0) != (ssize_t)n)
        r = -EPIPE;
    if (r < 0) {
        fs->cfg.fd = -EBADF; /* stays the caller's */
        fs_free(&fs->dev);
        return r;
    }
    loop_timer_set_after_ms(fs->timer, ANSWER_MS);
    *ret = &fs->dev;
    return 0;
}

bool virtio_fs_is_alive(const struct virtio_device *dev)
{
    return ((const struct fs *)(const void *)dev)->state != FS_LOST; /* dev comes first in it */
}
