/* SPDX-License-Identifier: Apache-2.0 */
/* For share.c and share-bind.c. */
#pragma once

#include <systemd/sd-event.h>

#include "base/limit.h"
#include "pod/share.h"
#include "pod/vmm-process.h"

#define SHARE_NAME_MAX (LIMIT_ID_MAX + 16)

enum share_state {
    SHARE_STARTING, /* virtiofsd, and its device in the VM */
    SHARE_READY,
    SHARE_LOST, /* it ended: for good */
};

struct pod_share {
    enum share_state state;
    struct vmm_process process; /* owned */
    sd_event_source *io;        /* owned */
    struct vmm_call *call;      /* owned */
    struct error *why;          /* owned; LOST */
};

void share_dir_name(const struct sandbox *s, char ret[SHARE_NAME_MAX]);
/* Binds what c mounts; ends its step share_job. 1, or an error. */
int share_bind(struct container *c, struct error **err);
/* A new pidfd of its virtiofsd, whoever started it; -EBADF: there is none. */
int share_pidfd(const struct sandbox *s);
/* The directory and the mount points in it; never what is mounted there. */
void share_remove_dir(struct sandbox *s);
