/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of text in columns, and how a person reads sizes, times and ids. Cells are cleaned for a terminal. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct table;

/* headings: NULL-terminated, static. */
struct table *table_new(const char *const *headings);
/* Appends one cell to the current row; NULL counts as "". Copied. A row ends when it is full. */
void table_add(struct table *t, const char *text);
/* Prints headings and rows to stdout; the last column is not padded. */
void table_print(const struct table *t);
void table_free(struct table *t);
DEFINE_CLEANUP(struct table *, table_free);

#define HUMAN_SIZE 32
/* "17 B", "4.2 MB": powers of 1000, as registries count. Returns out. */
const char *human_bytes(uint64_t bytes, char out[HUMAN_SIZE]);
/* "12 seconds ago", "3 hours ago"; "-" for 0. then_ns: real time. */
const char *human_ago(int64_t then_ns, uint64_t now_ns, char out[HUMAN_SIZE]);
/* The first 12 characters of an id, without "sha256:". */
const char *human_id(const char *id, char out[HUMAN_SIZE]);
