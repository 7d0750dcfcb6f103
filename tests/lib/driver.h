/* SPDX-License-Identifier: Apache-2.0 */
/* For programs that drive one of our machines for a test or a benchmark: what fails ends them. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"

static inline void die(const char *what, const struct error *err, int r)
{
    (void)fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, error_text(err, r));
    exit(1);
}

static inline int open_or_die(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);

    if (fd < 0)
        die(path, NULL, -errno);
    return fd;
}
