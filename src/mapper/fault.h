/* SPDX-License-Identifier: Apache-2.0 */
/* SIGBUS: this process read a mapped page whose file was truncated. Inside a watched range the page
 * becomes a zero page and the read goes on; elsewhere the signal does what it always does.
 * Threads: any. */
#pragma once

#include <stdint.h>

/* Installs the handler; once per process. 0 or errno. */
int fault_init(void);
/* Ranges whose pages may be replaced. start page-aligned. 0, or -ENOSPC. */
int fault_watch(const void *start, uint64_t bytes);
void fault_unwatch(const void *start);
/* Pages replaced so far: in all, and in the range watched from start on. */
uint64_t fault_count(void);
uint64_t fault_count_in(const void *start);
