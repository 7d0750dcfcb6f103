/* SPDX-License-Identifier: Apache-2.0 */
/* The service of exec and attach: the client's channels ⇄ a connection to nexus-vmm. The command begins when all
 * channels are there. A client that leaves ends an exec with all its processes; of an attach only its own end. */
#pragma once

#include "stream/client.h"

/* offer: with exec or attach; owned from success on. 0 or -ENOMEM. */
int remote_service_new(const struct client_host *host, struct client *client,
                       const struct upgrade *upgrade, Nexus__StreamOffer *offer,
                       struct service **ret);
