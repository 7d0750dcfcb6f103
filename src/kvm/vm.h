/* SPDX-License-Identifier: Apache-2.0 */
/* One KVM virtual machine: capability checks, in-kernel irqchip, memory slots, eventfds. No vCPU
 * (vcpu.h), no device. Set-up functions run on one thread before vCPUs exist; the slot and eventfd
 * functions on the loop's thread at any time. Source: kernel Documentation/virt/kvm/api.rst. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kvm/gmem.h"

struct kvm_cpuid2;
struct vm;

/* What this host's KVM gave; borrowed from the vm. */
struct vm_caps {
    uint32_t vcpu_mmap_bytes;
    uint32_t max_vcpus;
    uint32_t max_slots;
    bool tsc_deadline;
    bool pvm_host; /* a back end on which stock kernels are known not to run */
};

/* kvm_fd: an open /dev/kvm (borrowed until vm_free). mem: RAM slots are installed at once; borrowed.
 * High tier. -EOPNOTSUPP: something required is missing, named in *err. */
int vm_new(int kvm_fd, struct gmem *mem, struct vm **ret, struct error **err);
void vm_free(struct vm *vm);
DEFINE_CLEANUP(struct vm *, vm_free);

const struct vm_caps *vm_get_caps(const struct vm *vm);
struct gmem *vm_get_gmem(const struct vm *vm);
/* The vm's fd, for KVM_CREATE_VCPU; borrowed. */
int vm_get_fd(const struct vm *vm);
/* KVM_GET_SUPPORTED_CPUID; borrowed. */
const struct kvm_cpuid2 *vm_get_cpuid(const struct vm *vm);
/* Guest-physical addresses are below this (from CPUID 0x80000008). */
uint64_t vm_get_gpa_limit(const struct vm *vm);

/* A KVM_MEM_READONLY slot over len bytes at hva (borrowed, mapped PROT_READ, must outlive it). There
 * is no form without the flag: guest writes exit as MMIO and are dropped. Loop thread.
 * 0; errors of gmem_add_readonly; what KVM says. */
int vm_add_readonly(struct vm *vm, uint64_t gpa, const void *hva, uint64_t len);
/* 0, -ENOENT. The guest must not use the range any more. */
int vm_remove_readonly(struct vm *vm, uint64_t gpa);

/* A write of datamatch, 4 bytes wide, to gpa signals fd (an eventfd, borrowed) without an exit. */
int vm_add_ioeventfd(struct vm *vm, int fd, uint64_t gpa, uint32_t datamatch);
int vm_remove_ioeventfd(struct vm *vm, int fd, uint64_t gpa, uint32_t datamatch);
/* Signalling fd (an eventfd, borrowed) gives an edge on GSI gsi. Several fds may share one GSI. */
int vm_add_irqfd(struct vm *vm, int fd, uint32_t gsi);
int vm_remove_irqfd(struct vm *vm, int fd, uint32_t gsi);
