/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-stream from nexusd's side: started when the first session is wanted, found again by its socket after a
 * restart of nexusd, told what the holder of a token may do. Thread: the loop's. */
#pragma once

#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

struct stream_link;
struct stream_call;

struct stream_link_config { /* all borrowed, outlive it */
    const char *run_dir;    /* stream.sock is there */
    int vmm_dirfd;          /* the sockets of nexus-vmm; handed on */
    const char *program, *log_level;
    uint64_t idle_ms;    /* a client that is silent for so long is left */
    const char *address; /* where clients come in */
    /* PEM files, read again when they change; certificate NULL: no TLS. client_ca NULL: clients need none. */
    const char *certificate, *key, *client_ca;
};

/* Nothing is started yet. 0, or errno with *err set. */
int stream_link_new(sd_event *event, const struct stream_link_config *config,
                    struct stream_link **ret, struct error **err);
/* nexus-stream goes on. Calls are forgotten. NULL is allowed. */
void stream_link_free(struct stream_link *l);

/* Called once from the loop, never inside stream_link_offer. url: r 0; good for one use within a minute. */
typedef void (*stream_url_fn)(void *userdata, int r, const char *url, const struct error *err);

/* offer: all but its token, which is made here; borrowed. -EAGAIN: nexus-stream does not start, or too much
 * waits for it; -EMSGSIZE: the command is too long. */
int stream_link_offer(struct stream_link *l, Nexus__StreamOffer *offer, stream_url_fn fn,
                      void *userdata, struct stream_call **ret, struct error **err);
/* fn is not called. NULL is allowed. */
void stream_call_cancel(struct stream_call *c);
