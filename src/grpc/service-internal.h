/* SPDX-License-Identifier: Apache-2.0 */
/* Which handler serves which path. Filled before or between calls, read by every connection. */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/hashmap.h"
#include "grpc/server.h"

struct grpc_services {
    struct hashmap methods;  /* path → struct grpc_method_entry, owned */
    struct hashmap services; /* name → descriptor, borrowed */
};

struct grpc_method_entry {
    const ProtobufCMethodDescriptor *method; /* borrowed, static */
    grpc_handler_fn fn;                      /* NULL: UNIMPLEMENTED */
    void *ud;                                /* borrowed */
};

void grpc_services_init(struct grpc_services *s);
void grpc_services_done(struct grpc_services *s);
/* As grpc_server_add_service. */
int grpc_services_add(struct grpc_services *s, const ProtobufCServiceDescriptor *svc,
                      const struct grpc_method *methods, void *ud);
/* NULL: no such service or method. */
const struct grpc_method_entry *grpc_services_find(const struct grpc_services *s, const char *path);
