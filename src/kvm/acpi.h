/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables of the machine: RSDP, XSDT, FADT (hardware-reduced), MADT, DSDT. Data in, bytes
 * out. Devices that may be hot-added are children of one container that is always there; a bit in a
 * state word says whether each is present, and an interrupt of the generic event device makes the
 * guest look again. The state words live in guest RAM behind the tables, so looking costs no exit;
 * a guest that scribbles on them confuses itself.
 * Source: ACPI 6.5 sections 5.2, 5.6.9, 6; docs of the recipe: this module's README. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct acpi_device {
    uint32_t window; /* guest-physical start of its 4 KiB of registers */
    uint32_t gsi;
    int present_bit; /* bit of the state words, or -1: always present */
    bool shared;     /* the GSI serves other devices too */
};

struct acpi_config {
    uint32_t cpus;
    const struct acpi_device *devices; /* virtio-mmio windows; each present_bit at most once */
    size_t n;
    uint32_t ged_gsi;
    bool serial;        /* describe COM1 */
    bool pvpanic;       /* describe the port that takes the news of a panic */
    uint64_t state_gpa; /* 0: the words follow the tables; else where they are (a register) */
};

#define ACPI_STATE_WORDS 2U
#define ACPI_STATE_BITS (32U * ACPI_STATE_WORDS)
#define ACPI_GROUP_BITS 8U /* devices of a container, the unit that the kernel looks through */
#define ACPI_GROUPS (ACPI_STATE_BITS / ACPI_GROUP_BITS)

struct acpi_tables {
    size_t bytes;       /* of out, from the RSDP */
    uint64_t state_gpa; /* ACPI_STATE_WORDS little-endian u32: bit set = device present */
    size_t dsdt_offset; /* in out */
    size_t dsdt_bytes;
};

/* Writes all tables into out (size bytes), which the guest will see at gpa (a multiple of 64 below
 * 4 GiB). 0; -E2BIG: size is too small; -EINVAL: a present_bit out of range, no CPU. */
int acpi_build(const struct acpi_config *cfg, uint8_t *out, size_t size, uint64_t gpa,
               struct acpi_tables *ret);
