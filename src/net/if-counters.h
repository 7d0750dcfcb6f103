/* SPDX-License-Identifier: Apache-2.0 */
/* What went through an interface of another network namespace. */
#pragma once

#include <stdint.h>

struct if_counters { /* since the interface was made; rx: what the host took from it */
    uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped;
    uint64_t tx_bytes, tx_packets, tx_errors, tx_dropped;
};

/* The line of name in the text of /proc/net/dev. -ENODEV: none; -EBADMSG: not as the kernel writes it. */
int if_counters_parse(const char *text, const char *name, struct if_counters *ret);
/* Enters the namespace with the calling thread and comes back: not for a thread that others rely on. -ENOENT:
 * no such namespace. */
int if_counters_read(const char *netns_path, const char *name, struct if_counters *ret);
