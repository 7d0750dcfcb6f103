/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets under the server: listening, accepting, reading, writing, timers. HTTP/2 is in conn.c.
 *
 * A connection gets one read and one write per turn of the loop, both bounded, so that no client holds
 * up another. Answers given outside of a read are written from a defer source. */
#include "grpc/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "grpc/conn-internal.h"
#include "grpc/service-internal.h"

#define READ_BYTES_PER_TURN (64U << 10)
#define WRITE_BYTES_PER_TURN (256U << 10)
#define WRITE_SLACK_BYTES (32U << 10) /* one HTTP/2 frame of ours and more */
#define ACCEPTS_PER_TURN 16
#define ACCEPT_PAUSE_USEC 250000U
#define IDLE_NS \
    1000000000ULL /* without a call for so long: may have to make room for a new client */
#define TIMER_ACCURACY_USEC 1000U

struct listener {
    struct list in_server;
    struct grpc_server *server;
    int fd;                  /* owned */
    sd_event_source *source; /* owned */
    char *path;              /* owned; NULL: not bound by us */
    dev_t dev;
    ino_t ino;
};

struct conn {
    struct list in_server;
    struct list in_dirty; /* server.dirty: has output to be written */
    struct grpc_server *server;
    struct grpc_conn *core; /* owned */
    int fd;                 /* owned */
    sd_event_source *io, *timer;
    uint32_t events;   /* what io waits for */
    uint64_t armed_ns; /* what timer waits for; UINT64_MAX: off */
    uint64_t used_ns;  /* last time that bytes came, or that it was told to go */
    struct buf out;    /* written by the core, not yet taken by the socket */
};

struct grpc_server {
    sd_event *event;
    struct grpc_services services;
    struct list listeners, conns, dirty;
    sd_event_source *flush, *accept_timer;
    bool accept_paused, stopping;
    void (*on_stopped)(void *);
    void *stopped_ud;
    void (*observer)(const struct grpc_call_info *, void *);
    void *observer_ud;
    struct grpc_server_stats stats;
    uint8_t *in, *scratch; /* owned; shared by all connections within a turn */
};

/* ---- connections */

static void accept_update(struct grpc_server *s);

static void conn_close(struct conn *cn, bool failed)
{
    struct grpc_server *s = cn->server;

    list_remove(&cn->in_server);
    list_remove(&cn->in_dirty);
    sd_event_source_disable_unref(cn->io);
    sd_event_source_disable_unref(cn->timer);
    cn->fd = close_fd(cn->fd);
    s->stats.calls_started += cn->core->calls_started;
    s->stats.connections--;
    s->stats.connections_failed += failed;
    grpc_conn_free(cn->core); /* cancel handlers run here */
    buf_done(&cn->out);
    free(cn);
    accept_update(s);
    if (s->on_stopped)
        (void)sd_event_source_set_enabled(s->flush, SD_EVENT_ONESHOT);
}

static void conn_set_events(struct conn *cn, uint32_t events)
{
    if (cn->events == events)
        return;
    cn->events = events;
    (void)sd_event_source_set_io_events(cn->io, events);
}

static int on_conn_timer(sd_event_source *source, uint64_t usec, void *ud);

static int conn_arm(struct conn *cn)
{
    uint64_t next = grpc_conn_next_deadline(cn->core);
    uint64_t usec = next / 1000 + (next % 1000 != 0);

    if (next == cn->armed_ns)
        return 0;
    cn->armed_ns = next;
    if (next == UINT64_MAX)
        return cn->timer ? sd_event_source_set_enabled(cn->timer, SD_EVENT_OFF) : 0;
    if (!cn->timer)
        return sd_event_add_time(cn->server->event, &cn->timer, CLOCK_MONOTONIC, usec,
                                 TIMER_ACCURACY_USEC, on_conn_timer, cn);
    (void)sd_event_source_set_time(cn->timer, usec);
    return sd_event_source_set_enabled(cn->timer, SD_EVENT_ONESHOT);
}

/* One send of bytes[0, len). Bytes taken, 0 if the socket is full, or a negative errno. */
static ssize_t conn_send(struct conn *cn, const uint8_t *bytes, size_t len)
{
    ssize_t n = send(cn->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? 0 : -errno;
}

/* Collects output of the core in scratch, up to a turn's worth. *ret_more: there may be more. */
static ssize_t conn_gather(struct conn *cn, bool *ret_more)
{
    uint8_t *out = cn->server->scratch;
    size_t used = 0;

    *ret_more = false;
    for (;;) {
        const uint8_t *p;
        ssize_t n;

        if (used >= WRITE_BYTES_PER_TURN) {
            *ret_more = true;
            return (ssize_t)used;
        }
        n = grpc_conn_output(cn->core, &p);
        if (n < 0)
            return n;
        if (n == 0)
            return (ssize_t)used;
        if ((size_t)n > WRITE_BYTES_PER_TURN + WRITE_SLACK_BYTES - used)
            return -EMSGSIZE; /* nghttp2 gives frames of 16 KiB and header blocks below 64 KiB */
        memcpy(out + used, p, (size_t)n);
        used += (size_t)n;
    }
}

/* Writes what a turn allows. 0, or a negative errno: the connection is lost. */
static int conn_flush(struct conn *cn)
{
    bool more = false;
    ssize_t n, sent;

    if (cn->out.used > 0) {
        sent = conn_send(cn, cn->out.data, cn->out.used);
        if (sent < 0)
            return (int)sent;
        buf_consume(&cn->out, (size_t)sent);
        if (cn->out.used > 0) {
            conn_set_events(cn, cn->events | EPOLLOUT);
            return 0;
        }
        buf_done(&cn->out);
    }
    n = conn_gather(cn, &more);
    if (n < 0)
        return (int)n;
    sent = n > 0 ? conn_send(cn, cn->server->scratch, (size_t)n) : 0;
    if (sent < 0)
        return (int)sent;
    if (sent < n) {
        int r = buf_append(&cn->out, cn->server->scratch + sent, (size_t)(n - sent));
        if (r < 0)
            return r;
    }
    conn_set_events(cn, EPOLLIN | (sent < n || more ? (uint32_t)EPOLLOUT : 0));
    return 0;
}

/* After anything happened on a connection: write, set the timer, see if it is over. r: what happened,
 * negative: it is lost, but its last words are sent. The connection may be gone afterwards. */
static void conn_settle(struct conn *cn, int r)
{
    int w = conn_flush(cn);

    if (w == 0 && r == 0)
        r = conn_arm(cn);
    if (w < 0 || r < 0) {
        log_debug("grpc: %s: closed: %s", cn->core->peer, strerror(w < 0 ? -w : -r));
        conn_close(cn, r < 0);
    } else if (cn->out.used == 0 && grpc_conn_is_over(cn->core)) {
        conn_close(cn, /* failed= */ !cn->core->draining && !cn->core->client_left);
    }
}

static int on_conn_io(sd_event_source *source, int fd, uint32_t revents, void *ud)
{
    struct conn *cn = ud;
    struct grpc_server *s = cn->server;
    int r = 0;

    if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(fd, s->in, READ_BYTES_PER_TURN, MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            conn_close(cn, /* failed= */ false); /* the client went */
            return 0;
        }
        if (n > 0) {
            if (!cn->core->draining)
                cn->used_ns = clock_mono_ns();
            r = grpc_conn_feed(cn->core, s->in, (size_t)n, clock_mono_ns());
        }
    }
    conn_settle(cn, r);
    return 0;
}

static int on_conn_timer(sd_event_source *source, uint64_t usec, void *ud)
{
    struct conn *cn = ud;

    cn->armed_ns = UINT64_MAX;
    conn_settle(cn, grpc_conn_tick(cn->core, clock_mono_ns()));
    return 0;
}

/* An answer was given outside of a read: write it soon, together with others. */
static void on_conn_wake(struct grpc_conn *core, void *ud)
{
    struct conn *cn = ud;
    struct grpc_server *s = cn->server;

    if (!list_is_linked(&cn->in_dirty))
        list_append(&s->dirty, &cn->in_dirty);
    (void)sd_event_source_set_enabled(s->flush, SD_EVENT_ONESHOT);
}

/* Last act of a turn: on_stopped may free the server. */
static void stop_check(struct grpc_server *s)
{
    void (*fn)(void *) = s->on_stopped;

    if (!s->stopping || s->stats.connections > 0 || !fn)
        return;
    s->on_stopped = NULL;
    fn(s->stopped_ud);
}

static int on_flush(sd_event_source *source, void *ud)
{
    struct grpc_server *s = ud;

    while (!list_is_empty(&s->dirty)) {
        struct conn *cn = list_first(&s->dirty, struct conn, in_dirty);
        list_remove(&cn->in_dirty);
        conn_settle(cn, 0);
    }
    stop_check(s);
    return 0;
}

static void on_conn_observe(const struct grpc_call_info *info, void *ud)
{
    struct conn *cn = ud;

    if (cn->server->observer)
        cn->server->observer(info, cn->server->observer_ud);
}

static void peer_name(int fd, char *out, size_t size)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.pid > 0)
        (void)snprintf(out, size, "pid %d uid %u", cred.pid, cred.uid);
    else
        (void)snprintf(out, size, "unknown");
}

int grpc_server_adopt_connection(struct grpc_server *s, int fd)
{
    struct conn *cn = xcalloc(1, sizeof(*cn));
    struct grpc_conn_host host = {.wake = on_conn_wake, .observe = on_conn_observe, .ud = cn};
    char peer[48];
    int r;

    cn->server = s;
    cn->fd = fd;
    cn->armed_ns = UINT64_MAX;
    cn->used_ns = clock_mono_ns();
    cn->events = EPOLLIN;
    buf_init(&cn->out, WRITE_BYTES_PER_TURN + WRITE_SLACK_BYTES);
    peer_name(fd, peer, sizeof(peer));
    r = grpc_conn_new(&s->services, &host, peer, clock_mono_ns(), &cn->core);
    if (r == 0)
        r = sd_event_add_io(s->event, &cn->io, fd, cn->events, on_conn_io, cn);
    if (r < 0) {
        grpc_conn_free(cn->core);
        (void)close_fd(fd);
        free(cn);
        return r;
    }
    list_append(&s->conns, &cn->in_server);
    s->stats.connections++;
    s->stats.connections_accepted++;
    conn_settle(cn, 0);
    return 0;
}

/* ---- listening */

/* Listens while there is room, nothing is wrong and nobody said stop. */
static void accept_update(struct grpc_server *s)
{
    bool on = !s->accept_paused && !s->stopping && s->stats.connections < LIMIT_GRPC_CONNECTIONS;
    struct listener *l;

    list_foreach (l, &s->listeners, in_server)
        (void)sd_event_source_set_enabled(l->source, on ? SD_EVENT_ON : SD_EVENT_OFF);
}

static void accept_retry_soon(struct grpc_server *s);

/* Some clients never close. At the limit the connection that is idle for longest is told to go, and
 * closed when it does not listen; so that a new client comes in as soon as anybody is idle. */
static void make_room(struct grpc_server *s)
{
    uint64_t now = clock_mono_ns();
    struct conn *cn, *victim = NULL;

    list_foreach (cn, &s->conns, in_server) {
        if (cn->core->stream_count > 0 || cn->core->handshake_ns != UINT64_MAX ||
            cn->used_ns + IDLE_NS > now)
            continue;
        if (cn->core->draining) { /* told before, and still here */
            victim = cn;
            break;
        }
        if (!victim || cn->used_ns < victim->used_ns)
            victim = cn;
    }
    if (!victim)
        return;
    if (victim->core->draining) {
        conn_close(victim, /* failed= */ false);
        return;
    }
    log_debug("grpc: %s: told to go, to make room", victim->core->peer);
    victim->used_ns = now;
    grpc_conn_shutdown(victim->core);
}

static int on_accept_timer(sd_event_source *source, uint64_t usec, void *ud)
{
    struct grpc_server *s = ud;

    s->accept_paused = false;
    if (!s->stopping && s->stats.connections >= LIMIT_GRPC_CONNECTIONS) {
        make_room(s);
        accept_retry_soon(s);
    }
    accept_update(s);
    return 0;
}

static void accept_retry_soon(struct grpc_server *s)
{
    if (!s->accept_timer) {
        (void)sd_event_add_time_relative(s->event, &s->accept_timer, CLOCK_MONOTONIC,
                                         ACCEPT_PAUSE_USEC, 0, on_accept_timer, s);
    } else {
        (void)sd_event_source_set_time_relative(s->accept_timer, ACCEPT_PAUSE_USEC);
        (void)sd_event_source_set_enabled(s->accept_timer, SD_EVENT_ONESHOT);
    }
}

/* No fds or memory now: waiting is better than spinning on a readable listener. */
static void accept_pause(struct grpc_server *s, int r)
{
    log_limited(LOG_DEBUG, "grpc: cannot accept, pausing: %s", strerror(-r));
    s->stats.accept_pauses++;
    s->accept_paused = true;
    accept_retry_soon(s);
}

static int on_accept(sd_event_source *source, int fd, uint32_t revents, void *ud)
{
    struct listener *l = ud;
    struct grpc_server *s = l->server;

    for (int i = 0; i < ACCEPTS_PER_TURN && s->stats.connections < LIMIT_GRPC_CONNECTIONS; i++) {
        int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        int r = c < 0 ? -errno : grpc_server_adopt_connection(s, c);

        if (r == -EAGAIN || r == -EINTR || r == -ECONNABORTED)
            break;
        if (r < 0) {
            accept_pause(s, r);
            break;
        }
    }
    if (s->stats.connections >= LIMIT_GRPC_CONNECTIONS) {
        s->stats.accept_pauses++;
        make_room(s);
        accept_retry_soon(s);
    }
    accept_update(s);
    return 0;
}

static void listener_free(struct listener *l)
{
    struct stat st;

    list_remove(&l->in_server);
    sd_event_source_disable_unref(l->source);
    (void)close_fd(l->fd);
    if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
        (void)unlink(l->path);
    free(l->path);
    free(l);
}

static int listener_add(struct grpc_server *s, int fd, const char *path)
{
    struct listener *l = xcalloc(1, sizeof(*l));
    struct stat st;
    int r;

    l->server = s;
    l->fd = fd;
    if (path && lstat(path, &st) == 0) {
        l->path = str_dup(path);
        l->dev = st.st_dev;
        l->ino = st.st_ino;
    }
    r = sd_event_add_io(s->event, &l->source, fd, EPOLLIN, on_accept, l);
    if (r < 0) {
        listener_free(l);
        return r;
    }
    list_append(&s->listeners, &l->in_server);
    accept_update(s);
    return 0;
}

int grpc_server_adopt(struct grpc_server *s, int listen_fd)
{
    int flags = fcntl(listen_fd, F_GETFL);

    if (flags < 0 || fcntl(listen_fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        int r = -errno;
        (void)close_fd(listen_fd);
        return r;
    }
    return listener_add(s, listen_fd, NULL);
}

/* Removes a socket nobody answers on. 0, or a negative errno with *err. */
static int remove_stale(const struct sockaddr_un *addr, struct error **err)
{
    _cleanup_(closep) int fd = -EBADF;
    struct stat st;

    if (lstat(addr->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : error_set(err, -errno, "cannot look at %s", addr->sun_path);
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, -EEXIST, "%s exists and is no socket", addr->sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a socket");
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
        return error_set_class(err, ERROR_EXISTS, -EADDRINUSE, "somebody serves %s already",
                               addr->sun_path);
    if (unlink(addr->sun_path) < 0 && errno != ENOENT)
        return error_set(err, -errno, "cannot remove the stale socket %s", addr->sun_path);
    return 0;
}

int grpc_server_listen_unix(struct grpc_server *s, const char *path, mode_t mode,
                            struct error **err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    _cleanup_(closep) int fd = -EBADF;
    int r;

    if (strlen(path) >= sizeof(addr.sun_path))
        return error_set(err, -ENAMETOOLONG, "socket path %s is longer than %zu bytes", path,
                         sizeof(addr.sun_path) - 1);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    r = remove_stale(&addr, err);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a socket");
    /* the file is born with the socket's mode less the umask: never wider than asked, even shortly */
    if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        return error_set(err, -errno, "cannot bind %s", path);
    if (chmod(addr.sun_path, mode) < 0 || listen(fd, SOMAXCONN) < 0) {
        r = error_set(err, -errno, "cannot listen on %s", addr.sun_path);
        (void)unlink(addr.sun_path);
        return r;
    }
    r = listener_add(s, TAKE_FD(fd), path);
    return r < 0 ? error_set(err, r, "cannot watch %s", path) : 0;
}

/* ---- life */

int grpc_server_new(sd_event *event, struct grpc_server **ret)
{
    _cleanup_(grpc_server_freep) struct grpc_server *s = xcalloc(1, sizeof(*s));
    int r;

    s->event = sd_event_ref(event);
    grpc_services_init(&s->services);
    list_init(&s->listeners);
    list_init(&s->conns);
    list_init(&s->dirty);
    s->in = malloc(READ_BYTES_PER_TURN);
    s->scratch = malloc(WRITE_BYTES_PER_TURN + WRITE_SLACK_BYTES);
    if (!s->in || !s->scratch)
        return -ENOMEM;
    r = sd_event_add_defer(event, &s->flush, on_flush, s);
    if (r < 0)
        return r;
    (void)sd_event_source_set_enabled(s->flush, SD_EVENT_OFF);
    *ret = TAKE(s);
    return 0;
}

void grpc_server_free(struct grpc_server *s)
{
    if (!s)
        return;
    s->stopping = true;
    s->on_stopped = NULL;
    while (!list_is_empty(&s->listeners))
        listener_free(list_first(&s->listeners, struct listener, in_server));
    while (!list_is_empty(&s->conns))
        conn_close(list_first(&s->conns, struct conn, in_server), /* failed= */ false);
    sd_event_source_disable_unref(s->flush);
    sd_event_source_disable_unref(s->accept_timer);
    grpc_services_done(&s->services);
    sd_event_unref(s->event);
    free(s->in);
    free(s->scratch);
    free(s);
}

void grpc_server_stop(struct grpc_server *s, void (*on_stopped)(void *ud), void *ud)
{
    struct conn *cn;

    s->stopping = true;
    s->on_stopped = on_stopped;
    s->stopped_ud = ud;
    while (!list_is_empty(&s->listeners))
        listener_free(list_first(&s->listeners, struct listener, in_server));
    list_foreach (cn, &s->conns, in_server)
        grpc_conn_shutdown(cn->core);
    (void)sd_event_source_set_enabled(s->flush,
                                      SD_EVENT_ONESHOT); /* tells when it is done already */
}

int grpc_server_add_service(struct grpc_server *s, const ProtobufCServiceDescriptor *svc,
                            const struct grpc_method *methods, void *ud)
{
    return grpc_services_add(&s->services, svc, methods, ud);
}

void grpc_server_set_observer(struct grpc_server *s,
                              void (*fn)(const struct grpc_call_info *info, void *ud), void *ud)
{
    s->observer = fn;
    s->observer_ud = ud;
}

void grpc_server_get_stats(const struct grpc_server *s, struct grpc_server_stats *ret)
{
    const struct conn *cn;

    *ret = s->stats;
    ret->calls = 0;
    list_foreach (cn, &s->conns, in_server) {
        ret->calls += cn->core->stream_count;
        ret->calls_started += cn->core->calls_started;
    }
}
