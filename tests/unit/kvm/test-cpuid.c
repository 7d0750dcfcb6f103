/* SPDX-License-Identifier: Apache-2.0 */
/* cpuid: what must be hidden is hidden whatever the host has, what boot depends on is there, and the
 * topology tells of one socket of single-threaded cores. */
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "kvm/cpuid.h"
#include "lib/test.h"

#define BIT(n) (1U << (n))

/* A host that has every bit of every leaf. */
static const struct {
    uint32_t function, index;
} leaves[] = {{0, 0},          {1, 0},          {4, 0},          {4, 3},
              {6, 0},          {7, 0},          {0xA, 0},        {0xB, 0},
              {0xB, 1},        {0xB, 2},        {0x1F, 0},       {0x80000001, 0},
              {0x80000008, 0}, {0x8000000A, 0}, {0x8000001E, 0}, {0x40000000, 0}};

static struct kvm_cpuid2 *build(uint32_t cpu, uint32_t cpus)
{
    const struct cpuid_config cfg = {.cpu = cpu, .cpus = cpus, .tsc_deadline = true};
    _cleanup_(freep) struct kvm_cpuid2 *host =
        calloc(1, sizeof(*host) + ARRAY_SIZE(leaves) * sizeof(host->entries[0]));
    struct kvm_cpuid2 *got;

    assert_non_null(host);
    host->nent = ARRAY_SIZE(leaves);
    for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
        struct kvm_cpuid_entry2 *e = &host->entries[i];

        e->function = leaves[i].function;
        e->index = leaves[i].index;
        e->eax = e->ebx = e->ecx = e->edx = UINT32_MAX;
        if (e->function == 4) /* type 1, level 1 or 3 */
            e->eax = (e->eax & ~0xFFU) | (e->index == 3 ? 3U : 1U) << 5 | 1U;
    }
    got = cpuid_build(host, &cfg);
    assert_non_null(got);
    return got;
}

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *c, uint32_t fn, uint32_t index)
{
    for (uint32_t i = 0; i < c->nent; i++)
        if (c->entries[i].function == fn && c->entries[i].index == index)
            return &c->entries[i];
    fail();
    return NULL;
}

static void hidden_features_are_hidden(void **state)
{
    _cleanup_(freep) struct kvm_cpuid2 *c = build(0, 1);

    assert_int_equal(leaf(c, 1, 0)->ecx & (BIT(5) | BIT(15)), 0);          /* VMX, PDCM */
    assert_int_equal(leaf(c, 0x80000001, 0)->ecx & (BIT(2) | BIT(23)), 0); /* SVM, PMU */
    assert_int_equal(leaf(c, 0x8000000A, 0)->eax, 0);
    assert_int_equal(leaf(c, 0xA, 0)->eax, 0);
    assert_int_equal(leaf(c, 7, 0)->edx & (BIT(22) | BIT(24) | BIT(25)), 0); /* AMX */
    assert_int_equal(leaf(c, 7, 0)->ecx & BIT(5), 0);                        /* WAITPKG */
    assert_int_equal(leaf(c, 6, 0)->eax, BIT(2));
}

static void boot_depends_on_these(void **state)
{
    _cleanup_(freep) struct kvm_cpuid2 *c = build(0, 1);

    assert_true(leaf(c, 1, 0)->ecx & BIT(31)); /* hypervisor */
    assert_true(leaf(c, 1, 0)->ecx & BIT(24)); /* TSC deadline */
    assert_true(leaf(c, 1, 0)->ecx & BIT(21)); /* x2APIC kept */
    assert_true(leaf(c, 1, 0)->edx & BIT(12)); /* MTRR */
    assert_false(leaf(c, 1, 0)->edx & BIT(28));
    assert_int_equal(leaf(c, 0x40000000, 0)->eax, UINT32_MAX); /* untouched */
}

static void topology_is_one_socket_of_cores(void **state)
{
    for (uint32_t cpus = 1; cpus <= 16; cpus++) {
        _cleanup_(freep) struct kvm_cpuid2 *c = build(cpus - 1, cpus);
        uint32_t levels = 0;

        assert_int_equal(leaf(c, 1, 0)->ebx >> 24, cpus - 1);
        assert_int_equal(leaf(c, 1, 0)->ebx >> 16 & 0xFF, cpus);
        assert_int_equal(leaf(c, 0xB, 0)->ebx, 1);
        assert_int_equal(leaf(c, 0xB, 1)->ebx, cpus);
        assert_int_equal(leaf(c, 0xB, 1)->edx, cpus - 1);
        assert_true(1U << leaf(c, 0xB, 1)->eax >= cpus);
        assert_int_equal(leaf(c, 0x1F, 1)->ebx, cpus); /* not listed by the host: added */
        assert_int_equal(leaf(c, 0x80000008, 0)->ecx & 0xFF, cpus - 1);
        assert_int_equal(leaf(c, 0x8000001E, 0)->eax, cpus - 1);
        assert_int_equal(leaf(c, 4, 0)->eax >> 14 & 0xFFF, 0);       /* level 1 is private */
        assert_true((leaf(c, 4, 3)->eax >> 14 & 0xFFF) + 1 >= cpus); /* level 3 shared */
        assert_true((leaf(c, 4, 3)->eax >> 26) + 1 >= cpus);         /* cores */
        for (uint32_t i = 0; i < c->nent; i++)
            levels += c->entries[i].function == 0xB;
        assert_int_equal(levels, 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hidden_features_are_hidden),
        cmocka_unit_test(boot_depends_on_these),
        cmocka_unit_test(topology_is_one_socket_of_cores),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
