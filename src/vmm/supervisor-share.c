/* SPDX-License-Identifier: Apache-2.0 */
/* The pod's share: one virtio-fs device whose back end nexusd has started. */
#include <string.h>

#include "base/log.h"
#include "vmm/supervisor-internal.h"

#define TELL "the share of the pod's host directories"

int supervisor_find_share(struct supervisor *sup, uint32_t *ret_device, struct error **err)
{
    int r = sup->ops->share_state ? sup->ops->share_state(sup->ud, ret_device) : -ENOENT;

    if (r == -ENOENT)
        return error_set_class(err, ERROR_PRECONDITION, r, TELL " was not added");
    if (r < 0)
        return error_set_class(err, ERROR_UNAVAILABLE, r,
                               TELL " is lost: its server (virtiofsd) ended");
    return 0;
}

static void on_added(void *ctx, int r)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct supervisor *sup = ctx;

    if (!sup->share_pending)
        return;
    sup->share_pending = false;
    if (r < 0)
        (void)error_set_class(&err, ERROR_UNAVAILABLE, r, TELL ": no answer of its server: %s",
                              strerror(-r));
    else
        log_info("share added");
    supervisor_answer(sup, sup->share_caller, r, err);
}

void supervisor_end_share(struct supervisor *sup)
{
    on_added(sup, -ESHUTDOWN);
}

static int ask(struct supervisor *sup, struct control_caller who, struct error **err)
{
    uint32_t device;
    int r = supervisor_find_share(sup, &device, err);

    if (r == 0)
        supervisor_answer(sup, who, 0, NULL);
    return r;
}

int supervisor_add_share(struct supervisor *sup, struct control_caller who, int *fds, size_t n_fds,
                         struct error **err)
{
    int r;

    if (n_fds == 0)
        return ask(sup, who, err);
    if (n_fds > 1)
        return error_set(err, -EINVAL, TELL ": %zu sockets", n_fds);
    if (!sup->ops->add_share)
        return error_set(err, -EOPNOTSUPP, TELL " is not for this machine");
    if (sup->phase == NEXUS__VMM_STATE__PHASE__ENDED)
        return supervisor_check_guest(sup, err);
    if (sup->share_pending)
        return error_set(err, -EAGAIN, TELL " is being added");
    sup->share_pending = true;
    sup->share_caller = who;
    r = sup->ops->add_share(sup->ud, fds[0], on_added, sup);
    if (r < 0) {
        sup->share_pending = false;
        return error_set(err, r, TELL ": %s", strerror(-r));
    }
    fds[0] = -EBADF;
    return 0;
}
