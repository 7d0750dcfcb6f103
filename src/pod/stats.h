/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of pods and containers, as last heard: of cgroups in the guest, of the VM's process and network
 * on the host. A refresh asks all VMs at once, and waits for each a second at most; what does not come in that
 * time stays what it was, with its time, and comes by and by. A guest that was late is not waited for
 * again before it has answered.
 *
 * The guest's numbers are hostile: any values. Sums and rates of them are bounded, nothing else is.
 * Thread: the loop's. What waits on the host is done by a thread of its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gen/msg/nexus.pb-c.h"
#include "net/if-counters.h"
#include "pod/waiter.h"

struct container;
struct node;
struct sandbox;

#define STATS_KINDS 32
#define STATS_WAIT_MS 1000  /* for one list */
#define STATS_CALL_MS 20000 /* for the guest, before it is asked anew */
#define STATS_WINDOW_MS 100 /* shortest time between two readings that make a rate */

/* Their names are those of proto/nexus.proto. */
#define STATS(name) NEXUS__CGROUP_STATS__KIND__##name

/* A rate, made of two readings of a time that was used. */
struct cpu_rate {
    uint64_t at_ns, used_ns; /* the older reading; 0: none */
    bool known;
    uint64_t nano_cores;
};

struct cgroup_numbers {
    uint64_t time_ns; /* CLOCK_REALTIME, when nexus-vmm was told; 0: never */
    uint64_t known;   /* bit n: values[n] was told */
    uint64_t values[STATS_KINDS];
    struct cpu_rate rate;
};

struct host_numbers { /* of nexus-vmm, and so of the whole pod */
    uint64_t time_ns; /* CLOCK_REALTIME; 0: never */
    uint64_t cpu_us, memory_bytes, memory_inactive_file_bytes, memory_rss_bytes;
    uint64_t page_faults, major_page_faults;
    bool has_net;
    struct if_counters net; /* of the TAP */
    struct cpu_rate rate;
};

struct sandbox_stats;

/* NULL: nothing was ever heard. Borrowed until the loop's next turn. */
const struct cgroup_numbers *container_numbers(const struct container *c);
const struct cgroup_numbers *sandbox_guest_numbers(const struct sandbox *s);
const struct host_numbers *sandbox_host_numbers(const struct sandbox *s);
/* False: it was not told. */
bool numbers_get(const struct cgroup_numbers *n, unsigned kind, uint64_t *ret);
/* Time used in ns; false: not told, or no time of this world. */
bool numbers_cpu_ns(const struct cgroup_numbers *n, uint64_t *ret);
/* Memory that is not easily given back; false: not told. */
bool numbers_working_set(const struct cgroup_numbers *n, uint64_t *ret);

/* Refreshes the sandboxes that wanted() wants (called for each before this returns). The waiter is
 * always told success. -EAGAIN (ERROR_UNAVAILABLE): not recovered. */
int node_refresh_stats(struct node *n, bool (*wanted)(const struct sandbox *s, const void *arg),
                       const void *arg, waiter_fn fn, void *userdata, struct waiter **ret,
                       struct error **err);
