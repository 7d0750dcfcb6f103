/* SPDX-License-Identifier: Apache-2.0 */
/* Two listeners and what they accept: clients (client.h), and connections of nexusd (commander.h). */
#include "stream/server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/limit.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "stream/client.h"
#include "stream/commander.h"
#include "stream/tls.h"
#include "stream/token.h"

#define BACKLOG 128
#define ACCEPTS_PER_TURN 16
#define COMMANDERS_MAX 8
#define ACCEPT_PAUSE_US 100000 /* after EMFILE */
#define URL_SIZE 80

struct server {
    sd_event *event;
    struct client_host host;
    int tcp_fd, control_fd; /* owned */
    char address[INET6_ADDRSTRLEN];
    bool speaks_tls;
    struct tls_context *tls; /* owned; the newest; NULL: none yet */
    sd_event_source *tcp_io, *control_io, *pause, *forsaken;
    uint64_t forsaken_us;
    struct token_table tokens;
    struct list clients;    /* struct held */
    struct list commanders; /* struct held */
    size_t n_clients, n_commanders;
    char url[URL_SIZE];
};

/* A connection of either kind in its list. */
struct held {
    struct list node;
    struct client *client;
    struct commander *commander;
};

/* ---- the last one left */

static void watch_forsaken(struct server *s)
{
    bool forsaken = s->forsaken_us && s->n_clients == 0 && s->n_commanders == 0;

    if (!s->forsaken)
        return;
    if (forsaken)
        (void)sd_event_source_set_time_relative(s->forsaken, s->forsaken_us);
    (void)sd_event_source_set_enabled(s->forsaken, forsaken ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static int on_forsaken(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct server *s = userdata;

    log_notice("nobody is left: ending");
    return sd_event_exit(s->event, 0);
}

/* ---- clients */

static Nexus__StreamOffer *take_offer(void *ud, const char *token)
{
    struct server *s = ud;

    return token_take(&s->tokens, token, clock_mono_ns());
}

static struct held *find_client(struct server *s, const struct client *c)
{
    struct held *h;

    list_foreach (h, &s->clients, node)
        if (h->client == c)
            return h;
    return NULL;
}

static void drop_client(struct server *s, struct held *h)
{
    list_remove(&h->node);
    client_free(h->client);
    free(h);
    s->n_clients--;
}

static void on_client_gone(void *ud, struct client *c)
{
    struct server *s = ud;

    drop_client(s, find_client(s, c));
    (void)sd_event_source_set_enabled(s->tcp_io, SD_EVENT_ON);
    watch_forsaken(s);
}

static void add_client(struct server *s, int fd)
{
    struct held *h = xcalloc(1, sizeof(*h));
    const int one = 1;

    /* single key strokes must not wait for one another */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    /* without a certificate nobody can have a token yet */
    if ((s->speaks_tls && !s->tls) || client_new(&s->host, fd, s->tls, &h->client) < 0) {
        (void)close(fd);
        free(h);
        return;
    }
    list_append(&s->clients, &h->node);
    s->n_clients++;
    watch_forsaken(s);
}

/* One connection, or an errno: -EAGAIN: no more; else accepting has to wait. */
static int accept_one(struct server *s, int fd)
{
    int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (c >= 0)
        return c;
    if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
        return -EAGAIN;
    log_limited(LOG_WARNING, "cannot accept a connection: %s", strerror(errno));
    (void)sd_event_source_set_enabled(s->tcp_io, SD_EVENT_OFF);
    (void)sd_event_source_set_enabled(s->control_io, SD_EVENT_OFF);
    (void)sd_event_source_set_time_relative(s->pause, ACCEPT_PAUSE_US);
    (void)sd_event_source_set_enabled(s->pause, SD_EVENT_ONESHOT);
    return -EMFILE;
}

static int on_pause_over(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct server *s = userdata;

    (void)sd_event_source_set_enabled(s->tcp_io, SD_EVENT_ON);
    (void)sd_event_source_set_enabled(s->control_io, SD_EVENT_ON);
    return 0;
}

static int on_tcp(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct server *s = userdata;

    for (int n = 0; n < ACCEPTS_PER_TURN && s->n_clients < LIMIT_STREAM_CONNECTIONS; n++) {
        int c = accept_one(s, fd);

        if (c < 0)
            return 0;
        add_client(s, c);
    }
    if (s->n_clients >= LIMIT_STREAM_CONNECTIONS) {
        log_limited(LOG_WARNING, "%d streaming clients are served, more have to wait",
                    LIMIT_STREAM_CONNECTIONS);
        (void)sd_event_source_set_enabled(source, SD_EVENT_OFF); /* until one leaves */
    }
    return 0;
}

/* ---- nexusd */

static int on_hello(void *ud, const Nexus__StreamHello *hello, struct error **err)
{
    const struct server *s = ud;

    if (str_equal(hello->address, s->address) && !hello->tls == !s->speaks_tls)
        return 0;
    return error_set(err, -EOPNOTSUPP, "it listens on %s %s TLS, not on %.64s %s", s->address,
                     s->speaks_tls ? "with" : "without", hello->address,
                     hello->tls ? "with" : "without");
}

static int on_tls(void *ud, const Nexus__StreamTls *m, struct error **err)
{
    const struct tls_pem pem = {m->certificate.data, m->certificate.len, m->key.data,
                                m->key.len,          m->client_ca.data,  m->client_ca.len};
    struct server *s = ud;
    struct tls_context *tls = NULL;
    int r = s->speaks_tls ? 0 : error_set(err, -EINVAL, "this server speaks plain HTTP");

    if (r == 0)
        r = tls_context_new(&pem, &tls, err);
    if (r < 0)
        return r;
    log_info("a new certificate is used from now on");
    tls_context_free(s->tls); /* connections keep it */
    s->tls = tls;
    return 0;
}

static int on_offer(void *ud, Nexus__StreamOffer *offer, struct error **err)
{
    struct server *s = ud;

    if (s->speaks_tls && !s->tls)
        return error_set(err, -EAGAIN, "nexus-stream has no certificate that can be used");
    return token_add(&s->tokens, offer, clock_mono_ns());
}

static void on_commander_gone(void *ud, struct commander *c)
{
    struct server *s = ud;
    struct held *h, *tmp;

    list_foreach_safe (h, tmp, &s->commanders, node) {
        if (h->commander != c)
            continue;
        list_remove(&h->node);
        commander_free(c);
        free(h);
        s->n_commanders--;
    }
    watch_forsaken(s);
}

static const struct commander_ops commander_ops = {
    .on_hello = on_hello,
    .on_tls = on_tls,
    .on_offer = on_offer,
    .on_gone = on_commander_gone,
};

static int on_control(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct server *s = userdata;
    int c = accept_one(s, fd);
    struct held *h;

    if (c < 0)
        return 0;
    h = s->n_commanders < COMMANDERS_MAX ? xcalloc(1, sizeof(*h)) : NULL;
    if (!h || commander_new(s->event, c, s->url, &commander_ops, s, &h->commander) < 0) {
        log_limited(LOG_WARNING, "a control connection was refused");
        (void)close(c);
        free(h);
        return 0;
    }
    list_append(&s->commanders, &h->node);
    s->n_commanders++;
    watch_forsaken(s);
    return 0;
}

/* ---- life */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The length, or -EINVAL. */
static int parse_address(const char *text, union address *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, text, &ret->v4.sin_addr) == 1) {
        ret->v4.sin_family = AF_INET;
        return sizeof(ret->v4);
    }
    if (inet_pton(AF_INET6, text, &ret->v6.sin6_addr) != 1)
        return -EINVAL;
    ret->v6.sin6_family = AF_INET6;
    return sizeof(ret->v6);
}

static int listen_on(struct server *s, const char *address, struct error **err)
{
    union address sa;
    int len = parse_address(address, &sa);
    socklen_t n = len > 0 ? (socklen_t)len : 0;

    if (len < 0 || strlen(address) >= sizeof(s->address))
        return error_set(err, -EINVAL, "%.64s is no address", address);
    s->tcp_fd = socket(sa.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->tcp_fd < 0 || bind(s->tcp_fd, &sa.any, n) < 0 || listen(s->tcp_fd, BACKLOG) < 0 ||
        getsockname(s->tcp_fd, &sa.any, &n) < 0)
        return error_set(err, -errno, "cannot listen on %s: %s", address, strerror(errno));
    (void)snprintf(s->address, sizeof(s->address), "%s", address);
    (void)snprintf(s->url, sizeof(s->url),
                   sa.any.sa_family == AF_INET6 ? "%s://[%s]:%u" : "%s://%s:%u",
                   s->speaks_tls ? "https" : "http", address,
                   ntohs(sa.any.sa_family == AF_INET6 ? sa.v6.sin6_port : sa.v4.sin_port));
    return 0;
}

static int add_sources(struct server *s)
{
    int r = sd_event_add_io(s->event, &s->tcp_io, s->tcp_fd, EPOLLIN, on_tcp, s);

    if (r >= 0)
        r = sd_event_add_io(s->event, &s->control_io, s->control_fd, EPOLLIN, on_control, s);
    if (r >= 0)
        r = sd_event_add_time(s->event, &s->pause, CLOCK_MONOTONIC, UINT64_MAX, 0, on_pause_over,
                              s);
    if (r >= 0)
        r = sd_event_add_time(s->event, &s->forsaken, CLOCK_MONOTONIC, UINT64_MAX, 0, on_forsaken,
                              s);
    return r;
}

int server_new(sd_event *event, const struct server_config *config, struct server **ret,
               struct error **err)
{
    _cleanup_(server_freep) struct server *s = xcalloc(1, sizeof(*s));
    int r;

    s->event = sd_event_ref(event);
    s->tcp_fd = s->control_fd = -EBADF;
    s->forsaken_us = config->forsaken_ms * 1000;
    s->host = (struct client_host){
        .event = event,
        .vmm_dirfd = config->vmm_dirfd,
        .idle_ns = config->idle_ms * 1000000,
        .ud = s,
        .take = take_offer,
        .on_gone = on_client_gone,
    };
    token_table_init(&s->tokens);
    list_init(&s->clients);
    list_init(&s->commanders);
    s->speaks_tls = config->tls;
    r = s->speaks_tls ? tls_prepare(err) : 0;
    if (r >= 0)
        r = listen_on(s, config->address, err);
    if (r < 0)
        return r;
    s->control_fd = config->control_fd;
    r = add_sources(s);
    if (r < 0) {
        s->control_fd = -EBADF; /* the caller's still */
        return error_set(err, r, "cannot set up the event loop: %s", strerror(-r));
    }
    watch_forsaken(s);
    *ret = TAKE(s);
    return 0;
}

void server_free(struct server *s)
{
    if (!s)
        return;
    while (!list_is_empty(&s->clients))
        drop_client(s, list_first(&s->clients, struct held, node));
    while (!list_is_empty(&s->commanders))
        on_commander_gone(s, list_first(&s->commanders, struct held, node)->commander);
    tls_context_free(s->tls);
    token_table_done(&s->tokens);
    sd_event_source_disable_unref(s->tcp_io);
    sd_event_source_disable_unref(s->control_io);
    sd_event_source_disable_unref(s->pause);
    sd_event_source_disable_unref(s->forsaken);
    (void)close_fd(s->tcp_fd);
    (void)close_fd(s->control_fd);
    sd_event_unref(s->event);
    free(s);
}

const char *server_url(const struct server *s)
{
    return s->url;
}
