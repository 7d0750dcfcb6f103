/* SPDX-License-Identifier: Apache-2.0 */
/* One client's TCP connection, with TLS or without: the head of its request, the token, the upgrade, then a service (remote.h,
 * port.h) whose bytes it carries. What the client does not read stops the service, what the service does not
 * take stops the reading. Thread: the loop's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "gen/msg/nexus.pb-c.h"
#include "stream/upgrade.h"

struct client;
struct service;
struct tls_context;

/* What a service is to its client. A service tells of changes with client_kick. */
struct service_ops {
    bool (*wants_input)(struct service *s);
    /* n bytes (64 KiB at most; only while it wants input); n 0: look again at what waits. */
    void (*feed)(struct service *s, const uint8_t *p, size_t n);
    size_t (*out)(struct service *s, const uint8_t **ret);
    /* n bytes were sent. */
    void (*out_done)(struct service *s, size_t n);
    /* All clients' streams are there: the time limit for that is off. */
    bool (*is_set_up)(struct service *s);
    /* Nothing will come any more but what out has. */
    bool (*is_over)(struct service *s);
    /* When tick wants to be called; UINT64_MAX: never. */
    uint64_t (*tick)(struct service *s, uint64_t now_ns);
    void (*free)(struct service *s);
};
struct service {
    const struct service_ops *ops;
};

struct client_host {
    sd_event *event;
    int vmm_dirfd; /* where the sockets of nexus-vmm are */
    uint64_t idle_ns;
    void *ud;
    /* The offer of a token, once; NULL: there is none. The caller frees it. */
    Nexus__StreamOffer *(*take)(void *ud, const char *token);
    /* The client is over; called from the loop, not from within client_new. It frees the client. */
    void (*on_gone)(void *ud, struct client *c);
};

/* fd: owned from success on; non-blocking. host: borrowed, outlives it. tls: NULL, or what it has to begin with. 0 or
 * errno. */
int client_new(const struct client_host *host, int fd, struct tls_context *tls,
               struct client **ret);
void client_free(struct client *c);
/* Its service has output, or wants other things than before. */
void client_kick(struct client *c);
