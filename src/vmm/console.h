/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest's kernel says, on its serial line and on hvc0: the last LIMIT_CONSOLE_TAIL_BYTES are kept, and all
 * of it goes to a file descriptor if there is one and it keeps up; what it misses is counted. Bytes are
 * the guest's and hostile; nobody interprets them but console_panic(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct console;
struct loop;

/* out_fd: borrowed; negative: none. 0 or errno. Thread: the loop's. */
int console_new(struct loop *loop, int out_fd, struct console **ret);
/* Writes out what is pending as far as it goes without blocking. */
void console_free(struct console *c);
DEFINE_CLEANUP(struct console *, console_free);

/* Bytes from the guest. Any thread, never blocks. */
void console_write(struct console *c, const uint8_t *bytes, size_t n);
/* One of them; a serial_sink_fn with the console as userdata. */
void console_put(uint8_t byte, void *console);

/* Copies the newest bytes, at most size, oldest first; how many. Any thread. */
size_t console_tail(struct console *c, char *out, size_t size);
/* True if a kernel panic is in the tail: the text after "Kernel panic - not syncing: ", cut at the end
 * of its line, printable, terminated. Any thread. */
bool console_panic(struct console *c, char *out, size_t size);
uint64_t console_dropped(struct console *c);

/* The sans-IO part of console_panic: tail is n bytes of anything. */
bool console_find_panic(const char *tail, size_t n, char *out, size_t size);
