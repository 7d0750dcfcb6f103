/* SPDX-License-Identifier: Apache-2.0 */
/* The service of port-forward: pairs of a client's streams ⇄ connections to ports of the pod, each its own
 * connection to nexus-vmm. One that fails ends alone. A port that takes nothing stops the whole client once its
 * buffer is full: the protocol has no other way to say so. */
#pragma once

#include "stream/client.h"

/* offer: with forward; owned from success on. 0 or -ENOMEM. */
int port_service_new(const struct client_host *host, struct client *client,
                     const struct upgrade *upgrade, Nexus__StreamOffer *offer,
                     struct service **ret);
