/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's parts, for machine.c (assembly, threads, end), machine-devices.c (windows) and
 * machine-regions.c (hot slots). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/limit.h"
#include "base/list.h"
#include "kvm/layout.h"
#include "vmm/machine.h"

struct bus;
struct console;
struct gmem;
struct loop_source;
struct ro_region;
struct serial;
struct vcpu;
struct virtio_device;
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

/* A place for a hot-added pmem device. One that the guest has met is taken before a new one: its agent binds
 * the driver again, while a new one makes the guest's firmware code look at all of them. */
struct hot_slot {
    struct virtio_mmio *window; /* owned */
    struct ro_region *region;   /* owned; NULL: free. Changed under regions_lock */
    uint64_t gpa, bytes;        /* changed under regions_lock */
    char *key, *what;           /* owned; the same */
    uint64_t denied;            /* guest writes; the same */
    bool may_park;              /* its device is to stay when the region goes */
    bool parked; /* and has: region shows no file, the guest's driver waits for the next */
    bool lossy;  /* it was told that pages of it are lost; the same */
};

/* A memory slot that is kept: a region without files, see machine-regions.c. */
struct vacant_slot {
    struct ro_region *region; /* owned; NULL: none */
    uint64_t gpa, bytes;
};
#define VACANT_MAX 8

/* The window of the virtio-fs device. The guest's firmware tables have it from the start; empty, it is no
 * device to the kernel, and the agent has the driver look again when one was put there. */
struct share_slot {
    struct virtio_mmio *window; /* owned */
    struct virtio_device *dev;  /* owned by its window, or here until it is ready; NULL: none */
    bool attached;
    struct loop_source *settle; /* deferred: ready has been told, and what follows from it is due */
    int result;                 /* of ready */
    machine_share_fn fn;        /* NULL: nobody waits */
    void *userdata;
};

/* A region whose files come in several calls. */
struct hot_partial {
    struct list link;
    char *key;                /* owned */
    struct ro_region *region; /* owned */
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
    struct hot_slot hot[LAYOUT_HOT_SLOTS];
    struct share_slot share;
    struct vacant_slot vacant[VACANT_MAX];
    unsigned next_vacant; /* that goes when there are too many */
    pthread_mutex_t regions_lock;
    int fault_fd; /* this process read a lost page */
    struct loop_source *fault_source;
    struct list partials;          /* struct hot_partial */
    _Atomic uint32_t *state_words; /* in guest RAM: bit n = hot slot n is present */

    /* how it ended: first one counts */
    pthread_mutex_t end_lock;
    bool ended;    /* under end_lock */
    bool reported; /* loop thread */
    enum machine_end end;
    char end_detail[256];
    int end_fd;
    struct loop_source *end_source;
    struct loop_source *release; /* deferred: memory of a guest that is over */
    unsigned release_turns;

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
/* What release left (the vsock, whose rings may still be read) stops touching guest memory. */
void machine_devices_quiesce(struct machine *m);
void machine_devices_free(struct machine *m);
/* The device behind the window, kicks without exits. On failure dev is freed. */
int machine_window_attach(struct machine *m, struct virtio_mmio *w, unsigned window,
                          struct virtio_device *dev);
/* Before a device is detached. */
void machine_window_unwire(struct machine *m, struct virtio_mmio *w, unsigned window);
/* machine-share.c: no device yet; 0 or errno. */
int machine_share_init(struct machine *m);
/* What is not attached; before the windows go. */
void machine_share_done(struct machine *m);
/* machine-regions.c: what this process reads of lost pages is told from now on. 0 or errno. */
int machine_regions_init(struct machine *m);
/* No slot of the VM is used any more. */
void machine_regions_free(struct machine *m);
void machine_devices_counters(struct machine *m, machine_counter_fn add, void *ctx);
/* A vCPU wrote to a read-only slot. */
void machine_denied(void *machine, uint64_t gpa);
/* A vCPU ran into a page that cannot be had. True: something was mended, or not all was looked at yet. */
bool machine_repair(void *machine);
