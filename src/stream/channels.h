/* SPDX-License-Identifier: Apache-2.0 */
/* A remote command's channels (stdin, stdout, stderr, error, resize) on one connection, whatever carries them:
 * SPDY/3.1 (versions 1 to 4 of channel.k8s.io) or WebSocket (1, 4, 5; binary and base64). Sans-IO.
 * Order of the end: channels_end for stdout and stderr, the status as CHANNEL_ERROR, channels_finish. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "stream/upgrade.h"

#define CHANNELS_WRITE_BYTES 8192 /* of one channels_write, at most */

enum channel { /* numbers as on a WebSocket */
               CHANNEL_STDIN = 0,
               CHANNEL_STDOUT = 1,
               CHANNEL_STDERR = 2,
               CHANNEL_ERROR = 3,
               CHANNEL_RESIZE = 4,
};
#define CHANNEL_COUNT 5

struct channels_config {
    struct upgrade upgrade;
    bool in, out, err, tty; /* tty excludes err */
};

enum channels_event_type {
    CHANNELS_READY, /* all channels are there; comes once, before any other */
    CHANNELS_DATA,  /* on CHANNEL_STDIN or CHANNEL_RESIZE */
    CHANNELS_EOF,   /* of CHANNEL_STDIN: nothing more will come */
    CHANNELS_LEFT,  /* the client said so */
};
struct channels_event {
    enum channels_event_type type;
    enum channel channel;
    const uint8_t *data; /* len bytes, borrowed until the next call on it */
    size_t len;
};

struct channels;

/* 0 or -ENOMEM. */
int channels_new(const struct channels_config *config, struct channels **ret);
void channels_free(struct channels *c);
DEFINE_CLEANUP(struct channels *, channels_free);

bool channels_want_input(const struct channels *c);
/* At most 64 KiB. 0; -EMSGSIZE: take events first; -ENOMEM. */
int channels_feed(struct channels *c, const void *bytes, size_t len);
/* 1: *ret; 0: more bytes or room for output are needed; -EPROTO, -ENOMEM: the connection is over, what is to
 * be sent says so. */
int channels_next(struct channels *c, struct channels_event *ret);
/* channels_next has input that waits for room. */
bool channels_are_paused(const struct channels *c);

/* At most CHANNELS_WRITE_BYTES. 0 (also if the client has closed that channel); -EAGAIN: no room, nothing was
 * taken; -ENOMEM. */
int channels_write(struct channels *c, enum channel channel, const void *bytes, size_t len);
/* Nothing more will be written on it. */
void channels_end(struct channels *c, enum channel channel);
/* The last: after what waits, the connection is to be closed. */
void channels_finish(struct channels *c);

size_t channels_out(const struct channels *c, const uint8_t **ret);
void channels_out_done(struct channels *c, size_t n);
