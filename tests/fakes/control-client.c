/* SPDX-License-Identifier: Apache-2.0 */
#include "fakes/control-client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdpass.h"
#include "event/loop.h"
#include "wire/message.h"

static char last_text[8192];

static void fail(const char *what)
{
    (void)fprintf(stderr, "control client: %s: %s\n", what, strerror(errno));
    abort();
}

void control_client_adopt(struct control_client *c, struct loop *loop, int fd)
{
    *c = (struct control_client){.loop = loop, .fd = fd};
    if (fd_set_nonblock(fd, 1) < 0)
        fail("fcntl");
    tlv_reader_init(&c->reader);
}

void control_client_connect(struct control_client *c, struct loop *loop, const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        fail(path);
    control_client_adopt(c, loop, fd);
}

void control_client_close(struct control_client *c)
{
    c->fd = close_fd(c->fd);
    tlv_reader_done(&c->reader);
}

static void send_all(struct control_client *c, const uint8_t *p, size_t len, const int *fds,
                     size_t n)
{
    while (len) {
        /* a message carries FDPASS_MAX descriptors at most: spread them over the frame's bytes */
        size_t k = n < FDPASS_MAX ? n : FDPASS_MAX;
        size_t piece = n > k ? 1 : len;
        ssize_t sent = fdpass_send(c->fd, p, piece, fds, k);

        if (sent == -EAGAIN) {
            if (c->loop && loop_turn(c->loop, 10) < 0)
                fail("loop");
            continue;
        }
        if (sent < 0) {
            if (sent == -EPIPE || sent == -ECONNRESET)
                return; /* the test sees EOF */
            errno = (int)-sent;
            fail("send");
        }
        p += sent;
        len -= (size_t)sent;
        fds += k;
        n -= k;
    }
}

void control_client_send_bytes(struct control_client *c, const void *bytes, size_t len)
{
    send_all(c, bytes, len, NULL, 0);
}

void control_client_send_frame(struct control_client *c, uint8_t type, const void *value,
                               size_t len)
{
    struct buf out;

    buf_init(&out, 2U << 20);
    if (tlv_write(&out, type, value, len) < 0)
        fail("frame");
    send_all(c, out.data, out.used, NULL, 0);
    buf_done(&out);
}

void control_client_send(struct control_client *c, Nexus__ControlMessage *m, const int *fds,
                         size_t n)
{
    struct buf out;

    buf_init(&out, 2U << 20);
    if (n && !m->n_fds)
        m->n_fds = (uint32_t)n;
    if (message_write(&out, TLV_MESSAGE, &m->base) < 0)
        fail("message");
    send_all(c, out.data, out.used, fds, n);
    buf_done(&out);
}

static bool take_frame(struct control_client *c, uint8_t *type, uint8_t **value, size_t *len)
{
    struct tlv_frame f;
    int r = tlv_reader_next(&c->reader, &f);

    if (r < 0)
        fail("broken frame from nexus-vmm");
    if (r == 0)
        return false;
    *type = f.type;
    *len = f.len;
    *value = malloc(f.len + 1);
    if (!*value)
        fail("malloc");
    memcpy(*value, f.value, f.len);
    (*value)[f.len] = '\0';
    return true;
}

static void read_some(struct control_client *c)
{
    uint8_t bytes[8192];
    ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno == ECONNRESET))
        c->eof = true;
    else if (n < 0 && errno != EAGAIN)
        fail("recv");
    else if (n > 0 && tlv_reader_feed(&c->reader, bytes, (size_t)n) < 0)
        fail("feed");
}

bool control_client_poll(struct control_client *c, uint8_t *type, uint8_t **value, size_t *len)
{
    if (take_frame(c, type, value, len))
        return true;
    if (c->loop && loop_turn(c->loop, 1) < 0)
        fail("loop");
    read_some(c);
    return take_frame(c, type, value, len);
}

bool control_client_frame(struct control_client *c, uint8_t *type, uint8_t **value, size_t *len)
{
    while (!take_frame(c, type, value, len)) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};

        if (c->eof)
            return false;
        if (c->loop && loop_turn(c->loop, 5) < 0)
            fail("loop");
        if (!c->loop && poll(&p, 1, -1) < 0 && errno != EINTR)
            fail("poll");
        read_some(c);
    }
    return true;
}

Nexus__ControlMessage *control_client_message(struct control_client *c)
{
    Nexus__ControlMessage *m;
    uint8_t type, *value;
    size_t len;

    if (!control_client_frame(c, &type, &value, &len))
        return NULL;
    if (type != TLV_MESSAGE)
        fail("a stream frame on the control connection");
    m = (Nexus__ControlMessage *)message_unpack(&nexus__control_message__descriptor, value, len);
    free(value);
    if (!m)
        fail("a malformed message");
    return m;
}

Nexus__ControlMessage *control_client_reply(struct control_client *c, uint64_t id)
{
    Nexus__ControlMessage *m;

    while ((m = control_client_message(c))) {
        if (m->id == id && (m->body_case == NEXUS__CONTROL_MESSAGE__BODY_REPLY ||
                            m->body_case == NEXUS__CONTROL_MESSAGE__BODY_STATE))
            return m;
        message_free(&m->base);
    }
    return NULL;
}

Nexus__ControlMessage *control_client_event(struct control_client *c, int body_case)
{
    Nexus__ControlMessage *m;

    while ((m = control_client_message(c))) {
        if (m->body_case == NEXUS__CONTROL_MESSAGE__BODY_EVENT &&
            (int)m->event->body_case == body_case)
            return m;
        message_free(&m->base);
    }
    return NULL;
}

const char *control_client_call(struct control_client *c, Nexus__ControlMessage *m, const int *fds,
                                size_t n)
{
    static char class_name[64];
    Nexus__ControlMessage *reply;

    m->id = ++c->next_id;
    control_client_send(c, m, fds, n);
    reply = control_client_reply(c, m->id);
    if (!reply)
        return NULL;
    if (reply->body_case != NEXUS__CONTROL_MESSAGE__BODY_REPLY)
        fail("a state instead of a reply");
    (void)snprintf(class_name, sizeof(class_name), "%s", reply->reply->error_class);
    (void)snprintf(last_text, sizeof(last_text), "%s", reply->reply->message);
    message_free(&reply->base);
    return class_name;
}

const char *control_client_text(void)
{
    return last_text;
}
