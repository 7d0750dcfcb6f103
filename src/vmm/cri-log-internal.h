/* SPDX-License-Identifier: Apache-2.0 */
/* For the tests of cri-log.c. */
#pragma once

#include "vmm/cri-log.h"

/* "2026-01-31T12:00:00.000000000Z stdout F " */
#define CRI_RECORD_HEADER_BYTES 40

/* How long a failed write is not tried again, in ns; one second unless set. */
void cri_log_set_retry_ns(struct cri_log *log, uint64_t retry_ns);
