/* SPDX-License-Identifier: Apache-2.0 */
/* TAP ⇄ guest. Towards the guest, a frame is read straight into receive buffers: enough of them for the
 * largest frame are taken first, those the frame did not need are put back. When there are not
 * enough, the TAP is not watched until the guest kicks: frames wait in the TAP's own queue. From the
 * guest, the pieces of a chain are written as they are. The virtio header goes through in both
 * directions; its content is the kernel's business (tun validates it), except num_buffers.
 * Start at receive_turn() and send_frame(). */
#include "virtio/net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off: the header has a struct of the name of our options */
#define virtio_net_config virtio_net_config_space
#include <linux/virtio_net.h>
#undef virtio_net_config
/* clang-format on */
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include "base/checked.h"
#include "base/le.h"
#include "base/log.h"
#include "event/loop.h"
#include "virtio/device-impl.h"

#define QUEUE_RX 0U
#define QUEUE_TX 1U
#define HEADER_BYTES 12U
#define HEADER_NUM_BUFFERS 10U /* offset, u16 */
#define FRAME_BYTES_MAX 65562U /* Ethernet header and the largest segment, offloaded */
#define FRAME_OVERHEAD 22U     /* Ethernet header, two VLAN tags */
#define CHAIN_BYTES_MAX (HEADER_BYTES + 65536U + 64U)
#define MTU_MIN 68U
#define CONFIG_MTU 10U /* offset, u16; the MAC is at 0 */
#define CONFIG_BYTES 12U
#define PIECES_MAX 1024U /* of one readv */

/* The guest's receive offloads, what the TAP must be told for them, and the guest's send offloads that
 * the same ability of the kernel allows. */
static const struct {
    unsigned guest_bit, host_bit, tun_flag;
} offloads[] = {
    {VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM, TUN_F_CSUM},
    {VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, TUN_F_TSO4},
    {VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6, TUN_F_TSO6},
    {VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_ECN, TUN_F_TSO_ECN},
    {VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO, TUN_F_UFO},
};

struct net {
    struct virtio_device dev;
    int tap; /* borrowed */
    bool is_tap;
    struct loop_source *readable;
    uint32_t mtu; /* 0: unknown */
    bool mergeable;
    uint32_t wanted; /* bytes of receive buffers before a frame is read */
    /* receive buffers taken and not used, within one turn: chains [first, first + count) and, from
     * piece on, their pieces; all empty between turns */
    unsigned first, count, piece, pieces;
    uint32_t bytes;
    struct vq_head chain[VQ_SIZE_MAX];
    struct iovec iov[PIECES_MAX];
};

static void watch_tap(struct net *n, bool on)
{
    (void)loop_io_set(n->readable, on ? LOOP_READ : 0);
}

/* ---- towards the guest ---- */

/* Moves what is left to the front, so that there is room behind it. */
static void compact(struct net *n)
{
    memmove(n->chain, n->chain + n->first, n->count * sizeof(n->chain[0]));
    memmove(n->iov, n->iov + n->piece, n->pieces * sizeof(n->iov[0]));
    n->first = n->piece = 0;
}

static bool is_enough(const struct net *n)
{
    return n->mergeable ? n->bytes >= n->wanted : n->count > 0;
}

/* Takes buffers until there are enough. 1: enough; 0: the ring has no more; -EPROTO. */
static int take_buffers(struct net *n, const char **ret_fault)
{
    struct vq *q = &n->dev.vq[QUEUE_RX];

    while (!is_enough(n)) {
        unsigned at = n->piece + n->pieces;
        struct vq_head *h;
        int r;

        if (n->first + n->count == VQ_SIZE_MAX)
            compact(n);
        if (n->count == VQ_SIZE_MAX)
            return 0;
        h = &n->chain[n->first + n->count];
        r = vq_pop_iov(q, h, n->iov + at, PIECES_MAX - at);
        if (r == -ENOBUFS && n->piece) {
            compact(n);
            continue;
        }
        if (r == -ENOBUFS)
            *ret_fault = "receive buffers in too many pieces";
        if (r < 0)
            return -EPROTO;
        if (r == 0)
            return 0;
        if (h->n_out || h->in_bytes == 0 || (!n->mergeable && h->in_bytes < HEADER_BYTES)) {
            *ret_fault = "receive buffer without room";
            return -EPROTO;
        }
        n->count++;
        n->pieces += h->n_in;
        n->bytes += h->in_bytes;
    }
    return 1;
}

/* A frame of len bytes, header included, is in the first buffers: gives them to the guest. */
static void give_frame(struct net *n, uint32_t len)
{
    struct vq *q = &n->dev.vq[QUEUE_RX];
    uint8_t num_buffers[2];
    uint32_t room = 0;
    unsigned used = 0;

    while (room < len)
        room += n->chain[n->first + used++].in_bytes;
    le16_store(num_buffers, (uint16_t)used);
    (void)vq_iov_write(n->iov + n->piece, n->pieces, HEADER_NUM_BUFFERS, num_buffers,
                       sizeof(num_buffers));
    for (unsigned i = 0; i < used; i++) {
        const struct vq_head *h = &n->chain[n->first];
        uint32_t part = min_of(len, h->in_bytes);

        vq_push(q, h->head, part);
        len -= part;
        n->bytes -= h->in_bytes;
        n->piece += h->n_in;
        n->pieces -= h->n_in;
        n->first++;
        n->count--;
    }
}

/* 1: a frame, or one that is lost; 0: no more frames now; -EIO: the TAP is gone. */
static int read_frame(struct net *n)
{
    ssize_t len = readv(n->tap, n->iov + n->piece, (int)n->pieces);

    if (len >= (ssize_t)HEADER_BYTES && (size_t)len <= n->bytes) {
        give_frame(n, (uint32_t)len);
        return 1;
    }
    if (len >= 0)
        return len == 0 ? -EIO : 1; /* shorter than its header: nothing to give */
    switch (errno) {
    case EAGAIN:
        return 0;
    case EINTR:
    case EFAULT: /* the frame was larger than the buffer of a guest without mergeable ones */
    case EINVAL:
    case ENOMEM:
        return 1;
    default:
        log_limited(LOG_WARNING, "virtio-net: reading the TAP: %s", strerror(errno));
        return -EIO;
    }
}

/* Frames until the TAP is empty, the buffers are used up or the turn is over. */
static void receive_frames(struct net *n, const char **ret_fault)
{
    struct vq *q = &n->dev.vq[QUEUE_RX];
    unsigned frames = 0;

    while (frames < VIRTIO_SERVE_CHAINS) {
        int r = take_buffers(n, ret_fault);

        if (r < 0) {
            *ret_fault = *ret_fault ? *ret_fault : q->fault;
            return;
        }
        /* asked for with all buffers taken: the kick comes for the next one */
        if (r == 0 && vq_kicks_on(q))
            continue;
        if (r == 0) {
            watch_tap(n, false);
            return;
        }
        r = read_frame(n);
        if (r < 0)
            watch_tap(n, false);
        if (r <= 0)
            break;
        frames++;
    }
    vq_kicks_off(q); /* and if frames are left, the TAP says so again */
}

static void receive_turn(struct net *n)
{
    const char *fault = NULL;

    if (!n->dev.running || !vq_is_started(&n->dev.vq[QUEUE_RX]))
        return;
    receive_frames(n, &fault);
    vq_rewind(&n->dev.vq[QUEUE_RX], n->count);
    n->first = n->count = n->piece = n->pieces = n->bytes = 0;
    virtio_queue_flush(&n->dev, QUEUE_RX);
    if (fault)
        virtio_device_fail(&n->dev, fault);
}

static void on_tap(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct net *n = userdata;

    if (!(events & LOOP_READ)) { /* hung up: there is nothing to wait for */
        watch_tap(n, false);
        return;
    }
    receive_turn(n);
}

/* ---- from the guest ---- */

static int send_frame(struct virtio_device *dev, const struct vq_chain *c, const char **ret_fault)
{
    struct net *n = container_of(dev, struct net, dev);
    ssize_t r;

    if (c->out_bytes <= HEADER_BYTES)
        return 0;
    /* what the kernel refuses is lost, as on any wire */
    do
        r = writev(n->tap, c->iov, c->n_out);
    while (r < 0 && errno == EINTR);
    return 0;
}

/* ---- device ---- */

static int net_activate(struct virtio_device *dev)
{
    struct net *n = container_of(dev, struct net, dev);
    unsigned flags = 0;
    bool large = n->mtu == 0;

    for (size_t i = 0; i < ARRAY_SIZE(offloads); i++) {
        if (!virtio_has(dev, offloads[i].guest_bit))
            continue;
        flags |= offloads[i].tun_flag;
        large = large || offloads[i].tun_flag != TUN_F_CSUM;
    }
    if (!(flags & TUN_F_CSUM))
        flags = 0; /* segments need checksums first */
    if (n->is_tap && ioctl(n->tap, TUNSETOFFLOAD, (unsigned long)flags) < 0)
        return -errno;
    n->mergeable = virtio_has(dev, VIRTIO_NET_F_MRG_RXBUF);
    n->wanted =
        HEADER_BYTES + (large ? FRAME_BYTES_MAX : min_of(n->mtu + FRAME_OVERHEAD, FRAME_BYTES_MAX));
    watch_tap(n, true);
    return 0;
}

static void net_reset(struct virtio_device *dev)
{
    struct net *n = container_of(dev, struct net, dev);

    watch_tap(n, false);
    if (n->is_tap)
        (void)ioctl(n->tap, TUNSETOFFLOAD, 0UL);
}

static void net_kick(struct virtio_device *dev, unsigned q)
{
    struct net *n = container_of(dev, struct net, dev);

    if (q == QUEUE_TX) {
        virtio_queue_serve(dev, q, send_frame);
        return;
    }
    watch_tap(n, true);
    receive_turn(n);
}

static void net_free(struct virtio_device *dev)
{
    struct net *n = container_of(dev, struct net, dev);

    loop_remove(n->readable);
    free(n);
}

static const struct virtio_ops net_ops = {
    .name = "net",
    .device_id = VIRTIO_ID_NET,
    .queues = 2,
    .queue_size = 256,
    .bytes_max = CHAIN_BYTES_MAX,
    .activate = net_activate,
    .reset = net_reset,
    .kick = net_kick,
    .free = net_free,
};

/* The largest set of offloads this kernel's TAP takes; an old or a new one may know no UFO or ECN. */
static unsigned tap_offloads(int tap)
{
    static const unsigned sets[] = {
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO,
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6,
        TUN_F_CSUM,
    };

    for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
        if (ioctl(tap, TUNSETOFFLOAD, (unsigned long)sets[i]) == 0)
            return ioctl(tap, TUNSETOFFLOAD, 0UL) == 0 ? sets[i] : 0;
    }
    return 0;
}

/* Finds out what the fd is and prepares it. Feature bits to offer in *ret. */
static int prepare_tap(struct net *n, uint64_t *ret)
{
    struct ifreq ifr = {0};
    int header = HEADER_BYTES, flags = fcntl(n->tap, F_GETFL);
    unsigned accepted;

    *ret = VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF) | VIRTIO_FEATURE(VIRTIO_NET_F_MAC);
    if (flags < 0 || fcntl(n->tap, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    if (ioctl(n->tap, TUNGETIFF, &ifr) < 0)
        return 0; /* not a TAP but something that keeps frames apart: no offloads */
    if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_VNET_HDR) ||
        !(ifr.ifr_flags & IFF_NO_PI))
        return -EINVAL;
    if (ioctl(n->tap, TUNSETVNETHDRSZ, &header) < 0)
        return -errno;
    n->is_tap = true;
    accepted = tap_offloads(n->tap);
    for (size_t i = 0; i < ARRAY_SIZE(offloads); i++) {
        if (accepted & offloads[i].tun_flag)
            *ret |= VIRTIO_FEATURE(offloads[i].guest_bit) | VIRTIO_FEATURE(offloads[i].host_bit);
    }
    return 0;
}

int virtio_net_new(struct loop *loop, const struct virtio_net_config *cfg,
                   struct virtio_device **ret)
{
    struct net *n;
    uint64_t features;
    int r;

    if (cfg->mtu && cfg->mtu < MTU_MIN)
        return -EINVAL;
    n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->tap = cfg->tap_fd;
    n->mtu = cfg->mtu;
    r = prepare_tap(n, &features);
    if (r == 0)
        r = loop_add_io(loop, n->tap, 0, on_tap, n, &n->readable);
    if (r < 0) {
        free(n);
        return r;
    }
    if (cfg->mtu)
        features |= VIRTIO_FEATURE(VIRTIO_NET_F_MTU);
    virtio_device_init(&n->dev, &net_ops, features, CONFIG_BYTES);
    memcpy(n->dev.config, cfg->mac, sizeof(cfg->mac));
    le16_store(n->dev.config + CONFIG_MTU, cfg->mtu);
    *ret = &n->dev;
    return 0;
}
