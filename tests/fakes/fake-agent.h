/* SPDX-License-Identifier: Apache-2.0 */
/* A nexus-agent that runs no Linux: it speaks the agent's side of both ports over a transport and does
 * what a script tells it to do wrong (fake-script.h). Containers and execs are fake-program.h. */
#pragma once

#include "fakes/fake-script.h"
#include "gen/msg/nexus.pb-c.h"
#include "vmm/transport.h"

struct loop;
struct fake_agent;

/* The guest ends (power-off, panic …); called once, from the loop. */
typedef void (*fake_vm_end_fn)(void *ud, Nexus__VmmState__End end, const char *detail);

/* guest: the guest's side of a transport. script: copied. Boots on the next turn of the loop. */
struct fake_agent *fake_agent_new(struct loop *loop, const struct transport *guest,
                                  const struct fake_script *script, fake_vm_end_fn on_end,
                                  void *ud);
void fake_agent_free(struct fake_agent *a);
/* Processes that exist, containers' and execs'. */
size_t fake_agent_processes(const struct fake_agent *a);
size_t fake_agent_containers(const struct fake_agent *a);
