/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-stream as a whole: a TCP listener for clients, a unix listener for nexusd, tokens between them.
 * nexusd may come and go: what it offered stays good, clients go on. Thread: the loop's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"

#define SERVER_PROTOCOL_VERSION 2

struct server;

struct server_config {
    int control_fd;      /* listening unix socket; owned from success on */
    int vmm_dirfd;       /* where the sockets of nexus-vmm are; borrowed */
    const char *address; /* IPv4 or IPv6 */
    bool tls;            /* else plain HTTP */
    uint64_t idle_ms;
    /* With no nexusd, no client and no token for so long it ends: nobody would find it again. 0: never. */
    uint64_t forsaken_ms;
};

/* Listens on the address, any port. 0, or errno with *err set. */
int server_new(sd_event *event, const struct server_config *config, struct server **ret,
               struct error **err);
/* Ends all connections. NULL is allowed. */
void server_free(struct server *s);
DEFINE_CLEANUP(struct server *, server_free);
/* "http://127.0.0.1:PORT", "https://[::1]:PORT" */
const char *server_url(const struct server *s);
