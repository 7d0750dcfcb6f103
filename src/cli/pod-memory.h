/* SPDX-License-Identifier: Apache-2.0 */
/* What a pod costs in memory, as the kernel tells it of the pod's nexus-vmm and its virtiofsd:
 * /proc/<pid>/smaps, read here and not by nexusd, for the kernel walks every page table for it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* Bytes. */
struct pod_memory {
    uint64_t guest_rss;     /* the guest's RAM, as far as it was ever touched and not given back */
    uint64_t vmm_private;   /* nexus-vmm's own: what nobody else has mapped */
    uint64_t virtiofsd;     /* the same of its virtiofsd, if it has one */
    uint64_t region_mapped; /* images and volumes as the guest can see them … */
    uint64_t region_resident; /* … the part of it that is in the page cache and was used … */
    uint64_t region_share;    /* … divided by the number of those who have each page */
};

/* What the pod costs: RAM, monitor, virtiofsd, and its share of what is shared. */
uint64_t pod_memory_total(const struct pod_memory *m);
void pod_memory_add(struct pod_memory *sum, const struct pod_memory *m);

/* The mappings of one process, line by line. Starts zeroed. */
struct smaps_reader {
    struct pod_memory sum;
    enum { SMAPS_OTHER, SMAPS_GUEST, SMAPS_REGION } kind; /* of the mapping being read */
};
/* A line of smaps, with or without its newline. */
void smaps_line(struct smaps_reader *r, const char *line);

/* pid: of the nexus-vmm of that sandbox, which is checked. -ESRCH: it has ended; -EACCES: only root may. */
int pod_memory_read(pid_t pid, const char *sandbox_id, struct pod_memory *ret, struct error **err);
/* Adds what the pod's virtiofsd and its children have for themselves. pid: of the first of them; one that has
 * ended, or is no virtiofsd, adds nothing. -EACCES. */
int pod_memory_add_virtiofsd(pid_t pid, struct pod_memory *m, struct error **err);
