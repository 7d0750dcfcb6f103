/* SPDX-License-Identifier: Apache-2.0 */
/* nexus run's command line as CRI messages. Text in, structs out; asks nobody. */
#pragma once

#include "base/arena.h"
#include "base/error.h"
#include "gen/cri/cri.pb-c.h"

struct run_config { /* from the command line; borrowed */
    const char *name, *image, *memory, *cpus, *workdir, *user;
    char *const *env, *const *publish; /* strv or NULL */
    char **command;
    size_t n_command;
    const char *log_root;
};

struct run_plan { /* all in the arena */
    Runtime__V1__PodSandboxConfig *pod;
    Runtime__V1__ContainerConfig *container;
    char *log_directory, *log_name; /* log_name: last part of log_directory */
};

/* -EINVAL with *err: something on the command line is wrong; it is named. */
int run_plan_make(struct arena *a, const struct run_config *c, struct run_plan *ret,
                  struct error **err);

/* "1", "0.5", "2.25" CPUs in thousandths, 1 to 1,024,000. 0 or -EINVAL. */
int parse_cpus(const char *text, uint32_t *ret_thousandths);
/* "8080:80", "127.0.0.1:8080:80/udp", "[::1]:53:53". 0 or -EINVAL. ret's strings are in the arena. */
int parse_port(struct arena *a, const char *text, Runtime__V1__PortMapping *ret);
