/* SPDX-License-Identifier: Apache-2.0 */
/* The service of port-forward: pairs of a client's streams ⇄ connections to ports of the pod, each its own
 * connection to nexus-vmm. One that fails ends alone. A port that takes nothing stops the whole client once its
 * buffer is full: the protocol has no other way to say so. */
#pragma once

#include "stream/client.h"
#include "stream/port-channels.h"

struct port_list {
    uint16_t ports[PORT_CHANNELS_MAX];
    size_t n;
};

/* For UPGRADE_PORTS: the ports that nexusd was asked for, else those of the request's query. NULL, or what is
 * wrong, in words for the client. */
const char *port_list_get(const Nexus__StreamOffer *offer, const char *query, bool base64,
                          struct port_list *ret);

/* ports: with UPGRADE_PORTS. offer: with forward; owned from success on. 0 or -ENOMEM. */
int port_service_new(const struct client_host *host, struct client *client,
                     const struct upgrade *upgrade, const struct port_list *ports,
                     Nexus__StreamOffer *offer, struct service **ret);
