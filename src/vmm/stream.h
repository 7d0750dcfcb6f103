/* SPDX-License-Identifier: Apache-2.0 */
/* One exec or forwarded port: a client's unix connection ⇄ a stream connection of the guest. Each frame is checked, queues
 * hold LIMIT_TLV_QUEUE_FRAMES frames per direction, a full queue stops the reading of its source, so a
 * slow client stops the process and a slow process stops the client. A client that goes away closes
 * the guest's end, which kills the exec. EXIT or ERROR is the last frame; what is queued is delivered
 * before the connection closes. */
#pragma once

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"
#include "vmm/transport.h"
#include "wire/tlv.h"

struct loop;
struct stream;

struct stream_ops {
    /* It is over and may be freed (not from within this call's caller: use stream_free here). */
    void (*on_gone)(void *ud, struct stream *s);
    /* The guest broke a rule; the stream has ended for its client with an error. on_gone follows. */
    void (*on_violation)(void *ud, struct stream *s, const char *what);
    /* The guest's end went away without a last frame (r), or did not start in time (-ETIMEDOUT). The client
     * still waits: the owner calls stream_fail, here or when it knows the reason. */
    void (*on_lost)(void *ud, struct stream *s, int r);
};

/* open: with exec or forward. Takes over fd (a non-blocking unix stream socket) and reader (with what was read already; *reader is
 * left empty), whatever the result. A failure is told to the client as an ERROR frame. 0 or errno. */
int stream_new(struct loop *loop, const struct transport *transport, int fd,
               struct tlv_reader *reader, const Nexus__StreamOpen *open, uint32_t start_ms,
               const struct stream_ops *ops, void *ud, struct stream **ret);
/* Ends it with an ERROR frame {r, err} and exit code 255; the guest's end is closed. on_gone follows,
 * perhaps from within. */
void stream_fail(struct stream *s, int r, const struct error *err);
void stream_free(struct stream *s);
const char *stream_container_id(const struct stream *s);

/* Answers a client with an ERROR frame, best effort, and closes fd. */
void stream_refuse(int fd, int r, const struct error *err);
