/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What attack-module.c does for attack-init.c, by ioctl on /dev/nexus-attack. */
#pragma once

#ifdef __KERNEL__
#include <linux/ioctl.h>
#include <linux/types.h>
#else
#include <stdint.h>
#include <sys/ioctl.h>
typedef uint64_t __u64;
typedef int64_t __s64;
typedef uint32_t __u32;
#endif

enum attack_map { ATTACK_DIRECT, ATTACK_WB, ATTACK_WC, ATTACK_UC };
enum attack_store {
    ATTACK_BYTE,
    ATTACK_WORD, /* 8 bytes */
    ATTACK_STOSB,
    ATTACK_MOVSB,
    ATTACK_MOVNTI,
    ATTACK_XCHG,
    ATTACK_CMPXCHG,
    ATTACK_XADD,
    ATTACK_BTS,
    ATTACK_SSE,
    ATTACK_PLAIN_STORES, /* … up to here: KVM decodes them all; from here on it may not */
    ATTACK_CMPXCHG16B = ATTACK_PLAIN_STORES,
    ATTACK_AVX,
    ATTACK_FXSAVE,
};

/* Stores at gpa, gpa + stride … below gpa + bytes, through a mapping of that kind. */
struct attack_stores {
    __u64 gpa, bytes, stride;
    __u32 map, store;
    __u64 done, faults; /* stores that went by, that faulted in the guest */
};

struct attack_register {
    __u64 gpa;
    __u32 value, write;
};

/* RDMSR or WRMSR on this CPU, or with msr 0 the hypercall KVM_HC_CLOCK_PAIRING on value. */
struct attack_msr {
    __u64 value;
    __u32 msr, write;
    __s64 result;
};

/* Contiguous memory of the module's, which mmap() of the device shows. */
#define ATTACK_BUFFER_BYTES (2 << 20)

#define ATTACK_STORES _IOWR('N', 1, struct attack_stores)
#define ATTACK_REGISTER _IOWR('N', 2, struct attack_register)
#define ATTACK_MSR _IOWR('N', 3, struct attack_msr)
#define ATTACK_BUFFER _IOWR('N', 4, __u64)
