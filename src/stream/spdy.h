/* SPDX-License-Identifier: Apache-2.0 */
/* The server's end of one SPDY/3.1 connection: bytes in, events out; calls in, bytes out. Sans-IO: no
 * socket, no clock. Made for one kind of peer, the Go library that kubelet and crictl link: it has no flow
 * control, so windows are checked and never waited for, and back-pressure is TCP's. Order of work:
 *
 *   spdy_feed → spdy_next until 0 → spdy_out, spdy_out_done
 *
 * Limits: control frames of 16 KiB, header blocks as in spdy-header.h, streams by the owner, 256 KiB of output
 * waiting (then nothing more is taken in: a peer that does not read is not answered).
 * Source: SPDY protocol draft 3.1. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "stream/spdy-header.h"

#define SPDY_DATA_BYTES (32U << 10)    /* of one spdy_write, at most */
#define SPDY_OUT_PAUSE (256U << 10)    /* bytes that wait to be written */
#define SPDY_CONTROL_BYTES (16U << 10) /* of one control frame's payload */
#define SPDY_FEED_BYTES (64U << 10)    /* of one spdy_feed, at most */

enum spdy_status { /* of RST_STREAM */
                   SPDY_PROTOCOL_ERROR = 1,
                   SPDY_INVALID_STREAM = 2,
                   SPDY_REFUSED_STREAM = 3,
                   SPDY_CANCEL = 5,
                   SPDY_INTERNAL_ERROR = 6,
                   SPDY_FLOW_CONTROL_ERROR = 7,
                   SPDY_STREAM_ALREADY_CLOSED = 9,
};
enum spdy_goaway {
    SPDY_GOAWAY_OK = 0,
    SPDY_GOAWAY_PROTOCOL_ERROR = 1,
    SPDY_GOAWAY_INTERNAL_ERROR = 2,
};

enum spdy_event_type {
    SPDY_EVENT_OPEN,  /* answer with spdy_accept or spdy_reset before the next event */
    SPDY_EVENT_DATA,  /* a piece of a frame; fin: the peer's side of the stream is over */
    SPDY_EVENT_RESET, /* by the peer, or because of it: the stream is no more */
    SPDY_EVENT_GOAWAY,
};
struct spdy_event {
    enum spdy_event_type type;
    uint32_t stream;
    bool fin;                     /* OPEN, DATA */
    struct spdy_headers *headers; /* OPEN; borrowed until the next event */
    const uint8_t *data;          /* DATA; len bytes, borrowed until the next feed or event */
    size_t len;
};

struct spdy;

/* max_streams: alive at the same time; more are refused. 0 or -ENOMEM. */
int spdy_new(size_t max_streams, struct spdy **ret);
void spdy_free(struct spdy *s);
DEFINE_CLEANUP(struct spdy *, spdy_free);

/* True while spdy_next would take more: feed it. */
bool spdy_wants_input(const struct spdy *s);
/* 0; -EMSGSIZE: too much at once (take events first); -ENOMEM. */
int spdy_feed(struct spdy *s, const void *bytes, size_t len);
/* 1: *ret; 0: more bytes or room for output are needed; -EPROTO, -ENOMEM: the connection is over, a GOAWAY
 * is among what spdy_out has. */
int spdy_next(struct spdy *s, struct spdy_event *ret);
/* Input waits that spdy_next has not looked at, for want of room for output. */
bool spdy_is_paused(const struct spdy *s);

/* SYN_REPLY. */
void spdy_accept(struct spdy *s, uint32_t stream);
/* RST_STREAM; the stream is no more. Unknown streams are none of our business. */
void spdy_reset(struct spdy *s, uint32_t stream, enum spdy_status status);
/* At most SPDY_DATA_BYTES; fin: our side is over. 0; -EAGAIN: too much waits already, nothing was taken;
 * -ENOENT: no such stream (the peer may have reset it); -EPIPE: our side is over; -ENOMEM. An end without
 * bytes finds room always. */
int spdy_write(struct spdy *s, uint32_t stream, const void *bytes, size_t len, bool fin);
void spdy_goaway(struct spdy *s, enum spdy_goaway status);
bool spdy_has_stream(const struct spdy *s, uint32_t stream);
size_t spdy_stream_count(const struct spdy *s);

/* Bytes to send, borrowed until the next call that is not spdy_out_done; 0: none. */
size_t spdy_out(const struct spdy *s, const uint8_t **ret);
void spdy_out_done(struct spdy *s, size_t n);
