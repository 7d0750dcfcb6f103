/* SPDX-License-Identifier: Apache-2.0 */
/* SIGBUS: this process read a mapped page whose file was truncated, or failed to be read. Inside a watched range the page
 * becomes a zero page and the read goes on; elsewhere the signal does what it always does.
 * Threads: any. */
#pragma once

#include <stdint.h>

/* Installs the handler; once per process. 0 or errno. */
int fault_init(void);
/* An eventfd, borrowed, that is written to when a page was replaced: the handler itself can tell nobody.
 * Negative: none, as it is before. */
void fault_notify(int fd);
/* Ranges whose pages may be replaced. start page-aligned. 0, or -ENOSPC. */
int fault_watch(const void *start, uint64_t bytes);
void fault_unwatch(const void *start);
/* Pages replaced so far: in all, and in the range watched from start on. */
uint64_t fault_count(void);
uint64_t fault_count_in(const void *start);
/* fault_count_in, and where the last of them is: bytes from start. */
uint64_t fault_last_in(const void *start, uint64_t *ret_offset);
