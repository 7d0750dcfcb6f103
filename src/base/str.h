/* SPDX-License-Identifier: Apache-2.0 */
/* Strings and string vectors. Allocation of small, own strings aborts without memory: sizes from
 * outside go through buf.h or try_* with a limit. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* Never NULL; the caller frees. */
char *str_dup(const char *s);
char *str_ndup(const char *s, size_t len);
char *str_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* NULL stays NULL. */
char *str_dup_or_null(const char *s);
/* Zeroed memory of a small, fixed size; aborts without. */
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n, size_t size);

bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
bool str_equal(const char *a, const char *b); /* NULL equals NULL only */
/* True if each byte is printable ASCII or >= 0x80, and s is valid UTF-8. */
bool str_is_clean(const char *s, size_t len);
bool utf8_is_valid(const uint8_t *s, size_t len);

/* NULL-terminated vectors; the vector and its strings are owned by the caller. */
size_t strv_len(char *const *v);
char **strv_dup(char *const *v);
/* Appends a copy of s; *v may be NULL. */
void strv_push(char ***v, const char *s);
bool strv_contains(char *const *v, const char *s);
void strv_free(char **v);
DEFINE_CLEANUP(char **, strv_free);

/* Random lower-case hex digits from the kernel; out has len + 1 bytes. Aborts if there are none. */
void random_hex(char *out, size_t len);
void random_bytes(void *out, size_t len);
/* len bytes as 2*len lower-case digits and NUL. */
void hex_encode(const void *bytes, size_t len, char *out);
