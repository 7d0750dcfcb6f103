/* SPDX-License-Identifier: Apache-2.0 */
/* A gRPC server on sd-event: unary and server-streaming calls over unix sockets.
 *
 * Handlers run from the loop, one at a time, never inside one another, and never block: a call that
 * has to wait is kept and answered later. Everything of a call (decoded request, what the handler
 * puts beside it) lives in the call's arena and goes with the call.
 *
 * Threads: that of the sd_event. Limits: base/limit.h. Source: gRPC over HTTP/2; RFC 9113. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <protobuf-c/protobuf-c.h>
#include <systemd/sd-event.h>

#include "base/arena.h"
#include "base/error.h"
#include "grpc/status.h"

struct grpc_server;
struct grpc_call;

/* ---- Server */

/* Takes a reference on the loop. 0 or -ENOMEM. */
int grpc_server_new(sd_event *event, struct grpc_server **ret);
/* Cancels what is open (cancel handlers run), closes every socket, removes paths it bound. Not to be
 * called from a handler. NULL is allowed. */
void grpc_server_free(struct grpc_server *s);
DEFINE_CLEANUP(struct grpc_server *, grpc_server_free);

/* Binds and listens on path with that mode. A stale socket (nobody answers) is replaced; a live one is
 * -EADDRINUSE; anything that is no socket is left alone, -EEXIST. The directory must exist. */
int grpc_server_listen_unix(struct grpc_server *s, const char *path, mode_t mode,
                            struct error **err);
/* Serves on a listening socket made elsewhere (socket activation, tests); takes the fd, also on error. */
int grpc_server_adopt(struct grpc_server *s, int listen_fd);
/* Serves one connected socket; takes the fd, also on error. */
int grpc_server_adopt_connection(struct grpc_server *s, int fd);

/* Graceful stop: no new connections; clients are told (GOAWAY) and reconnect elsewhere without a
 * failed call; open calls go on. on_stopped (may be NULL) runs once, from the loop, when the last
 * connection is gone; a client that keeps a call open delays it for ever: free the server when
 * patience ends. */
void grpc_server_stop(struct grpc_server *s, void (*on_stopped)(void *ud), void *ud);

/* ---- Services */

/* request: decoded, in the call's arena, never NULL; each of its strings is valid UTF-8. The handler
 * answers now or later with exactly one of grpc_call_reply, _fail, _fail_error, _finish. */
typedef void (*grpc_handler_fn)(struct grpc_call *call, const ProtobufCMessage *request, void *ud);
typedef grpc_handler_fn grpc_unary_fn;

struct grpc_method {
    const char *name;   /* as in the .proto; NULL ends the table */
    grpc_handler_fn fn; /* NULL: UNIMPLEMENTED, as for methods not listed */
};

/* svc and methods are static storage. -EEXIST: the service is there; -EINVAL: a name in methods is no
 * method of svc (nothing was added). */
int grpc_server_add_service(struct grpc_server *s, const ProtobufCServiceDescriptor *svc,
                            const struct grpc_method *methods, void *ud);

/* Told about each call that ends, refused ones included: for metrics and the one log line of an
 * error. Strings are borrowed for the callback. */
struct grpc_call_info {
    const char *path; /* "/runtime.v1.RuntimeService/Version", as the client sent it, escaped */
    enum grpc_status status; /* GRPC_CANCELLED: the client went away */
    const char *text;        /* grpc-message; "" with GRPC_OK */
    uint64_t duration_ns;    /* from the request's headers to the answer's queueing */
    const char *peer;
    const char *traceparent; /* "" if there is none */
};
void grpc_server_set_observer(struct grpc_server *s,
                              void (*fn)(const struct grpc_call_info *info, void *ud), void *ud);

/* Numbers for metrics and tests. */
struct grpc_server_stats {
    unsigned connections;          /* open now */
    unsigned calls;                /* open now */
    uint64_t connections_accepted; /* since the start */
    uint64_t connections_failed;   /* ended by a protocol error or a limit */
    uint64_t calls_started;
    uint64_t accept_pauses; /* no fds or no slot */
};
void grpc_server_get_stats(const struct grpc_server *s, struct grpc_server_stats *ret);

/* ---- Calls
 * A call is valid until it is answered or, if it has a cancel handler, until that has run. Without a
 * cancel handler it stays valid when the client goes; its answer is then dropped. */

/* Answers with one message and OK. It is packed before this returns: response may live anywhere. A
 * message above 16 MiB, or one that finds the connection's outbound queue full, becomes
 * RESOURCE_EXHAUSTED. */
void grpc_call_reply(struct grpc_call *call, const ProtobufCMessage *response);
/* Answers with an error. text may hold anything (see grpc_message_encode) or be NULL; st GRPC_OK is
 * sent as GRPC_INTERNAL. */
void grpc_call_fail(struct grpc_call *call, enum grpc_status st, const char *text);
/* The same from an error of ours: the class decides the status (grpc/status.h). err stays the
 * caller's and may be NULL: then r, a negative errno, says it all. */
void grpc_call_fail_error(struct grpc_call *call, int r, const struct error *err);

/* Server streaming: any number of sends, then grpc_call_finish (OK) or a fail. 0; -EAGAIN: the client
 * reads too slowly, nothing was queued, on_writable will tell; -EMSGSIZE: above 16 MiB; -ECANCELED:
 * the client is gone, answer the call to let go of it. */
int grpc_call_send(struct grpc_call *call, const ProtobufCMessage *response);
/* fn runs once from the loop when a send may succeed again after -EAGAIN. */
void grpc_call_on_writable(struct grpc_call *call, void (*fn)(struct grpc_call *, void *),
                           void *ud);
void grpc_call_finish(struct grpc_call *call);

/* fn runs at most once, from the loop: the client is gone, reset the call, or its deadline passed (then
 * DEADLINE_EXCEEDED was already answered). After it the call must not be used; do not answer it from
 * fn. Setting it again replaces it. */
void grpc_call_on_cancel(struct grpc_call *call, void (*fn)(struct grpc_call *, void *), void *ud);
/* True when the client is gone or the deadline passed, and no cancel handler was set. */
bool grpc_call_is_gone(const struct grpc_call *call);

/* The call's arena (request's message is in it; LIMIT_GRPC_ARENA_BYTES in all). */
struct arena *grpc_call_arena(struct grpc_call *call);
/* CLOCK_MONOTONIC; UINT64_MAX: none. */
uint64_t grpc_call_deadline_ns(const struct grpc_call *call);
/* "pid 4711 uid 0" of the connecting process. */
const char *grpc_call_peer(const struct grpc_call *call);
/* W3C trace context, checked and printable, "" if the client sent none. */
const char *grpc_call_traceparent(const struct grpc_call *call);
/* "/runtime.v1.RuntimeService/Version" */
const char *grpc_call_path(const struct grpc_call *call);
