/* SPDX-License-Identifier: Apache-2.0 */
/* A call is one offer and its answer. The hello goes before the first of them, so nobody waits for it apart. */
#include "pod/stream-link.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/stream-tls.h"
#include "pod/vmm-process.h"
#include "pod/vmm-socket.h"
#include "wire/message.h"
#include "wire/reply.h"

#define SOCKET_NAME "stream.sock"
#define PROTOCOL_VERSION 2
#define CALL_TIMEOUT_US 10000000
#define OUT_MAX (8U << 20) /* offers that wait to be sent */
#define READ_BYTES 8192
#define TOKEN_DIGITS 32 /* 128 bits */
#define URL_MAX 128     /* of the base, as nexus-stream says it */
#define HELLO_ID 1

struct stream_link {
    sd_event *event; /* owned reference */
    struct stream_link_config config;
    int run_dirfd;       /* owned */
    int fd;              /* owned; -EBADF: not connected */
    struct list servers; /* struct server: those that are our children, the newest last */
    sd_event_source *io; /* owned */
    struct tlv_reader reader;
    struct buf out;
    char *url;                     /* owned; base, since its welcome */
    uint64_t next_id;              /* of calls */
    uint64_t tls_id;               /* of the newest certificate that was sent */
    struct stream_tls_stamp stamp; /* of its files */
    bool replace; /* the one that is there is another than is wanted: start a new one beside it */
    bool is_new;  /* this one was started for this connection */
    struct list calls;
};

/* One that was started here. Several only while older ones still have clients. */
struct server {
    struct list node;
    struct vmm_process process;
    sd_event_source *ended; /* owned */
};

struct stream_call {
    struct list node;
    struct stream_link *link;
    uint64_t id;
    sd_event_source *timer; /* owned */
    struct buf frame;       /* what was asked, until it is answered */
    char path[16 + TOKEN_DIGITS + 1];
    stream_url_fn fn;
    void *userdata;
};

static void call_free(struct stream_call *c)
{
    list_remove(&c->node);
    sd_event_source_disable_unref(c->timer);
    buf_done(&c->frame);
    free(c);
}

void stream_call_cancel(struct stream_call *c)
{
    if (c)
        call_free(c); /* its answer will find nobody */
}

static void call_end(struct stream_call *c, int r, const char *url, const struct error *err)
{
    stream_url_fn fn = c->fn;
    void *userdata = c->userdata;

    call_free(c);
    fn(userdata, r, url, err);
}

/* ---- the connection */

static void disconnect(struct stream_link *l)
{
    sd_event_source_disable_unref(TAKE(l->io));
    l->fd = close_fd(l->fd);
    tlv_reader_done(&l->reader);
    buf_done(&l->out);
    free(TAKE(l->url));
}

/* All calls fail: what nexus-stream made of them is not known. */
static void lose(struct stream_link *l, int r, const struct error *err)
{
    disconnect(l);
    while (!list_is_empty(&l->calls))
        call_end(list_first(&l->calls, struct stream_call, node), r, NULL, err);
}

static void lose_it(struct stream_link *l, const char *why)
{
    _cleanup_(error_freep) struct error *err = NULL;

    if (!list_is_empty(&l->calls))
        log_warning("nexus-stream is lost: %s", why);
    (void)error_set_class(&err, ERROR_UNAVAILABLE, -ECONNRESET, "nexus-stream is lost: %s", why);
    lose(l, -ECONNRESET, err);
}

static void write_out(struct stream_link *l)
{
    while (l->out.used) {
        ssize_t n = send(l->fd, l->out.data, l->out.used, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) /* a loss shows when it is read */
            break;
        buf_consume(&l->out, (size_t)n);
    }
    (void)sd_event_source_set_io_events(l->io, EPOLLIN | (l->out.used ? EPOLLOUT : 0U));
}

static void on_welcome(struct stream_link *l, const Nexus__StreamWelcome *w)
{
    if (w->version != PROTOCOL_VERSION || strlen(w->base_url) > URL_MAX ||
        !str_is_clean(w->base_url, strlen(w->base_url))) {
        lose_it(l, "its welcome cannot be understood");
        return;
    }
    free(l->url);
    l->url = str_dup(w->base_url);
}

static struct stream_call *find_call(struct stream_link *l, uint64_t id)
{
    struct stream_call *c;

    list_foreach (c, &l->calls, node)
        if (c->id == id)
            return c;
    return NULL;
}

/* What was asked is asked of a server that is started now. */
static int start_over(struct stream_link *l);

static void on_reply(struct stream_link *l, uint64_t id, const Nexus__Reply *reply)
{
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(freep) char *url = NULL;
    int r = reply_to_error(reply, &err);
    struct stream_call *c = find_call(l, id);

    if (id == HELLO_ID && r < 0) {
        /* one of another version or address: it keeps its clients, new ones get a new server */
        log_notice("another nexus-stream is started: %s", error_text(err, r));
        l->replace = true;
        if (l->is_new || start_over(l) < 0)
            lose(l, r, err);
        return;
    }
    if (id == l->tls_id && r < 0)
        log_warning("nexus-stream cannot use the certificate and keeps the one it had: %s",
                    error_text(err, r));
    if (!c)
        return;
    if (r >= 0 && !l->url)
        r = error_set(&err, -EPROTO, "nexus-stream has not said where it listens");
    if (r >= 0)
        url = str_printf("%s%s", l->url, c->path);
    call_end(c, r < 0 ? r : 0, url, err);
}

/* 0 or -EPROTO. */
static int on_frame(struct stream_link *l, const struct tlv_frame *f)
{
    Nexus__StreamControl *m = NULL;
    int r = 0;

    if (f->type == TLV_MESSAGE)
        m = (Nexus__StreamControl *)message_unpack(&nexus__stream_control__descriptor, f->value,
                                                   f->len);
    if (!m)
        return -EPROTO;
    if (m->body_case == NEXUS__STREAM_CONTROL__BODY_WELCOME)
        on_welcome(l, m->welcome);
    else if (m->body_case == NEXUS__STREAM_CONTROL__BODY_REPLY)
        on_reply(l, m->id, m->reply);
    else
        r = -EPROTO;
    message_free(&m->base);
    return r;
}

static void read_some(struct stream_link *l)
{
    uint8_t bytes[READ_BYTES];
    ssize_t n = recv(l->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    struct tlv_frame f;
    int r;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    r = n > 0 ? tlv_reader_feed(&l->reader, bytes, (size_t)n) : -ECONNRESET;
    while (r >= 0 && l->fd >= 0) {
        r = tlv_reader_next(&l->reader, &f);
        if (r == 0)
            return;
        if (r > 0)
            r = on_frame(l, &f);
    }
    if (r < 0 && l->fd >= 0)
        lose_it(l, r == -ECONNRESET ? "it has ended" : "it broke the protocol");
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct stream_link *l = userdata;

    if (revents & EPOLLOUT)
        write_out(l);
    if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(l);
    return 0;
}

/* ---- the process */

/* It goes on, if it still runs. */
static void server_forget(struct server *s)
{
    list_remove(&s->node);
    sd_event_source_disable_unref(s->ended);
    vmm_process_close(&s->process);
    free(s);
}

static int on_server_ended(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct server *s = userdata;
    int status = 0;

    if (vmm_process_reap(&s->process, &status) == -EAGAIN)
        return 0;
    log_notice("nexus-stream (process %d) ended with wait status %d", (int)s->process.pid, status);
    server_forget(s);
    return 0;
}

static int spawn(struct stream_link *l, int listen_fd, struct error **err)
{
    _cleanup_(freep) char *idle = str_printf("%llums", (unsigned long long)l->config.idle_ms);
    _cleanup_(closep) int go = -EBADF;
    char idle_option[] = "--idle", address_option[] = "--address", tls_option[] = "--tls";
    char *address = (char *)(uintptr_t)l->config.address; /* only read */
    char *const args[] = {
        idle_option, idle, address_option, address, l->config.certificate ? tls_option : NULL,
        NULL};
    const struct vmm_fd fds[] = {{"--control", listen_fd}, {"--vmm-dir", l->config.vmm_dirfd}};
    const struct vmm_spawn s = {
        .path = l->config.program,
        .args = args,
        .fds = fds,
        .n_fds = ARRAY_SIZE(fds),
        .cgroup_fd = -1,
        .log_level = l->config.log_level,
    };
    struct server *server;
    int r;

    server = xcalloc(1, sizeof(*server));
    server->process = VMM_PROCESS_NONE;
    list_append(&l->servers, &server->node);
    r = vmm_spawn(&s, &server->process, &go, err);
    if (r < 0) {
        server_forget(server);
        return r;
    }
    /* watched whatever comes: it is a child that has to be reaped */
    r = sd_event_add_io(l->event, &server->ended, server->process.pidfd, EPOLLIN, on_server_ended,
                        server);
    if (r >= 0)
        r = vmm_spawn_go(go);
    if (r < 0)
        return error_set(err, r, "cannot start nexus-stream: %s", strerror(-r));
    log_info("nexus-stream started as process %d", (int)server->process.pid);
    return 0;
}

/* A connection to the one that runs, or to one that is started now. */
static int reach(struct stream_link *l, struct error **err)
{
    _cleanup_(closep) int listen_fd = -EBADF;
    _cleanup_(error_freep) struct error *unheard = NULL;
    int r = l->replace ? -ENOENT : vmm_socket_connect(l->run_dirfd, SOCKET_NAME, &unheard);

    l->is_new = false;
    if (r != -ENOENT && r != -ECONNREFUSED) {
        if (r < 0)
            (void)error_set(err, r, "cannot reach nexus-stream: %s", strerror(-r));
        return r;
    }
    r = listen_fd = vmm_socket_listen(l->run_dirfd, SOCKET_NAME, err);
    if (r >= 0)
        r = spawn(l, listen_fd, err);
    if (r >= 0)
        r = vmm_socket_connect(l->run_dirfd, SOCKET_NAME, err);
    if (r >= 0) {
        l->replace = false;
        l->is_new = true;
    }
    return r;
}

static int write_hello(struct stream_link *l)
{
    Nexus__StreamControl m = NEXUS__STREAM_CONTROL__INIT;
    Nexus__StreamHello hello = NEXUS__STREAM_HELLO__INIT;

    hello.version = PROTOCOL_VERSION;
    hello.address = (char *)(uintptr_t)l->config.address; /* only read */
    hello.tls = l->config.certificate != NULL;
    m.id = HELLO_ID;
    m.body_case = NEXUS__STREAM_CONTROL__BODY_HELLO;
    m.hello = &hello;
    return message_write(&l->out, TLV_MESSAGE, &m.base);
}

/* ---- the certificate */

static int write_tls(struct stream_link *l, const struct stream_tls *tls)
{
    Nexus__StreamControl m = NEXUS__STREAM_CONTROL__INIT;
    Nexus__StreamTls body = NEXUS__STREAM_TLS__INIT;

    body.certificate = (ProtobufCBinaryData){tls->files[0].len, (uint8_t *)tls->files[0].text};
    body.key = (ProtobufCBinaryData){tls->files[1].len, (uint8_t *)tls->files[1].text};
    body.client_ca = (ProtobufCBinaryData){tls->files[2].len, (uint8_t *)tls->files[2].text};
    m.id = l->tls_id = l->next_id++;
    m.body_case = NEXUS__STREAM_CONTROL__BODY_TLS;
    m.tls = &body;
    return message_write(&l->out, TLV_MESSAGE, &m.base);
}

/* Sends the certificate if its files are others than before. While they cannot be read nexus-stream goes on with
 * what it has. */
static void refresh_tls(struct stream_link *l)
{
    const char *const paths[STREAM_TLS_FILES] = {l->config.certificate, l->config.key,
                                                 l->config.client_ca};
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(stream_tls_done) struct stream_tls tls = {0};
    struct stream_tls_stamp stamp;
    int r;

    if (!l->config.certificate)
        return;
    stream_tls_stamp(paths, &stamp);
    if (memcmp(&stamp, &l->stamp, sizeof(stamp)) == 0)
        return;
    l->stamp = stamp; /* of before the reading: what changes meanwhile is read again */
    r = stream_tls_read(paths, &tls, &err);
    if (r >= 0)
        r = write_tls(l, &tls);
    if (r < 0)
        log_warning("the certificate of streaming cannot be read again: %s", error_text(err, r));
}

static int connect_link(struct stream_link *l, struct error **err)
{
    int r = reach(l, err);

    if (r < 0)
        return error_prefix(err, r, "no streaming session can be opened");
    l->fd = r;
    l->stamp = (struct stream_tls_stamp){0};
    r = write_hello(l);
    if (r >= 0)
        r = sd_event_add_io(l->event, &l->io, l->fd, EPOLLIN, on_io, l);
    if (r < 0) {
        disconnect(l);
        return error_set(err, r, "cannot talk to nexus-stream: %s", strerror(-r));
    }
    return 0;
}

static int start_over(struct stream_link *l)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct stream_call *c;
    int r;

    disconnect(l);
    r = connect_link(l, &err);
    if (r < 0) {
        log_warning("%s", error_text(err, r));
        return r;
    }
    refresh_tls(l);
    list_foreach (c, &l->calls, node)
        if (r >= 0)
            r = buf_append(&l->out, c->frame.data, c->frame.used);
    write_out(l);
    return r;
}

/* ---- offers */

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct stream_call *c = userdata;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = error_set(&err, -ETIMEDOUT, "nexus-stream does not answer");

    call_end(c, r, NULL, err);
    return 0;
}

static const char *route_of(const Nexus__StreamOffer *offer)
{
    switch (offer->target_case) {
    case NEXUS__STREAM_OFFER__TARGET_EXEC:
        return "exec";
    case NEXUS__STREAM_OFFER__TARGET_ATTACH:
        return "attach";
    case NEXUS__STREAM_OFFER__TARGET_FORWARD:
    case NEXUS__STREAM_OFFER__TARGET__NOT_SET:
    case _NEXUS__STREAM_OFFER__TARGET__CASE_IS_INT_SIZE:
    default:
        return "portforward";
    }
}

int stream_link_offer(struct stream_link *l, Nexus__StreamOffer *offer, stream_url_fn fn,
                      void *userdata, struct stream_call **ret, struct error **err)
{
    Nexus__StreamControl m = NEXUS__STREAM_CONTROL__INIT;
    char token[TOKEN_DIGITS + 1];
    struct stream_call *c;
    int r = l->fd >= 0 ? 0 : connect_link(l, err);

    if (r < 0)
        return r;
    refresh_tls(l);
    random_hex(token, TOKEN_DIGITS);
    offer->token = token;
    m.id = l->next_id;
    m.body_case = NEXUS__STREAM_CONTROL__BODY_OFFER;
    m.offer = offer;
    if (protobuf_c_message_get_packed_size(&m.base) > LIMIT_TLV_MESSAGE_BYTES)
        return error_set_class(err, ERROR_INVALID, -EMSGSIZE,
                               "the command is too long: over %u bytes", LIMIT_TLV_MESSAGE_BYTES);
    c = xcalloc(1, sizeof(*c));
    buf_init(&c->frame, OUT_MAX);
    r = message_write(&c->frame, TLV_MESSAGE, &m.base);
    if (r >= 0)
        r = buf_append(&l->out, c->frame.data, c->frame.used);
    if (r < 0) {
        call_free(c);
        return error_set_class(err, ERROR_UNAVAILABLE, -EAGAIN, "too much waits for nexus-stream");
    }
    c->link = l;
    c->id = l->next_id++;
    c->fn = fn;
    c->userdata = userdata;
    (void)snprintf(c->path, sizeof(c->path), "/%s/%s", route_of(offer), token);
    list_append(&l->calls, &c->node);
    r = sd_event_add_time_relative(l->event, &c->timer, CLOCK_MONOTONIC, CALL_TIMEOUT_US, 0,
                                   on_timeout, c);
    if (r < 0) {
        call_free(c);
        return error_set(err, r, "cannot wait for nexus-stream: %s", strerror(-r));
    }
    write_out(l);
    *ret = c;
    return 0;
}

/* ---- life */

int stream_link_new(sd_event *event, const struct stream_link_config *config,
                    struct stream_link **ret, struct error **err)
{
    struct stream_link *l = xcalloc(1, sizeof(*l));

    l->event = sd_event_ref(event);
    l->config = *config;
    l->fd = -EBADF;
    l->next_id = HELLO_ID + 1;
    tlv_reader_init(&l->reader);
    buf_init(&l->out, OUT_MAX);
    list_init(&l->calls);
    list_init(&l->servers);
    l->run_dirfd = dir_open_or_make(config->run_dir, 0711);
    if (l->run_dirfd < 0) {
        int r = l->run_dirfd;

        stream_link_free(l);
        return error_set(err, r, "cannot open directory %s: %s", config->run_dir, strerror(-r));
    }
    *ret = l;
    return 0;
}

void stream_link_free(struct stream_link *l)
{
    if (!l)
        return;
    while (!list_is_empty(&l->calls))
        call_free(list_first(&l->calls, struct stream_call, node));
    disconnect(l);
    while (!list_is_empty(&l->servers))
        server_forget(list_first(&l->servers, struct server, node));
    (void)close_fd(l->run_dirfd);
    sd_event_unref(l->event);
    free(l);
}
