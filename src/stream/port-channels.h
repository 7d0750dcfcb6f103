/* SPDX-License-Identifier: Apache-2.0 */
/* Port forwarding in the older WebSocket form: the ports are named before the connection, each has two channels
 * of one byte in front of a message: 2i data, 2i + 1 error. Each begins with the port, two bytes little-endian.
 * The form knows no half-close: a port is over when the application has said its last byte, the connection when
 * all ports are. Sans-IO. A pair is known by 1 + the place of its port in the list.
 * Source: the published behaviour of Kubernetes' port-forward clients. */
#pragma once

#include "base/limit.h"
#include "stream/forward.h"

#define PORT_CHANNELS_MAX LIMIT_STREAM_PORTS /* a channel is one byte */
#define PORT_CHANNELS_BASE64_MAX 39          /* there it is a character, counted from '0' */

struct port_channels;

/* The ports of "port=80,81&port=82" (a comma may be %2C); other parameters do not matter. Their number; -EINVAL:
 * one is none, or the same port twice; -E2BIG: more than PORT_CHANNELS_MAX. */
int port_channels_parse(const char *query, uint16_t ret[PORT_CHANNELS_MAX]);

/* n: 1 to PORT_CHANNELS_MAX. 0 or -ENOMEM. */
int port_channels_new(const uint16_t *ports, size_t n, bool base64, struct port_channels **ret);
void port_channels_free(struct port_channels *c);
DEFINE_CLEANUP(struct port_channels *, port_channels_free);

/* All below as in forward.h. */
bool port_channels_want_input(const struct port_channels *c);
int port_channels_feed(struct port_channels *c, const void *bytes, size_t len);
int port_channels_next(struct port_channels *c, struct forward_event *ret);
bool port_channels_are_paused(const struct port_channels *c);
int port_channels_write(struct port_channels *c, uint32_t pair, const void *bytes, size_t len);
void port_channels_close(struct port_channels *c, uint32_t pair);
void port_channels_fail(struct port_channels *c, uint32_t pair, const char *text);
void port_channels_finish(struct port_channels *c);
size_t port_channels_out(const struct port_channels *c, const uint8_t **ret);
void port_channels_out_done(struct port_channels *c, size_t n);
