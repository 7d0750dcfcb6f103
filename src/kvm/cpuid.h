/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest's CPUs say they are: KVM's supported leaves, narrowed. Pure data in, data out.
 * Sources: Intel SDM vol. 2A CPUID, AMD APM vol. 3 appendix E, kernel Documentation/virt/kvm/x86. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct kvm_cpuid2;

struct cpuid_config {
    uint32_t cpu;      /* index of this vCPU and its APIC id */
    uint32_t cpus;     /* of the VM: 1 … LIMIT_VCPUS, one socket, no hyper-threads */
    bool tsc_deadline; /* KVM_CAP_TSC_DEADLINE_TIMER */
};

/* The leaves for one vCPU, made from supported (KVM_GET_SUPPORTED_CPUID). The result is the
 * caller's, NULL without memory. The PMU, nested virtualisation and AMX are hidden; topology leaves
 * are ours. */
struct kvm_cpuid2 *cpuid_build(const struct kvm_cpuid2 *supported, const struct cpuid_config *cfg);
