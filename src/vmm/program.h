/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-vmm put together: loop, machine, pod supervisor and signals, and what the end of the guest
 * means for the process. */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "vmm/machine.h"
#include "vmm/options.h"
#include "vmm/resources.h"

enum exit_code {
    EXIT_CODE_OK = 0, /* also: the guest powered off */
    EXIT_CODE_SETUP = 1,
    EXIT_CODE_USAGE = 2,
    EXIT_CODE_RESET = 10,
    EXIT_CODE_PANIC = 11,
    EXIT_CODE_TRIPLE_FAULT = 12,
    EXIT_CODE_INTERNAL_ERROR = 13,
    EXIT_CODE_NO_HELLO = 14,
    EXIT_CODE_STOPPED = 15,
};
enum exit_code exit_code_of(enum machine_end end);

/* Runs until the process may end; the exit code, or a negative errno with *err from set-up. Takes the
 * control socket out of res. spawn_ns: CLOCK_MONOTONIC at the start of the process. */
int program_run(const struct options *options, struct resources *res, uint64_t spawn_ns,
                struct error **err);
