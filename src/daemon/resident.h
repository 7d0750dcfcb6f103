/* SPDX-License-Identifier: Apache-2.0 */
/* What nexusd keeps resident. */
#pragma once

/* Unmaps the pages of code and constants that start-up touched (of this program and its libraries; most
 * are not needed again: relocation, constructors, the configuration's parser). They stay in the page
 * cache, and what is needed comes back by a minor fault. Only segments that were never writable are
 * touched, so nothing can be lost. Source: madvise(2), MADV_DONTNEED on private file mappings. */
void resident_forget_startup(void);
