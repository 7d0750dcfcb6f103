/* SPDX-License-Identifier: Apache-2.0 */
/* One function per leaf that is changed; everything else passes as KVM gave it. */
#include "kvm/cpuid.h"

#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define BIT(n) (1U << (n))

/* bits needed to number n things */
static uint32_t id_bits(uint32_t n)
{
    uint32_t bits = 0;

    while ((1U << bits) < n)
        bits++;
    return bits;
}

static void leaf_1(struct kvm_cpuid_entry2 *e, const struct cpuid_config *cfg)
{
    e->ebx = (e->ebx & 0x0000FF00U) | cfg->cpu << 24 | cfg->cpus << 16;
    if (!(e->ebx & 0xFF00U))
        e->ebx |= 8U << 8; /* CLFLUSH: 64 bytes */
    e->ecx |= BIT(31);     /* HYPERVISOR */
    if (cfg->tsc_deadline)
        e->ecx |= BIT(24);
    else
        e->ecx &= ~BIT(24);
    e->ecx &= ~(BIT(15) | BIT(5)); /* PDCM, VMX */
    e->edx |= BIT(12);             /* MTRR: without it the guest maps pmem uncached */
    if (cfg->cpus > 1)
        e->edx |= BIT(28); /* HTT: the logical count above is valid */
    else
        e->edx &= ~BIT(28);
}

static void leaf_cache(struct kvm_cpuid_entry2 *e, const struct cpuid_config *cfg)
{
    uint32_t level = e->eax >> 5 & 7U;
    uint32_t sharing = level >= 3 ? (1U << id_bits(cfg->cpus)) - 1 : 0;

    if (!(e->eax & 0x1FU)) /* no such cache */
        return;
    e->eax = (e->eax & 0x3FFFU) | sharing << 14;
    if (e->function == 4)
        e->eax |= ((1U << id_bits(cfg->cpus)) - 1) << 26;
}

static void leaf_6(struct kvm_cpuid_entry2 *e)
{
    e->eax &= BIT(2); /* ARAT only */
    e->ecx = 0;
}

static void leaf_7(struct kvm_cpuid_entry2 *e)
{
    if (e->index != 0)
        return;
    e->ebx |= BIT(6) | BIT(13);               /* FPU pointer quirks of current CPUs */
    e->ecx &= ~BIT(5);                        /* WAITPKG */
    e->edx &= ~(BIT(22) | BIT(24) | BIT(25)); /* AMX needs a permission nobody asked for */
}

/* 0xB, 0x1F: level 0 is the thread (one per core), level 1 the core. */
static void leaf_topology(struct kvm_cpuid_entry2 *e, const struct cpuid_config *cfg)
{
    e->eax = e->ebx = 0;
    e->ecx = e->index & 0xFFU;
    if (e->index == 0) {
        e->ebx = 1;
        e->ecx |= 1U << 8; /* SMT */
    } else if (e->index == 1) {
        e->eax = id_bits(cfg->cpus);
        e->ebx = cfg->cpus;
        e->ecx |= 2U << 8; /* core */
    }
    e->edx = cfg->cpu;
}

static void leaf_amd_sizes(struct kvm_cpuid_entry2 *e, const struct cpuid_config *cfg)
{
    if (!e->ecx) /* Intel keeps it reserved */
        return;
    e->ecx = (e->ecx & ~0xF0FFU) | (cfg->cpus - 1) | id_bits(cfg->cpus) << 12;
}

static void leaf_amd_topology(struct kvm_cpuid_entry2 *e, const struct cpuid_config *cfg)
{
    e->eax = cfg->cpu;
    e->ebx = cfg->cpu; /* one thread per core */
    e->ecx = 0;        /* one node */
    e->edx = 0;
}

static void clear(struct kvm_cpuid_entry2 *e)
{
    e->eax = e->ebx = e->ecx = e->edx = 0;
}

static void adjust(struct kvm_cpuid_entry2 *e, const struct cpuid_config *cfg)
{
    switch (e->function) {
    case 0x1:
        leaf_1(e, cfg);
        break;
    case 0x4:
    case 0x8000001D:
        leaf_cache(e, cfg);
        break;
    case 0x6:
        leaf_6(e);
        break;
    case 0x7:
        leaf_7(e);
        break;
    case 0xA:  /* PMU */
    case 0x1D: /* AMX tiles */
    case 0x1E:
    case 0x8000000A:  /* SVM */
    case 0x80000022U: /* AMD's extended PMU */
        clear(e);
        break;
    case 0xB:
    case 0x1F:
        leaf_topology(e, cfg);
        break;
    case 0x80000001:
        e->ecx &= ~(BIT(2) | BIT(23) | BIT(24) | BIT(28)); /* SVM, PMU extensions */
        break;
    case 0x80000008:
        leaf_amd_sizes(e, cfg);
        break;
    case 0x8000001E:
        leaf_amd_topology(e, cfg);
        break;
    default:
        break;
    }
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *c, uint32_t fn, uint32_t index)
{
    for (uint32_t i = 0; i < c->nent; i++)
        if (c->entries[i].function == fn && c->entries[i].index == index)
            return &c->entries[i];
    return NULL;
}

struct kvm_cpuid2 *cpuid_build(const struct kvm_cpuid2 *supported, const struct cpuid_config *cfg)
{
    /* room for the topology leaf's second level, which some hosts do not list */
    size_t size = sizeof(*supported) + (supported->nent + 2U) * sizeof(supported->entries[0]);
    struct kvm_cpuid2 *out = calloc(1, size);

    if (!out)
        return NULL;
    for (uint32_t i = 0; i < supported->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &supported->entries[i];
        bool topology = e->function == 0xB || e->function == 0x1F;

        if (topology && e->index > 1)
            continue;
        out->entries[out->nent] = *e;
        adjust(&out->entries[out->nent++], cfg);
    }
    for (uint32_t fn = 0xB; fn <= 0x1F; fn += 0x1F - 0xB) {
        struct kvm_cpuid_entry2 core = {
            .function = fn, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

        if (!find(out, fn, 0) || find(out, fn, 1))
            continue;
        leaf_topology(&core, cfg);
        out->entries[out->nent++] = core;
    }
    return out;
}
