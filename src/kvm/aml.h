/* SPDX-License-Identifier: Apache-2.0 */
/* A writer of ACPI machine language: appends terms to a byte buffer and computes the nested package
 * lengths. An overflow of the buffer is remembered and told by aml_finish(); nothing is written past
 * it. Source: ACPI 6.5 section 20. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    uint8_t *out;
    size_t size, used; /* bytes */
    bool overflow;
};

void aml_init(struct aml *a, uint8_t *out, size_t size);
/* 0, or -E2BIG: the terms did not fit. */
int aml_finish(const struct aml *a, size_t *ret_used);

/* Terms that enclose others: begin returns a mark for the matching aml_end. Names are at most four
 * characters, padded with '_'; a leading '\' or a path of dots is not understood here. */
size_t aml_begin_scope(struct aml *a, const char *name);
size_t aml_begin_device(struct aml *a, const char *name);
size_t aml_begin_method(struct aml *a, const char *name, unsigned args, bool serialized);
size_t aml_begin_buffer_name(struct aml *a, const char *name); /* Name (name, Buffer () {…}) */
void aml_end(struct aml *a, size_t mark);
void aml_end_buffer(struct aml *a, size_t mark);

void aml_name_string(struct aml *a, const char *name, const char *value);
void aml_name_int(struct aml *a, const char *name, uint32_t value);
/* Name (name, Package () {v0, …}) of bytes. */
void aml_name_bytes(struct aml *a, const char *name, const uint8_t *values, uint8_t n);
/* OperationRegion (name, SystemMemory, gpa, len) */
void aml_region(struct aml *a, const char *name, uint32_t gpa, uint8_t len);
/* Field (region, DWordAcc, NoLock, Preserve) { f0, 32, f1, 32 } */
void aml_field_dwords(struct aml *a, const char *region, const char *const *fields, size_t n);
/* The same with ByteAcc and fields of 8 bits. */
void aml_field_bytes(struct aml *a, const char *region, const char *const *fields, size_t n);
/* If (LNotEqual (x, y)) {…} of two names; ends with aml_end. */
size_t aml_begin_if_not_equal(struct aml *a, const char *x, const char *y);
/* Store (from, to) of two names */
void aml_store(struct aml *a, const char *from, const char *to);
/* If (And (name, mask)) { Return (value) } Return (Zero) */
void aml_return_if_bits(struct aml *a, const char *name, uint32_t mask, uint8_t value);
/* Notify (name, Zero) */
void aml_notify(struct aml *a, const char *name);

/* Resource descriptors, inside a buffer. */
void aml_memory32(struct aml *a, uint32_t base, uint32_t len);
void aml_io(struct aml *a, uint16_t base, uint8_t len);
void aml_irq_nibble(struct aml *a, uint8_t irq); /* IRQNoFlags () {irq}: edge, active high */
void aml_interrupt(struct aml *a, uint32_t gsi, bool shared); /* edge, active high, consumer */
