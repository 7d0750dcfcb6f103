/* SPDX-License-Identifier: Apache-2.0 */
/* A blocking gRPC client over a unix socket: for the nexus command and for tests. One connection, any
 * number of calls on it; each call is a stream of answers (a unary call's stream has one).
 *
 * Errors carry the server's text; their class comes from the status (grpc_status_to_class). When the
 * connection itself is lost, every call on it fails with ERROR_UNAVAILABLE. Not thread-safe. */
#pragma once

#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/error.h"
#include "grpc/status.h"

struct grpc_client;
struct grpc_client_call;

/* path: of the socket. -ENOENT, -ECONNREFUSED: nobody is there; -EACCES: not for us. */
int grpc_client_connect_unix(const char *path, struct grpc_client **ret, struct error **err);
/* The same over a connected socket; takes the fd, also on error. */
int grpc_client_new(int fd, struct grpc_client **ret, struct error **err);
/* Cancels the calls that are open; their handles stay to be freed. NULL is allowed. */
void grpc_client_free(struct grpc_client *c);
DEFINE_CLEANUP(struct grpc_client *, grpc_client_free);

/* One unary call. method: "/runtime.v1.RuntimeService/Version". timeout_ms: sent as grpc-timeout and
 * kept; negative: none. *ret is the caller's: protobuf_c_message_free_unpacked(*ret, NULL). */
int grpc_client_unary(struct grpc_client *c, const char *method, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *response_type, int64_t timeout_ms,
                      ProtobufCMessage **ret, struct error **err);

/* Starts a call and returns at once; request is packed before that. */
int grpc_client_start(struct grpc_client *c, const char *method, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *response_type, int64_t timeout_ms,
                      struct grpc_client_call **ret, struct error **err);
/* The next message, waiting for it at most wait_ms (negative: as long as the call's time-out allows).
 * 1: *ret is a message of the caller; 0: the stream ended with OK; -EAGAIN: wait_ms passed, *err is
 * not set; else the call failed (and stays failed). Other calls of the connection go on meanwhile. */
int grpc_client_next(struct grpc_client_call *call, int64_t wait_ms, ProtobufCMessage **ret,
                     struct error **err);
/* Cancels the call if it is open. NULL is allowed. */
void grpc_client_call_free(struct grpc_client_call *call);
DEFINE_CLEANUP(struct grpc_client_call *, grpc_client_call_free);

/* The socket, to wait for it together with other fds (POLLIN), then grpc_client_next with wait 0. */
int grpc_client_fd(const struct grpc_client *c);
