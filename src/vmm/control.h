/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: accepts clients of the same user or root, reads their hello, and keeps one
 * CONTROL connection (a newer one replaces the older). The other roles' connections are handed on. Descriptors
 * (SCM_RIGHTS) are matched with messages in stream order by ControlMessage.n_fds. A client that breaks a
 * rule or does not read loses its connection, never anything else: all state can be read again. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"
#include "wire/tlv.h"

struct loop;
struct control;

#define CONTROL_PROTOCOL_VERSION 1

/* The sender of a request. Answers to a connection that was replaced are dropped. */
struct control_caller {
    uint64_t connection; /* 0: nobody waits */
    uint64_t id;
};

struct control_ops {
    /* A client said hello as CONTROL: answer it with the state. */
    void (*on_control)(void *ud, struct control_caller who);
    /* A request. fds: those that came with it; take one by leaving -EBADF behind, the rest is closed
     * afterwards. m is borrowed. */
    void (*on_request)(void *ud, struct control_caller who, const Nexus__ControlMessage *m,
                       int *fds, size_t n_fds);
    /* The CONTROL connection of that number is over. NULL: nobody minds. */
    void (*on_gone)(void *ud, uint64_t connection);
    /* A client of role EXEC, ATTACH or FORWARD, with what that needs: fd and the reader's content are the
     * callee's (it leaves the reader empty). */
    void (*on_stream)(void *ud, int fd, struct tlv_reader *reader,
                      const Nexus__ControlHello *hello);
};

/* listen_fd: owned from success on. 0 or errno. */
int control_new(struct loop *loop, int listen_fd, const struct control_ops *ops, void *ud,
                struct control **ret);
void control_free(struct control *c);
void control_set_hello_ms(struct control *c, uint32_t hello_ms);

/* Messages to the CONTROL connection, whole or not at all. */
void control_reply(struct control *c, struct control_caller who, int r, const struct error *err);
void control_send_state(struct control *c, struct control_caller who, Nexus__VmmState *state);
void control_send_event(struct control *c, Nexus__ControlEvent *event);
/* Writes what waits as far as the socket takes it. */
void control_flush(struct control *c);
