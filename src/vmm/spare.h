/* SPDX-License-Identifier: Apache-2.0 */
/* One stream connection of the guest that is open before anybody needs it, so that an exec does not begin
 * with a connect's round trip. It is a transport over another one: who connects to
 * TRANSPORT_PORT_STREAM gets the spare if it is up, else a connection made for him. conn_return() gives
 * a connection back on which a stream has ended and the guest waits for the next; it becomes the spare
 * if there is none, else it is closed. So execs one after the other use one connection.
 * Bounds: one spare. It is opened a while after start, after the last one was taken, and (a growing
 * while, up to a minute) after it was lost. The guest may not say a word on it.
 * Thread: the loop's. */
#pragma once

#include <stdint.h>

#include "base/cleanup.h"
#include "vmm/transport.h"

struct loop;
struct spare;

#define SPARE_DELAY_MS 1000U
#define SPARE_DELAY_MAX_MS 60000U

/* below: borrowed, outlives it. 0 or errno. */
int spare_new(struct loop *loop, const struct transport *below, struct spare **ret);
/* Closes the spare. Connections that were given out are their owners'; they are closed before. */
void spare_free(struct spare *s);
DEFINE_CLEANUP(struct spare *, spare_free);

/* Valid as long as s. */
const struct transport *spare_transport(const struct spare *s);
/* From now on a spare is kept (the agent listens), or no longer (the guest ends). */
void spare_start(struct spare *s);
void spare_stop(struct spare *s);
/* Until the first opening; tests shorten it. Before spare_start. */
void spare_set_delay_ms(struct spare *s, uint32_t ms);
