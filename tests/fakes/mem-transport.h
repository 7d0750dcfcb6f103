/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's vsock in memory: two transports, host and guest side, joined back to back on one loop.
 * Bounded buffers (64 KiB per direction), callbacks only from the loop, as the real device does. */
#pragma once

#include "vmm/transport.h"

struct loop;
struct mem_transport;

int mem_transport_new(struct loop *loop, struct mem_transport **ret);
/* Connections of both sides go without a callback; close objects that use them first. */
void mem_transport_free(struct mem_transport *t);
const struct transport *mem_transport_host(struct mem_transport *t);
const struct transport *mem_transport_guest(struct mem_transport *t);
/* Every connection of the guest is reset, as by a guest that stops. */
void mem_transport_reset_guest(struct mem_transport *t);
/* Connections that exist, counting each end. */
size_t mem_transport_count(const struct mem_transport *t);
