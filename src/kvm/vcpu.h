/* SPDX-License-Identifier: Apache-2.0 */
/* One virtual CPU: its state at boot and its run loop. Accesses of the guest go to a bus; what ends
 * the loop is told to the caller, who decides what it means for the machine.
 * Threads: vcpu_new/setup on the thread that builds the machine; vcpu_run on the vCPU's own thread;
 * vcpu_stop and vcpu_count from any. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct bus;
struct vcpu;
struct vm;

/* Returns to user space, by reason; the values grow for the life of the vCPU. */
enum vcpu_counter {
    VCPU_EXIT_IO,
    VCPU_EXIT_MMIO,
    VCPU_EXIT_HLT,
    VCPU_EXIT_INTR, /* a signal or EAGAIN: nothing happened in the guest */
    VCPU_EXIT_SHUTDOWN,
    VCPU_EXIT_SYSTEM_EVENT,
    VCPU_EXIT_FAIL_ENTRY,
    VCPU_EXIT_INTERNAL_ERROR,
    VCPU_EXIT_MEMORY_FAULT,
    VCPU_EXIT_OTHER,
    VCPU_READONLY_WRITES, /* of MMIO: stores to a read-only region, dropped */
    VCPU_UNCLAIMED_MMIO,  /* of MMIO: nobody there */
    VCPU_UNCLAIMED_PORT,  /* of IO: nobody there */
    VCPU_REPAIRED_FAULTS, /* of MEMORY_FAULT: vanished file pages replaced by zeros */
};
#define VCPU_COUNTERS 14
/* "io", "mmio", … Static storage. */
const char *vcpu_counter_name(enum vcpu_counter c);

enum vcpu_end {
    VCPU_END_STOPPED,        /* vcpu_stop() */
    VCPU_END_TRIPLE_FAULT,   /* KVM_EXIT_SHUTDOWN */
    VCPU_END_SYSTEM_EVENT,   /* see detail */
    VCPU_END_FAULT,          /* the memory behind a slot is gone */
    VCPU_END_INTERNAL_ERROR, /* KVM gave up, or entry failed */
};
struct vcpu_result {
    enum vcpu_end end;
    char detail[224]; /* for people; empty for STOPPED */
};

struct vcpu_config {
    uint32_t index; /* 0: the boot CPU */
    uint32_t cpus;
    const struct bus *bus; /* borrowed */
    /* KVM_RUN said EFAULT: the page behind some slot cannot be had. True: it was repaired, go on; so it
     * does a few times after false. May be NULL. Runs on the vCPU's thread. */
    bool (*repair)(void *userdata);
    /* The guest stored to a read-only slot; it was dropped. May be NULL. The same thread. */
    void (*denied)(void *userdata, uint64_t gpa);
    void *userdata;
};

/* High tier. vm borrowed. */
int vcpu_new(struct vm *vm, const struct vcpu_config *cfg, struct vcpu **ret, struct error **err);
void vcpu_free(struct vcpu *v); /* its thread has ended */
DEFINE_CLEANUP(struct vcpu *, vcpu_free);

/* CPUID, MSRs, FPU and LAPIC of every vCPU; for the boot CPU also the PVH entry state: 32-bit
 * protected mode at entry with ebx = start_info. The others wait for INIT/SIPI.
 * Sources: Xen's docs/misc/pvh.pandoc, SDM vol. 3 section 10. */
int vcpu_setup(struct vcpu *v, uint64_t entry, uint64_t start_info, struct error **err);

/* Runs the guest until something ends it. */
void vcpu_run(struct vcpu *v, struct vcpu_result *ret);
/* Makes vcpu_run return soon, now and later. */
void vcpu_stop(struct vcpu *v);

uint64_t vcpu_count(const struct vcpu *v, enum vcpu_counter c);
/* CLOCK_MONOTONIC of the first KVM_RUN, 0 before. */
uint64_t vcpu_first_run_ns(const struct vcpu *v);

/* Installs the handler that lets vcpu_stop interrupt KVM_RUN; once per process, before threads. */
int vcpu_init_signals(void);
