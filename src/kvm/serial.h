/* SPDX-License-Identifier: Apache-2.0 */
/* An 8250/16550 transmitter for the debug console and for the last words of a kernel: output only,
 * nothing is ever received. Never stores a byte: the sink gets each one as it is written.
 * Threads: any vCPU's; the state has its own lock, the sink is called under it.
 * Source: PC16550D data sheet, register table. */
#pragma once

#include <stdint.h>

#include "base/cleanup.h"

struct bus_ops;
struct serial;

/* byte: from the guest. Must not block. */
typedef void (*serial_sink_fn)(uint8_t byte, void *userdata);

/* irq_fd: eventfd of the interrupt line (edge), borrowed; negative: none. 0 or -ENOMEM. */
int serial_new(int irq_fd, serial_sink_fn sink, void *userdata, struct serial **ret);
void serial_free(struct serial *s);
DEFINE_CLEANUP(struct serial *, serial_free);

#define SERIAL_PORTS 8U
/* For the bus, with the serial as userdata. */
extern const struct bus_ops serial_bus_ops;
