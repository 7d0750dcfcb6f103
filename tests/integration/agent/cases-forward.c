/* SPDX-License-Identifier: Apache-2.0 */
/* Forwarded ports: the listeners are here, in the network namespace of the agent. */
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cases.h"

static void setup_loopback_is_up(struct drive *d)
{
    struct ifreq r = {.ifr_name = "lo"};
    _cleanup_(closep) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &r) == 0, "lo: %s", strerror(errno));
    r.ifr_flags |= IFF_UP;
    CHECK(ioctl(fd, SIOCSIFFLAGS, &r) == 0, "lo: %s", strerror(errno));
}

/* A listener on any port of the loopback address; its port in *ret. */
static int listen_on(int family, uint16_t *ret)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t len = family == AF_INET ? sizeof(v4) : sizeof(v6);
    void *sa = family == AF_INET ? (void *)&v4 : (void *)&v6;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0 && bind(fd, sa, len) == 0 && listen(fd, 8) == 0 && getsockname(fd, sa, &len) == 0,
          "listen: %s", strerror(errno));
    *ret = ntohs(family == AF_INET ? v4.sin_port : v6.sin6_port);
    return fd;
}

static int accept_one(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    CHECK(poll(&p, 1, WAIT_MS) == 1, "nobody connected");
    return accept4(fd, NULL, NULL, SOCK_CLOEXEC);
}

static struct drive_stream *forward_to(struct drive *d, uint32_t port)
{
    struct drive_stream *s = stream_connect(d);
    Nexus__StreamOpen open = NEXUS__STREAM_OPEN__INIT;
    Nexus__ForwardSpec spec = NEXUS__FORWARD_SPEC__INIT;
    uint8_t bytes[64];

    spec.port = port;
    open.kind_case = NEXUS__STREAM_OPEN__KIND_FORWARD;
    open.forward = &spec;
    stream_send(s, TLV_MESSAGE, bytes, nexus__stream_open__pack(&open, bytes));
    return s;
}

static void read_exactly(int fd, const char *want)
{
    char got[64];
    size_t n = 0, len = strlen(want);

    while (n < len) {
        ssize_t r = read(fd, got + n, len - n);

        CHECK(r > 0, "read: %zd after %zu", r, n);
        n += (size_t)r;
    }
    CHECK(memcmp(got, want, len) == 0, "%.64s", got);
}

static void converse(struct drive *d, int family)
{
    uint16_t port;
    _cleanup_(closep) int fd = listen_on(family, &port);
    struct drive_stream *s = forward_to(d, port);
    _cleanup_(closep) int c = accept_one(fd);
    char byte;

    stream_until_started(s);
    stream_send(s, TLV_STDIN, "question", 8);
    read_exactly(c, "question");
    stream_send(s, TLV_STDIN, NULL, 0); /* half-closed: the answer still comes */
    CHECK(read(c, &byte, 1) == 0, "no end of input");
    CHECK(write(c, "answer", 6) == 6, "write");
    stream_until_output(s, "answer");
    c = close_fd(c);
    stream_until_closed(s);
    CHECK(s->got.has_exit && s->got.code == 0 && s->got.out_eof == 1, "code %d", s->got.code);
    stream_close(s);
}

static void a_port_on_ipv4_is_reached(struct drive *d)
{
    converse(d, AF_INET);
}

static void a_port_on_ipv6_alone_is_reached(struct drive *d)
{
    converse(d, AF_INET6);
}

static void a_closed_port_is_told(struct drive *d)
{
    uint16_t port;
    int fd = listen_on(AF_INET, &port);
    struct drive_stream *s;

    (void)close(fd);
    s = forward_to(d, port);
    stream_until_closed(s);
    CHECK(s->got.has_error && strcmp(s->got.error_class, "unavailable") == 0, "%s",
          s->got.error_class);
    CHECK(strstr(s->got.error_text, "refused"), "%s", s->got.error_text);
    stream_close(s);
}

static void the_servers_end_leaves_the_clients_half(struct drive *d)
{
    uint16_t port;
    _cleanup_(closep) int fd = listen_on(AF_INET, &port);
    struct drive_stream *s = forward_to(d, port);
    _cleanup_(closep) int c = accept_one(fd);

    CHECK(write(c, "bye", 3) == 3 && shutdown(c, SHUT_WR) == 0, "write");
    stream_until_output(s, "bye");
    stream_send(s, TLV_STDIN, "thanks", 6);
    read_exactly(c, "thanks");
    stream_send(s, TLV_STDIN, NULL, 0);
    stream_until_closed(s);
    CHECK(s->got.has_exit && s->got.code == 0, "code %d", s->got.code);
    stream_close(s);
}

static void a_reset_is_told(struct drive *d)
{
    const struct linger now = {.l_onoff = 1};
    uint16_t port;
    _cleanup_(closep) int fd = listen_on(AF_INET, &port);
    struct drive_stream *s = forward_to(d, port);
    int c = accept_one(fd);

    stream_until_started(s);
    CHECK(setsockopt(c, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0, "linger");
    (void)close(c);
    stream_until_closed(s);
    CHECK(s->got.has_exit && s->got.code == 1, "code %d", s->got.code);
    stream_close(s);
}

static void a_peer_that_leaves_closes_the_connection(struct drive *d)
{
    uint16_t port;
    _cleanup_(closep) int fd = listen_on(AF_INET, &port);
    struct drive_stream *s = forward_to(d, port);
    _cleanup_(closep) int c = accept_one(fd);
    struct pollfd p = {.fd = c, .events = POLLIN};
    char byte;

    stream_until_started(s);
    stream_close(s);
    CHECK(poll(&p, 1, WAIT_MS) == 1 && read(c, &byte, 1) <= 0, "it stays open");
}

static void a_server_that_floods_waits_for_the_reader(struct drive *d)
{
    static char bytes[65536];
    uint16_t port;
    _cleanup_(closep) int fd = listen_on(AF_INET, &port);
    struct drive_stream *s = forward_to(d, port);
    _cleanup_(closep) int c = accept_one(fd);
    size_t sent = 0;
    struct pollfd p = {.fd = c, .events = POLLOUT};

    while (poll(&p, 1, 500) == 1) {
        ssize_t n = send(c, bytes, sizeof(bytes), MSG_DONTWAIT);

        CHECK(n > 0, "send: %s", strerror(errno));
        sent += (size_t)n;
        CHECK(sent < 64U << 20, "nothing stops it");
    }
    (void)shutdown(c, SHUT_WR);
    stream_until_bytes(s, sent);
    stream_close(s);
}

const struct drive_case forward_cases[] = {
    {"setup_loopback_is_up", setup_loopback_is_up, false},
    {"a_port_on_ipv4_is_reached", a_port_on_ipv4_is_reached, false},
    {"a_port_on_ipv6_alone_is_reached", a_port_on_ipv6_alone_is_reached, false},
    {"a_closed_port_is_told", a_closed_port_is_told, false},
    {"the_servers_end_leaves_the_clients_half", the_servers_end_leaves_the_clients_half, false},
    {"a_reset_is_told", a_reset_is_told, false},
    {"a_peer_that_leaves_closes_the_connection", a_peer_that_leaves_closes_the_connection, false},
    {"a_server_that_floods_waits_for_the_reader", a_server_that_floods_waits_for_the_reader, false},
};
const size_t n_forward_cases = sizeof(forward_cases) / sizeof(forward_cases[0]);
