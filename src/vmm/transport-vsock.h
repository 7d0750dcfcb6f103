/* SPDX-License-Identifier: Apache-2.0 */
/* struct transport over the machine's vsock device. */
#pragma once

#include "base/cleanup.h"
#include "vmm/transport.h"

struct transport_vsock;
struct vsock;

/* v: borrowed, outlives it. 0 or -ENOMEM. */
int transport_vsock_new(struct vsock *v, struct transport_vsock **ret);
/* Its users are gone before (supervisor_free); the device accepts nothing for it any more. */
void transport_vsock_free(struct transport_vsock *t);
DEFINE_CLEANUP(struct transport_vsock *, transport_vsock_free);

/* Valid as long as t. */
const struct transport *transport_vsock_transport(const struct transport_vsock *t);
