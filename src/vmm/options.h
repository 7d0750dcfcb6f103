/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of nexus-vmm. Parsing only: nothing is opened here (resources.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* A resource: an inherited descriptor, or something to open. */
struct resource {
    int fd;           /* >= 0: "fd:N" was given */
    const char *path; /* else a path, borrowed from argv; NULL: not given */
};

struct options {
    const char *id; /* borrowed from argv */
    uint32_t cpus;
    uint64_t memory_bytes;
    struct resource kvm, kernel, initramfs, scratch, control, console, counters;
    struct resource net; /* path: name of an existing TAP device ("tap:NAME") */
    uint8_t mac[6];
    uint16_t mtu; /* 0: not given */
    const char *cmdline_append;
    bool until_hello;
    uint64_t hello_timeout_ms;
    bool help, version;
};

/* 0; -EINVAL: *err says which option and why. help and version win over what is missing. */
int options_parse(int argc, char *const *argv, struct options *ret, struct error **err);
/* The text of --help. Static storage. */
const char *options_usage(void);
