/* SPDX-License-Identifier: Apache-2.0 */
/* The virtual machine with its devices: memory, vCPUs, firmware tables, virtio windows, console, hot
 * slots. Assembles what kvm, virtio and mapper offer; knows nothing of pods, agents or sockets.
 *
 * Life: machine_new → machine_start → (regions come and go) → on_ended, once → machine_free.
 * Threads: one per vCPU, made by machine_start; every function and callback here is the loop's
 * thread's. Everything that needs a path or an fd was opened before machine_new. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct loop;
struct machine;
struct vsock;

struct machine_config {
    uint32_t cpus;      /* 1 … LIMIT_VCPUS */
    uint64_t ram_bytes; /* as gmem_new */
    /* descriptors are borrowed for the machine's life; negative: not there */
    int kvm_fd;
    int kernel_fd;
    int initramfs_fd;
    int tap_fd;
    int scratch_fd;
    int console_fd; /* >= 0: the guest's kernel talks on its serial line, and it goes there */
    uint8_t mac[6];
    uint16_t mtu;               /* 0: not told */
    const char *cmdline_append; /* NULL; borrowed for machine_new */
    const char *id;    /* in log lines of the vCPUs; NULL; borrowed for the machine's life */
    uint64_t spawn_ns; /* CLOCK_MONOTONIC when the process began, for the stage times */
};

enum machine_end {
    MACHINE_POWEROFF,       /* S5 */
    MACHINE_RESET,          /* the reset register */
    MACHINE_PANIC,          /* pvpanic, or a reset with a panic on the console */
    MACHINE_TRIPLE_FAULT,   /* without a panic on the console */
    MACHINE_INTERNAL_ERROR, /* KVM gave up, or memory behind a slot was lost */
    MACHINE_STOPPED,        /* machine_stop */
};
#define MACHINE_END_COUNT 6
const char *machine_end_name(enum machine_end end);

/* detail: printable, borrowed for the call. The vCPU threads have ended. */
typedef void (*machine_ended_fn)(enum machine_end end, const char *detail, void *userdata);

/* High tier. Builds everything up to the first instruction. */
int machine_new(struct loop *loop, const struct machine_config *cfg, machine_ended_fn on_ended,
                void *userdata, struct machine **ret, struct error **err);
/* Stops the vCPUs if they run, without a callback. */
void machine_free(struct machine *m);
DEFINE_CLEANUP(struct machine *, machine_free);

int machine_start(struct machine *m, struct error **err);
/* Ends the guest now; on_ended follows from the loop, unless it came already. */
void machine_stop(struct machine *m);

/* The host's end of the guest's vsock; valid until machine_free. */
struct vsock *machine_vsock(struct machine *m);

/* Maps the files (fds borrowed; sizes and modes are checked) as one read-only pmem region above RAM
 * and hot-adds its device. key and what (may be empty): its name in messages; names: those of its n
 * files, or NULL. more: further files of the same key follow, the
 * device comes with the last ones; an error forgets those that came. Possible before machine_start too.
 * 0 with the region's place; errors of ro_region_new; -ENOSPC: LIMIT_REGIONS are in use, or no address
 * space. */
int machine_add_region(struct machine *m, const char *key, const char *what, const int *fds,
                       const uint64_t *segment_bytes, char *const *names, size_t n, bool more,
                       uint64_t *ret_gpa, uint64_t *ret_bytes, struct error **err);
/* What came of a region that is not complete. A key that is not known is no error. */
void machine_forget_region(struct machine *m, const char *key);
/* True while a driver of the guest has its device. */
bool machine_region_is_driven(struct machine *m, uint64_t gpa);
/* The _UID, in the firmware tables, of the device of the region at gpa; 0: there is none. */
uint32_t machine_region_device(struct machine *m, uint64_t gpa);
/* Guest writes into the region that were dropped, pages of its files that are zeros now. */
void machine_count_region(struct machine *m, uint64_t gpa, uint64_t *ret_denied,
                          uint64_t *ret_repaired);
/* The guest has unbound the driver. -ENOENT: no region starts at gpa. */
int machine_remove_region(struct machine *m, uint64_t gpa);
/* True: when this region goes its device should stay where it is, for the next region (machine_park_region). A
 * small region, and fewer than LIMIT_PARKED are so already; it is counted from now on. */
bool machine_may_park(struct machine *m, uint64_t gpa);
/* The guest has unmounted the region and kept its driver: no file is behind it any more, and machine_add_region
 * takes its place for the next one, which the guest finds at once. -ENOENT: no region starts at gpa. Else errno: it is
 * as it was. */
int machine_park_region(struct machine *m, uint64_t gpa);

/* ---- the share: one virtio-fs device, served by another process */
typedef void (*machine_share_fn)(void *userdata, int r);
/* fd: a stream socket connected to a vhost-user back end (virtiofsd); the machine's on success. fn is called
 * once from the loop: 0: a device of that tag is there for the guest to mount; errno of virtio_fs_config.ready.
 * -EEXIST: there is one, or its back end is lost; -EALREADY: one is on its way. */
int machine_add_share(struct machine *m, int fd, const char *tag, machine_share_fn fn,
                      void *userdata);
enum machine_share_state { MACHINE_SHARE_NONE, MACHINE_SHARE_LIVE, MACHINE_SHARE_LOST };
enum machine_share_state machine_share_state(const struct machine *m);
/* The _UID, in the firmware tables, of its device. */
uint32_t machine_share_device(void);

/* "kvm.exit.mmio", "boot.kvm_run_ns", "virtio.net.kicks" … */
typedef void (*machine_counter_fn)(void *ctx, const char *name, uint64_t value);
void machine_counters(struct machine *m, machine_counter_fn add, void *ctx);
/* CLOCK_MONOTONIC of the first KVM_RUN of the boot CPU; 0: not yet. */
uint64_t machine_first_run_ns(const struct machine *m);
