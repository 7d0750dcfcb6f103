/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <setjmp.h>

#include "drive.h"

struct drive_case {
    const char *name;
    void (*run)(struct drive *d);
    bool needs_controllers; /* cgroup memory and pids: only where the tree has them */
};

extern jmp_buf case_jump; /* a failed CHECK goes there */

extern const struct drive_case container_cases[], exec_cases[], limit_cases[], termination_cases[],
    forward_cases[], security_cases[];
extern const size_t n_container_cases, n_exec_cases, n_limit_cases, n_termination_cases,
    n_forward_cases, n_security_cases;

/* A copy that messages can point to; lives until the end of the program. */
char *text(const char *s);

/* A container "id" that runs args; opts may change the spec before it is sent. */
void create_container(struct drive *d, const char *id, const char *script,
                      void (*opts)(Nexus__ContainerSpec *spec));
Nexus__Reply *try_create_container(struct drive *d, const char *id, const char *script,
                                   void (*opts)(Nexus__ContainerSpec *spec));
void remove_container(struct drive *d, const char *id);
/* Creates, starts, runs to the end; the outcome is valid until the next call. */
const struct outcome *run_container(struct drive *d, const char *id, const char *script,
                                    void (*opts)(Nexus__ContainerSpec *spec));
