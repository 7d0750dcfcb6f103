/* SPDX-License-Identifier: Apache-2.0 */
/* A nexusd for tests: one connection to a control socket that shares the loop of what it tests, so that
 * everything runs in one thread and in order. A wait turns the loop until a frame is there; the test
 * program's own time-out is the only clock. Failures abort with a message. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gen/msg/nexus.pb-c.h"
#include "wire/tlv.h"

struct loop;

struct control_client {
    struct loop *loop;
    int fd;
    uint64_t next_id;
    struct tlv_reader reader;
    bool eof;
};

/* Connects; says nothing yet. */
void control_client_connect(struct control_client *c, struct loop *loop, const char *path);
/* The same over a socket that is there. */
void control_client_adopt(struct control_client *c, struct loop *loop, int fd);
void control_client_close(struct control_client *c);

void control_client_send(struct control_client *c, Nexus__ControlMessage *m, const int *fds,
                         size_t n);
void control_client_send_frame(struct control_client *c, uint8_t type, const void *value,
                               size_t len);
void control_client_send_bytes(struct control_client *c, const void *bytes, size_t len);

/* The next frame, copied (value: malloc'd, NUL behind it). False: EOF. */
bool control_client_frame(struct control_client *c, uint8_t *type, uint8_t **value, size_t *len);
/* The next frame if one is here after a turn of the loop; false: none or EOF. */
bool control_client_poll(struct control_client *c, uint8_t *type, uint8_t **value, size_t *len);
/* The next ControlMessage; NULL at EOF. The caller frees it (message_free). */
Nexus__ControlMessage *control_client_message(struct control_client *c);
/* Skips messages until a reply or state with that id / an event of that kind. NULL at EOF. */
Nexus__ControlMessage *control_client_reply(struct control_client *c, uint64_t id);
Nexus__ControlMessage *control_client_event(struct control_client *c, int body_case);
/* Sends with a fresh id and waits for the reply: its error class ("" success), or NULL at EOF; static
 * storage. */
const char *control_client_call(struct control_client *c, Nexus__ControlMessage *m, const int *fds,
                                size_t n);
/* The text of the last error reply. */
const char *control_client_text(void);
