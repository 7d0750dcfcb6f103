/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's network, as the host's CNI result wants it: over one rtnetlink socket. */
#pragma once

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

/* Brings up loopback and each interface. An interface is the link with that MAC, else the link with
 * that name, else the first Ethernet link no earlier interface took. May be called again. */
int netconf_apply(Nexus__Interface *const *interfaces, size_t n, struct error **err);
