/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel uevents: what device came or went. The parser is sans-IO (uevent.c); uevent-monitor.c has
 * the socket. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct uevent {
    const char *action;    /* "add", "bind", …; never NULL */
    const char *subsystem; /* "block"; "" if not told */
    const char *devpath;   /* "/devices/…"; "" if not told */
};

/* Takes apart one datagram: "add@/devices/…" NUL "KEY=value" NUL …; strings are borrowed from it.
 * bytes[len - 1] must be NUL. False: no uevent of the kernel. */
bool uevent_parse(const char *bytes, size_t len, struct uevent *ret);
