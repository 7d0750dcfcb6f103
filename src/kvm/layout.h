/* SPDX-License-Identifier: Apache-2.0 */
/* The guest-physical map and the interrupt lines: every fixed address and GSI of the machine, once.
 * RAM is [0, min(ram, 3 GiB)) and the rest from 4 GiB; read-only pmem lies above RAM. */
#pragma once

#include "base/limit.h"

/* low memory, written before the first instruction */
#define LAYOUT_GDT 0x500ULL
#define LAYOUT_IDT 0x520ULL
#define LAYOUT_START_INFO 0x6000ULL
#define LAYOUT_MODLIST 0x6040ULL
#define LAYOUT_MEMMAP 0x7000ULL
#define LAYOUT_CMDLINE 0x20000ULL
#define LAYOUT_CMDLINE_MAX 2048 /* bytes with NUL: the kernel's own limit */
#define LAYOUT_LOW_RAM_END 0x9FC00ULL
#define LAYOUT_ACPI 0xE0000ULL /* RSDP, then every table, then the hot-plug state words */
#define LAYOUT_ACPI_END 0x100000ULL
#define LAYOUT_HIGH_RAM 0x100000ULL /* kernel and everything else from here */

/* the hole below 4 GiB */
#define LAYOUT_RAM_LOW_TOP 0xC0000000ULL
#define LAYOUT_RAM_HIGH_BASE 0x100000000ULL
#define LAYOUT_IOAPIC 0xFEC00000ULL
#define LAYOUT_LAPIC 0xFEE00000ULL
#define LAYOUT_KVM_IDENTITY 0xFFFBC000ULL /* one page of KVM's own, Intel only */
#define LAYOUT_KVM_TSS 0xFFFBD000ULL      /* three pages, the same */

/* virtio-mmio windows: 0 … 15 cold devices, the last of them the share's, then one per hot slot */
#define LAYOUT_MMIO 0xD0000000ULL
#define LAYOUT_MMIO_BYTES 0x1000ULL
#define LAYOUT_MMIO_SHARE 15U /* empty until a share is added */
#define LAYOUT_MMIO_HOT 16U
#define LAYOUT_HOT_SLOTS (LIMIT_REGIONS + LIMIT_PARKED)
#define LAYOUT_MMIO_WINDOWS (LAYOUT_MMIO_HOT + LAYOUT_HOT_SLOTS)
#define LAYOUT_MMIO_WINDOW(n) (LAYOUT_MMIO + LAYOUT_MMIO_BYTES * (n))

/* IOAPIC pins */
#define LAYOUT_GSI_COM1 4U
#define LAYOUT_GSI_COLD 5U /* + number of the cold device */
#define LAYOUT_GSI_GED 10U
#define LAYOUT_GSI_SHARE 11U
#define LAYOUT_GSI_HOT 16U /* 8 lines shared by the hot slots */
#define LAYOUT_GSI_HOT_LINES 8U

/* I/O ports */
#define LAYOUT_PORT_COM1 0x3F8U
#define LAYOUT_PORT_PVPANIC 0x505U
#define LAYOUT_PORT_SLEEP 0x600U /* SLEEP_CONTROL; status at the next one */
#define LAYOUT_PORT_RESET 0x602U
#define LAYOUT_RESET_VALUE 0x01U

/* pmem: the first region starts on a GiB, each one on 2 MiB */
#define LAYOUT_PMEM_START_ALIGN (1ULL << 30)
#define LAYOUT_PMEM_ALIGN (2ULL << 20)
