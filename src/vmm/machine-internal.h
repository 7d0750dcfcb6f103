/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's parts, for machine.c (assembly, threads, end) and machine-devices.c (windows, hot
 * slots). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/limit.h"
#include "kvm/layout.h"
#include "vmm/machine.h"

struct bus;
struct console;
struct gmem;
struct loop_source;
struct ro_region;
struct serial;
struct vcpu;
struct virtio_mmio;
struct vm;

#define COLD_DEVICES_MAX 5U
#define IOAPIC_PINS 24U

enum boot_stage { STAGE_VM, STAGE_DEVICES, STAGE_LOADED, STAGE_VCPUS };
#define BOOT_STAGES 4

struct cold_device {
    struct virtio_mmio *window; /* owned; NULL: not there */
    const char *name;
};

/* A place for a hot-added pmem device. Slots never used are taken before used ones: a first use needs
 * nothing of the guest, a reuse needs its agent to bind the driver again. */
struct hot_slot {
    struct virtio_mmio *window; /* owned */
    struct ro_region *region;   /* owned; NULL: free. Changed under regions_lock */
    uint64_t gpa, bytes;
    bool used; /* at some time */
};

struct vcpu_thread {
    struct machine *machine;
    struct vcpu *vcpu; /* owned */
    pthread_t thread;
    bool started;
};

struct machine {
    struct loop *loop; /* borrowed */
    struct machine_config cfg;
    machine_ended_fn on_ended;
    void *userdata;

    struct gmem *mem;
    struct vm *vm;
    struct bus *bus;
    struct console *console;
    struct serial *serial;
    struct vsock *vsock; /* borrowed from its window */
    struct vcpu_thread vcpus[LIMIT_VCPUS];
    int gsi_fd[IOAPIC_PINS]; /* eventfds, one per line in use */

    struct cold_device cold[COLD_DEVICES_MAX];
    struct hot_slot hot[LIMIT_REGIONS];
    pthread_mutex_t regions_lock;
    _Atomic uint32_t *state_words; /* in guest RAM: bit n = hot slot n is present */

    /* how it ended: first one counts */
    pthread_mutex_t end_lock;
    bool ended;    /* under end_lock */
    bool reported; /* loop thread */
    enum machine_end end;
    char end_detail[256];
    int end_fd;
    struct loop_source *end_source;

    uint64_t stage_ns[BOOT_STAGES]; /* since spawn */
    uint64_t kernel_copied_bytes, kernel_skipped_bytes;
};

/* The eventfd of line gsi, made on first use. */
int machine_gsi_fd(struct machine *m, uint32_t gsi);

/* Windows on the bus, cold devices behind theirs; before the tables. */
int machine_devices_new(struct machine *m, struct error **err);
/* Firmware tables for what machine_devices_new made, into guest memory. */
int machine_devices_describe(struct machine *m, struct error **err);
/* No register access waits any more. */
void machine_devices_stop(struct machine *m);
/* The guest is over: its devices go, but vsock, whose users are told first. */
void machine_devices_release(struct machine *m);
void machine_devices_free(struct machine *m);
void machine_devices_counters(struct machine *m, machine_counter_fn add, void *ctx);
/* A vCPU ran into a page that cannot be had. True: something was mended. */
bool machine_repair(void *machine);
