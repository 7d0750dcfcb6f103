/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-fs device of a VM: put behind its window when its back end has said hello. */
#include <errno.h>

#include "event/loop.h"
#include "virtio/device.h"
#include "virtio/fs.h"
#include "vmm/machine-internal.h"

/* A device must not be freed or attached from within its own callback. */
static void on_ready(void *userdata, int r)
{
    struct machine *m = userdata;

    m->share.result = r;
    loop_defer_arm(m->share.settle);
}

static void settle(struct loop_source *s, void *userdata)
{
    struct machine *m = userdata;
    struct share_slot *share = &m->share;
    machine_share_fn fn = share->fn;
    int r = share->result;

    if (!fn)
        return;
    share->fn = NULL;
    if (r >= 0) {
        r = machine_window_attach(m, share->window, LAYOUT_MMIO_SHARE, share->dev);
        share->attached = r >= 0;
        if (r < 0)
            share->dev = NULL;
    }
    if (r < 0)
        virtio_device_free(TAKE(share->dev));
    fn(share->userdata, r);
}

int machine_share_init(struct machine *m)
{
    return loop_add_defer(m->loop, settle, m, &m->share.settle);
}

void machine_share_done(struct machine *m)
{
    if (!m->share.attached)
        virtio_device_free(m->share.dev);
    m->share.dev = NULL;
    m->share.attached = false;
    m->share.fn = NULL;
    loop_remove(TAKE(m->share.settle));
}

int machine_add_share(struct machine *m, int fd, const char *tag, machine_share_fn fn,
                      void *userdata)
{
    struct virtio_fs_config cfg = {
        .fd = fd, .mem = m->mem, .tag = tag, .ready = on_ready, .userdata = m};
    int r;

    if (m->share.fn)
        return -EALREADY;
    if (m->share.dev)
        return -EEXIST;
    if (!m->share.settle) /* the guest is over */
        return -ESHUTDOWN;
    r = virtio_fs_new(m->loop, &cfg, &m->share.dev);
    if (r < 0)
        return r;
    m->share.fn = fn;
    m->share.userdata = userdata;
    return 0;
}

enum machine_share_state machine_share_state(const struct machine *m)
{
    if (!m->share.attached)
        return MACHINE_SHARE_NONE;
    return virtio_fs_is_alive(m->share.dev) ? MACHINE_SHARE_LIVE : MACHINE_SHARE_LOST;
}

uint32_t machine_share_device(void)
{
    return LAYOUT_MMIO_SHARE;
}
