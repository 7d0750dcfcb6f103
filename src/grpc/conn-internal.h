/* SPDX-License-Identifier: Apache-2.0 */
/* One server connection, sans-IO: bytes in, bytes out, time as an argument. HTTP/2 is nghttp2's; here
 * are streams as gRPC calls, their limits, deadlines and answers. The socket is in server.c.
 *
 * Order inside feed and tick: nghttp2 works through the input and marks streams; then handlers, cancel
 * handlers and writable handlers run from queues, so none of them runs inside an nghttp2 callback. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nghttp2/nghttp2.h>

#include "base/arena.h"
#include "base/list.h"
#include "grpc/frame-internal.h"
#include "grpc/request-internal.h"
#include "grpc/server.h"
#include "grpc/service-internal.h"

#define GRPC_HANDSHAKE_NS 10000000000ULL   /* from connect to the client's SETTINGS */
#define GRPC_INBOUND_BYTES (48U << 20)     /* of unfinished requests, per connection */
#define GRPC_STREAM_QUEUE_BYTES (1U << 20) /* of a server stream before -EAGAIN */
#define GRPC_WINDOW_STREAM_BYTES (1 << 20)
#define GRPC_WINDOW_CONNECTION_BYTES (4 << 20)

struct grpc_conn;

/* Who drives the connection. */
struct grpc_conn_host {
    /* there is output that no feed or tick announced; called outside of both */
    void (*wake)(struct grpc_conn *c, void *ud);
    void (*observe)(const struct grpc_call_info *info, void *ud); /* may be NULL */
    void *ud;
};

enum stream_state {
    STREAM_HEADERS,  /* begun; → BODY, or ANSWERED when refused */
    STREAM_BODY,     /* headers are good; → READY at END_STREAM, or ANSWERED */
    STREAM_READY,    /* request whole, in conn.ready; → RUNNING, ANSWERED */
    STREAM_RUNNING,  /* the handler has the call; → ANSWERED */
    STREAM_ANSWERED, /* status is known, bytes may still be queued; freed when nghttp2 closes it */
};

struct grpc_stream {
    struct list in_conn;    /* conn.streams */
    struct list in_queue;   /* conn.ready */
    struct list in_blocked; /* conn.blocked: wants to be told of room */
    struct grpc_conn *conn;
    int32_t id;
    enum stream_state state;
    struct arena *arena; /* owned until the call has it */
    struct grpc_request request;
    const struct grpc_method_entry *method;
    struct grpc_reader in;
    uint64_t start_ns, deadline_ns;
    struct grpc_call *call; /* while RUNNING */
    struct list chunks;     /* answer bytes not yet taken by nghttp2 */
    size_t queued_bytes;
    bool headers_sent, type_refused, compressed_refused, observed;
    enum grpc_status status; /* with ANSWERED */
    char *text;              /* owned, encoded; NULL: none */
};

/* Lives in its own arena. */
struct grpc_call {
    struct grpc_stream *stream; /* NULL: gone */
    struct arena *arena;        /* owned; this struct is inside */
    const char *path, *traceparent, *peer;
    uint64_t deadline_ns;
    void (*on_cancel)(struct grpc_call *, void *);
    void *cancel_ud;
    void (*on_writable)(struct grpc_call *, void *);
    void *writable_ud;
    struct list in_gone; /* conn.gone: cancel handler to be run */
};

struct grpc_conn {
    nghttp2_session *session; /* owned */
    const struct grpc_services *services;
    struct grpc_conn_host host;
    struct list streams, ready, blocked, gone;
    unsigned stream_count;
    size_t inbound_bytes, outbound_bytes;
    uint64_t now_ns;
    uint64_t handshake_ns; /* deadline; UINT64_MAX once it is done */
    uint64_t next_ns;      /* no deadline is earlier; it may itself be stale */
    bool busy;             /* inside feed or tick: no wake */
    bool draining, goaway_sent;
    bool client_left; /* it sent GOAWAY */
    uint64_t calls_started;
    char peer[48];
};

/* services is borrowed and must outlive it; peer is cut to 47 bytes. 0 or -ENOMEM. */
int grpc_conn_new(const struct grpc_services *services, const struct grpc_conn_host *host,
                  const char *peer, uint64_t now_ns, struct grpc_conn **ret);
/* Cancels what is open: cancel handlers run, calls without one stay their handler's. */
void grpc_conn_free(struct grpc_conn *c);
DEFINE_CLEANUP(struct grpc_conn *, grpc_conn_free);

/* Takes all bytes. 0, or a negative errno when the connection is over: send the output, then close. */
int grpc_conn_feed(struct grpc_conn *c, const uint8_t *bytes, size_t len, uint64_t now_ns);
/* The next bytes for the client, *p valid until the next call of any function; 0: none now; negative
 * as feed. */
ssize_t grpc_conn_output(struct grpc_conn *c, const uint8_t **p);
/* True when nothing is to be read or written any more. */
bool grpc_conn_is_over(const struct grpc_conn *c);
/* When tick is due next; UINT64_MAX: never. Now and then too early: tick finds the next. */
uint64_t grpc_conn_next_deadline(const struct grpc_conn *c);
/* Passes deadlines up to now. 0, or -ETIMEDOUT: the client never shook hands, close. */
int grpc_conn_tick(struct grpc_conn *c, uint64_t now_ns);
/* Tells the client to go elsewhere; it is over once its calls are. */
void grpc_conn_shutdown(struct grpc_conn *c);

/* Between conn.c (HTTP/2) and call.c (answers). */

void grpc_stream_free(struct grpc_stream *st);
/* Queues an answer without message. text may be NULL. */
void grpc_stream_fail(struct grpc_stream *st, enum grpc_status status, const char *text);
/* Tells the host's observer and the debug log, once per stream. */
void grpc_stream_observe(struct grpc_stream *st, enum grpc_status status, const char *text);
/* Decodes the request and runs the handler. */
void grpc_stream_dispatch(struct grpc_stream *st);
/* Takes the call away from its stream: the client is gone. Its cancel handler is queued. */
void grpc_stream_detach_call(struct grpc_stream *st);
/* Runs what conn.gone and conn.blocked hold. */
void grpc_conn_run_cancels(struct grpc_conn *c);
void grpc_conn_run_writables(struct grpc_conn *c);
/* The nghttp2 data source of an answer. */
ssize_t grpc_stream_read(nghttp2_session *session, int32_t id, uint8_t *out, size_t len,
                         uint32_t *flags, nghttp2_data_source *source, void *user_data);
