/* SPDX-License-Identifier: Apache-2.0 */
/* The clocks. Deadlines use the monotonic one; only times shown to people or kubelet are real. */
#pragma once

#include <stdint.h>

/* CLOCK_MONOTONIC, nanoseconds. */
uint64_t clock_mono_ns(void);
/* CLOCK_BOOTTIME, nanoseconds: in a guest, since its kernel began to keep time. */
uint64_t clock_boot_ns(void);
/* CLOCK_REALTIME, nanoseconds since the epoch; 0 if the clock stands before it. */
uint64_t clock_real_ns(void);

/* "2026-01-31T12:00:00.000000000Z" (30 bytes and NUL): fixed width, so that records sort as text. */
#define CLOCK_RFC3339_SIZE 31
void clock_format_rfc3339(uint64_t real_ns, char out[CLOCK_RFC3339_SIZE]);
