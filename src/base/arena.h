/* SPDX-License-Identifier: Apache-2.0 */
/* One arena per RPC: everything a call decodes or builds lives and goes together, under a byte cap. */
#pragma once

#include <stddef.h>

#include "base/cleanup.h"

struct arena;

/* max: most bytes it hands out. Aborts without memory for the first block. */
struct arena *arena_new(size_t max);
/* Zeroed, 16-byte aligned; NULL when max is reached or memory is out. size 0 is allowed. */
void *arena_alloc(struct arena *a, size_t size);
/* Copies into the arena; NULL as above. */
char *arena_strdup(struct arena *a, const char *s);
void *arena_memdup(struct arena *a, const void *bytes, size_t len);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Bytes handed out so far. */
size_t arena_used(const struct arena *a);
void arena_free(struct arena *a);
DEFINE_CLEANUP(struct arena *, arena_free);
