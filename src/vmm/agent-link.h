/* SPDX-License-Identifier: Apache-2.0 */
/* The control connection to the guest agent: requests out, replies and events in, over TLV frames.
 * Hostile input: a frame is at most 16 KiB, only an answer to an open request is accepted, unasked
 * messages have a rate; whatever breaks a rule ends the link with on_violation. Every request ends in
 * its callback exactly once: answered, timed out, or lost with the link. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"
#include "vmm/transport.h"

struct loop;
struct agent_link;

#define AGENT_PROTOCOL_VERSION 1

/* None of them may free the link. Texts and messages are borrowed, the guest's strings are not clean. */
struct agent_link_ops {
    void (*on_hello)(void *ud, const Nexus__AgentHello *hello);
    void (*on_oom)(void *ud, const char *container_id);
    void (*on_log)(void *ud, uint32_t level, const char *text);
    /* The link is over (all requests have ended before): a rule was broken, or pings were missed. */
    void (*on_violation)(void *ud, const char *what);
    /* The link is over: the connection went away by itself, after hello. */
    void (*on_closed)(void *ud, int reason);
};

/* The end of a request. r: 0 or a negative errno with err (borrowed): the agent's own words, or
 * -ETIMEDOUT, -ECONNRESET of the link. */
typedef void (*agent_reply_fn)(void *ud, int r, const struct error *err);

/* ops, transport: borrowed. ping_ms: interval; LIMIT_AGENT_PING_MISSES unanswered in a row lose the link. */
int agent_link_new(struct loop *loop, const struct transport *transport,
                   const struct agent_link_ops *ops, void *ud, struct agent_link **ret);
/* Requests end with -ECONNRESET first. NULL is allowed. */
void agent_link_free(struct agent_link *link);
void agent_link_set_ping_ms(struct agent_link *link, uint32_t ping_ms);

/* A connection to the control port: taken (true) until one has said hello; a newer one replaces one that
 * has not. */
bool agent_link_accept(struct agent_link *link, struct transport_conn *c);
/* Closes the connection; requests end with -ECONNRESET; no further callback. */
void agent_link_close(struct agent_link *link);
/* True between hello and the end. */
bool agent_link_is_ready(const struct agent_link *link);

/* The text of the answer, inside its fn only. Hostile. */
ProtobufCBinaryData agent_link_text(const struct agent_link *link);

#define AGENT_NO_TIMEOUT UINT32_MAX

/* Sends m (id is filled in). 0: fn follows, never from within. -ENOTCONN: no agent; -EAGAIN: too many
 * requests are open (LIMIT_AGENT_REQUESTS); -EMSGSIZE: m is over the frame limit or the agent does
 * not read. */
int agent_link_request(struct agent_link *link, Nexus__AgentMessage *m, uint32_t timeout_ms,
                       agent_reply_fn fn, void *ud);

/* Asks for a sign of life, as agent_link_request does for anything else. */
int agent_link_ping(struct agent_link *link, uint32_t timeout_ms, agent_reply_fn fn, void *ud);
/* How long the last ping that was answered took, from here to the agent and back; 0: none was. */
uint64_t agent_link_ping_ns(const struct agent_link *link);

/* Messages the agent sent since the beginning. */
uint64_t agent_link_received(const struct agent_link *link);
