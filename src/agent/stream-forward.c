/* SPDX-License-Identifier: Apache-2.0 */
/* A forwarded port: a connection to 127.0.0.1 or else ::1 of the guest, never waited for. */
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "agent/stream.h"

static int begin(struct stream *s, struct error **err)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const struct sockaddr *sa = s->second ? (void *)&v6 : (void *)&v4;

    v4.sin_port = v6.sin6_port = htons(s->port);
    s->in.fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->in.fd < 0 ||
        (connect(s->in.fd, sa, s->second ? sizeof(v6) : sizeof(v4)) < 0 && errno != EINPROGRESS))
        return error_set(err, -errno, "port %u", s->port);
    /* one descriptor per direction, so that each can be watched by itself */
    s->out.fd = fcntl(s->in.fd, F_DUPFD_CLOEXEC, 3);
    return s->out.fd < 0 ? error_set(err, -errno, "port %u", s->port) : 0;
}

int stream_connect(struct stream *s, struct error **err)
{
    int r = begin(s, err);

    if (r == 0 || s->second)
        return r;
    s->in.fd = close_fd(s->in.fd);
    error_free(*err);
    *err = NULL;
    s->second = true;
    return begin(s, err);
}

int stream_connected(struct stream *s)
{
    int e = 0;
    socklen_t n = sizeof(e);

    if (getsockopt(s->in.fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0)
        e = errno;
    return e ? -e : 1;
}
