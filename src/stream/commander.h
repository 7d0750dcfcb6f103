/* SPDX-License-Identifier: Apache-2.0 */
/* One connection of nexusd to nexus-stream: a hello, then offers, each answered. A message that makes no sense
 * ends the connection. Thread: the loop's. */
#pragma once

#include <systemd/sd-event.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

struct commander;

struct commander_ops {
    /* 0, or why this is not the server that nexusd wants. */
    int (*on_hello)(void *ud, const Nexus__StreamHello *hello, struct error **err);
    /* 0, or an errno that is told to nexusd. */
    int (*on_tls)(void *ud, const Nexus__StreamTls *tls, struct error **err);
    /* offer is the callee's if the result is 0; else an errno that is told to nexusd. */
    int (*on_offer)(void *ud, Nexus__StreamOffer *offer, struct error **err);
    /* It is over; called from the loop, which frees it there. */
    void (*on_gone)(void *ud, struct commander *c);
};

/* fd: owned from success on; non-blocking. url: borrowed, the answer to a hello. 0; -EPERM: the other side is
 * neither root nor us; errno. */
int commander_new(sd_event *event, int fd, const char *url, const struct commander_ops *ops,
                  void *ud, struct commander **ret);
void commander_free(struct commander *c);
