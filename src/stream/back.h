/* SPDX-License-Identifier: Apache-2.0 */
/* One connection to a pod's nexus-vmm: an exec, an attach or a forwarded port. TLV frames both ways, at most
 * LIMIT_TLV_QUEUE_FRAMES frames' worth waiting; an output that is not taken is not read. What comes is checked
 * again: nexus-vmm has read it from a guest. Closing the connection ends an exec.
 * Order of the callbacks: on_started, on_output…, then exactly one of on_exited, on_failed, after which nothing
 * comes. A callback may free the connection. Thread: the loop's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

struct back;

struct back_ops {
    void (*on_started)(void *ud);
    /* type: TLV_STDOUT or TLV_STDERR; n 0: that stream is over. False: no room; it is offered again after
     * back_resume. */
    bool (*on_output)(void *ud, uint8_t type, const uint8_t *p, size_t n);
    void (*on_exited)(void *ud, int code); /* 0 to 255 */
    /* It could not begin, broke, or the VM is gone. exit_code: 126, 127 as a shell tells it; else above 127. */
    void (*on_failed)(void *ud, int r, const struct error *err, int exit_code);
    /* back_has_room again. */
    void (*on_room)(void *ud);
};

/* name: of the socket in dirfd. hello is copied. 0, or errno with *err set. */
int back_new(sd_event *event, int dirfd, const char *name, const Nexus__ControlHello *hello,
             const struct back_ops *ops, void *ud, struct back **ret, struct error **err);
/* NULL is allowed. */
void back_free(struct back *b);

/* True while input may be written, in any amount up to BACK_INPUT_BYTES. */
bool back_has_room(const struct back *b);
#define BACK_INPUT_BYTES (256U << 10)
/* STDIN bytes; n 0: their end. -ENOMEM. */
int back_input(struct back *b, const uint8_t *p, size_t n);
int back_resize(struct back *b, uint16_t columns, uint16_t rows);
/* on_output has room. May call it, and what follows it, from within. */
void back_resume(struct back *b);
