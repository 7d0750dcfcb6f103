/* SPDX-License-Identifier: Apache-2.0 */
/* Start at on_accept, then on_conn_io → conn_read → dispatch. */
#include "vmm/control.h"

#include <string.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/fdpass.h"
#include "base/limit.h"
#include "base/list.h"
#include "base/log.h"
#include "event/loop.h"
#include "vmm/control-internal.h"
#include "vmm/stream.h"
#include "wire/message.h"
#include "wire/reply.h"

#define READ_BYTES (64U << 10)
#define FRAMES_PER_TURN 64
#define ACCEPTS_PER_TURN 16
#define OUT_MAX (4U << 20)     /* a client that does not read this much is gone */
#define OUT_PAUSE (256U << 10) /* while more waits, no further request is read */
#define ACCEPT_PAUSE_MS 100    /* after EMFILE */

enum conn_state {
    CONN_HELLO,   /* nothing said yet; a hello → CONTROL, or handed on as a stream */
    CONN_CONTROL, /* the one; replaced by a newer → CLOSED */
    CONN_CLOSED,  /* fd is closed; freed at the end of the turn */
};

struct conn {
    struct list link;
    struct control *control;
    enum conn_state state;
    uint64_t number;
    uint64_t hello_deadline_ns;
    int fd;
    struct loop_source *io, *more; /* more: frames left over by the quota, and the free */
    struct tlv_reader reader;
    int *fds; /* received, in stream order; owned */
    size_t n_fds;
    bool leftover; /* frames wait in reader: take them before more is read */
    struct buf out;
    size_t out_done;
};

struct control {
    struct loop *loop;
    const struct control_ops *ops;
    void *ud;
    int listen_fd;
    struct loop_source *accept_io, *accept_timer, *hello_timer;
    struct list conns;
    size_t n_pending;
    struct conn *current; /* the CONTROL connection */
    uint64_t next_number;
    uint32_t hello_ms;
    uint8_t *bytes; /* READ_BYTES, shared by all connections */
};

static void conn_close(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    if (c->state == CONN_HELLO)
        c->control->n_pending--;
    if (c->control->current == c)
        c->control->current = NULL;
    if (c->state == CONN_CONTROL && c->control->ops->on_gone)
        c->control->ops->on_gone(c->control->ud, c->number);
    c->state = CONN_CLOSED;
    loop_remove(TAKE(c->io));
    c->fd = close_fd(c->fd);
    while (c->n_fds)
        (void)close_fd(c->fds[--c->n_fds]);
    loop_defer_arm(c->more); /* freed when nobody is using it */
}

static void conn_free(struct conn *c)
{
    list_remove(&c->link);
    loop_remove(c->io);
    loop_remove(c->more);
    (void)close_fd(c->fd);
    while (c->n_fds)
        (void)close_fd(c->fds[--c->n_fds]);
    free(c->fds);
    tlv_reader_done(&c->reader);
    buf_done(&c->out);
    free(c);
}

static size_t out_waiting(const struct conn *c)
{
    return c->out.used - c->out_done;
}

static void watch(struct conn *c)
{
    unsigned events = LOOP_HANGUP;

    if (c->state == CONN_CLOSED)
        return;
    if (out_waiting(c))
        events |= LOOP_WRITE;
    if (!c->leftover)
        events |= LOOP_READ;
    (void)loop_io_set(c->io, events);
}

static void write_out(struct conn *c)
{
    while (c->state != CONN_CLOSED && out_waiting(c)) {
        ssize_t n =
            send(c->fd, c->out.data + c->out_done, out_waiting(c), MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            conn_close(c);
            return;
        }
        c->out_done += (size_t)n;
    }
    if (out_waiting(c) == 0) {
        buf_done(&c->out);
        c->out_done = 0;
    }
    watch(c);
}

static void send_message(struct conn *c, const Nexus__ControlMessage *m)
{
    if (c->out_done > OUT_MAX / 4) {
        buf_consume(&c->out, c->out_done);
        c->out_done = 0;
    }
    if (message_write(&c->out, TLV_MESSAGE, &m->base) < 0) {
        log_warning("control client does not read, closing its connection");
        conn_close(c);
        return;
    }
    write_out(c);
}

static struct conn *conn_of(struct control *c, struct control_caller who)
{
    return c && c->current && c->current->number == who.connection ? c->current : NULL;
}

void control_reply(struct control *control, struct control_caller who, int r,
                   const struct error *err)
{
    struct conn *c = conn_of(control, who);
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;

    if (!c)
        return;
    reply_from_error(&reply, r, err);
    m.id = who.id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REPLY;
    m.reply = &reply;
    send_message(c, &m);
}

void control_send_state(struct control *control, struct control_caller who, Nexus__VmmState *state)
{
    struct conn *c = conn_of(control, who);
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;

    if (!c)
        return;
    m.id = who.id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_STATE;
    m.state = state;
    send_message(c, &m);
}

void control_send_event(struct control *control, Nexus__ControlEvent *event)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;

    if (!control || !control->current)
        return; /* nobody listens; the next one reads the state */
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_EVENT;
    m.event = event;
    send_message(control->current, &m);
}

void control_flush(struct control *control)
{
    if (control && control->current)
        write_out(control->current);
}

/* ---- hello */

/* Answers a hello that is refused, as its role expects it, and closes. */
static void refuse(struct conn *c, uint64_t id, bool stream, int r, const struct error *err)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;

    log_warning("control client refused: %s", error_text(err, r));
    if (stream) {
        loop_remove(TAKE(c->io)); /* before its fd is closed */
        stream_refuse(TAKE_FD(c->fd), r, err);
        conn_close(c);
        return;
    }
    reply_from_error(&reply, r, err);
    m.id = id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REPLY;
    m.reply = &reply;
    send_message(c, &m); /* small, into a fresh socket */
    conn_close(c);
}

static void become_control(struct conn *c, uint64_t id)
{
    struct control *control = c->control;
    struct control_caller who = {.connection = c->number, .id = id};

    if (control->current) {
        log_info("a newer control connection replaces the older one");
        conn_close(control->current);
    }
    control->n_pending--;
    c->state = CONN_CONTROL;
    control->current = c;
    control->ops->on_control(control->ud, who);
}

static void become_stream(struct conn *c, const Nexus__ControlHello *hello)
{
    int fd;

    loop_remove(TAKE(c->io)); /* before its fd changes hands */
    fd = TAKE_FD(c->fd);
    c->control->ops->on_stream(c->control->ud, fd, &c->reader, hello);
    conn_close(c);
}

/* True if a stream's hello carries what its role needs. */
static bool is_whole(const Nexus__ControlHello *hello)
{
    switch ((int)hello->role) {
    case NEXUS__CONTROL_HELLO__ROLE__EXEC:
        return hello->exec && hello->exec->process;
    case NEXUS__CONTROL_HELLO__ROLE__ATTACH:
        return hello->attach != NULL;
    case NEXUS__CONTROL_HELLO__ROLE__FORWARD:
        return hello->forward && hello->forward->port >= 1 && hello->forward->port <= UINT16_MAX;
    default:
        return false;
    }
}

static void on_hello(struct conn *c, const Nexus__ControlMessage *m)
{
    const Nexus__ControlHello *hello = m->hello;
    _cleanup_(error_freep) struct error *err = NULL;
    bool stream;
    int r;

    if (m->body_case != NEXUS__CONTROL_MESSAGE__BODY_HELLO || m->n_fds) {
        r = error_set(&err, -EINVAL, "the first message must be a hello");
        refuse(c, m->id, false, r, err);
        return;
    }
    stream = hello->role >= NEXUS__CONTROL_HELLO__ROLE__EXEC &&
             hello->role <= NEXUS__CONTROL_HELLO__ROLE__FORWARD;
    if (hello->version != CONTROL_PROTOCOL_VERSION) {
        r = error_set(&err, -EOPNOTSUPP, "control protocol version %u is not spoken here, only %d",
                      hello->version, CONTROL_PROTOCOL_VERSION);
        refuse(c, m->id, stream, r, err);
    } else if (!stream && hello->role != NEXUS__CONTROL_HELLO__ROLE__CONTROL) {
        r = error_set(&err, -EINVAL, "unknown role %d", (int)hello->role);
        refuse(c, m->id, false, r, err);
    } else if (stream && !is_whole(hello)) {
        r = error_set(&err, -EINVAL, "a stream's hello must carry what it is for");
        refuse(c, m->id, stream, r, err);
    } else if (stream) {
        become_stream(c, hello);
    } else {
        become_control(c, m->id);
    }
}

/* ---- reading */

/* 0, or -EPROTO: the connection cannot go on. */
static int dispatch(struct conn *c, const struct tlv_frame *f)
{
    struct control *control = c->control;
    struct control_caller who = {.connection = c->number};
    Nexus__ControlMessage *m;
    int r = 0;

    if (f->type != TLV_MESSAGE)
        return -EPROTO;
    m = (Nexus__ControlMessage *)message_unpack(&nexus__control_message__descriptor, f->value,
                                                f->len);
    if (!m)
        return -EPROTO;
    if (m->n_fds > c->n_fds) {
        r = -EPROTO; /* they come with the frame's first byte: promised and not sent */
    } else if (c->state == CONN_HELLO) {
        on_hello(c, m);
    } else {
        size_t n = m->n_fds;
        /* handlers run with the descriptors taken off the queue */
        int *fds = n ? malloc(n * sizeof(*fds)) : NULL;

        if (n && !fds) {
            message_free(&m->base);
            return -ENOMEM;
        }
        if (n) {
            memcpy(fds, c->fds, n * sizeof(*fds));
            memmove(c->fds, c->fds + n, (c->n_fds - n) * sizeof(*fds));
            c->n_fds -= n;
        }
        who.id = m->id;
        control->ops->on_request(control->ud, who, m, fds, n);
        for (size_t i = 0; i < n; i++)
            (void)close_fd(fds[i]);
        free(fds);
    }
    message_free(&m->base);
    return r;
}

static void drain(struct conn *c)
{
    struct tlv_frame f;
    int r = 0;

    c->leftover = true;
    for (int n = 0; c->state != CONN_CLOSED && r >= 0 && n < FRAMES_PER_TURN; n++) {
        if (out_waiting(c) >= OUT_PAUSE)
            break; /* goes on when the client has read */
        r = tlv_reader_next(&c->reader, &f);
        if (r > 0) {
            r = dispatch(c, &f);
        } else if (r == 0) {
            c->leftover = false;
            break;
        }
    }
    if (c->leftover && out_waiting(c) < OUT_PAUSE)
        loop_defer_arm(c->more);
    if (r < 0 && c->state != CONN_CLOSED) {
        log_warning("control client broke the protocol, closing its connection");
        conn_close(c);
    }
    if (c->state != CONN_CLOSED)
        tlv_reader_trim(&c->reader);
    watch(c);
}

/* Queues descriptors in the order of the stream. */
static int keep_fds(struct conn *c, const int *fds, size_t n)
{
    int *more;

    if (n == 0)
        return 0;
    more = c->n_fds + n <= CONTROL_FDS_MAX ? realloc(c->fds, (c->n_fds + n) * sizeof(*more)) : NULL;
    if (!more) {
        for (size_t i = 0; i < n; i++)
            (void)close_fd(fds[i]);
        return -EMSGSIZE;
    }
    c->fds = more;
    memcpy(c->fds + c->n_fds, fds, n * sizeof(*fds));
    c->n_fds += n;
    return 0;
}

static void conn_read(struct conn *c)
{
    int fds[FDPASS_MAX];
    size_t n_fds = 0;
    ssize_t n = fdpass_recv(c->fd, c->control->bytes, READ_BYTES, fds, FDPASS_MAX, &n_fds);
    int r;

    if (n == -EAGAIN)
        return;
    r = keep_fds(c, fds, n_fds);
    if (n > 0 && r == 0)
        r = tlv_reader_feed(&c->reader, c->control->bytes, (size_t)n);
    if (n <= 0 || r < 0) {
        conn_close(c);
        return;
    }
    drain(c);
}

static void on_conn_io(struct loop_source *s, int fd, unsigned events, void *ud)
{
    struct conn *c = ud;

    if (events & LOOP_WRITE) {
        bool paused = out_waiting(c) >= OUT_PAUSE;

        write_out(c);
        if (paused && c->state != CONN_CLOSED && out_waiting(c) < OUT_PAUSE)
            loop_defer_arm(c->more);
    }
    if (c->state != CONN_CLOSED && (events & LOOP_READ))
        conn_read(c);
    else if (c->state != CONN_CLOSED && (events & LOOP_HANGUP))
        conn_close(c);
}

static void on_more(struct loop_source *s, void *ud)
{
    struct conn *c = ud;

    if (c->state == CONN_CLOSED)
        conn_free(c);
    else
        drain(c);
}

/* ---- accepting */

static void arm_hello(struct control *control)
{
    uint64_t first = UINT64_MAX;
    struct conn *c;

    list_foreach (c, &control->conns, link)
        if (c->state == CONN_HELLO)
            first = min_of(first, c->hello_deadline_ns);
    loop_timer_set(control->hello_timer, first);
}

static void on_hello_timer(struct loop_source *s, void *ud)
{
    struct control *control = ud;
    uint64_t now = clock_mono_ns();
    struct conn *c;

    list_foreach (c, &control->conns, link)
        if (c->state == CONN_HELLO && c->hello_deadline_ns <= now)
            conn_close(c);
    arm_hello(control);
}

int control_adopt(struct control *control, int fd)
{
    struct conn *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    c->control = control;
    c->fd = -EBADF;
    c->number = ++control->next_number;
    c->hello_deadline_ns = clock_mono_ns() + control->hello_ms * 1000000ULL;
    tlv_reader_init(&c->reader);
    buf_init(&c->out, OUT_MAX);
    list_append(&control->conns, &c->link);
    r = loop_add_defer(control->loop, on_more, c, &c->more);
    if (r == 0)
        r = loop_add_io(control->loop, fd, LOOP_READ | LOOP_HANGUP, on_conn_io, c, &c->io);
    if (r < 0) {
        conn_free(c);
        return r;
    }
    c->fd = fd;
    control->n_pending++;
    arm_hello(control);
    return 0;
}

static bool peer_is_allowed(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return false;
    return cred.uid == 0 || cred.uid == geteuid();
}

static void on_accept(struct loop_source *s, int listen_fd, unsigned events, void *ud)
{
    struct control *control = ud;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd;

        if (control->n_pending >= CONTROL_PENDING_MAX) {
            /* a burst of execs: the rest waits in the backlog until these have said hello */
            (void)loop_io_set(control->accept_io, 0);
            loop_timer_set_after_ms(control->accept_timer, ACCEPT_PAUSE_MS);
            return;
        }
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
            return;
        if (fd <
            0) { /* EMFILE and the like: the socket stays readable, so do not look for a while */
            log_limited(LOG_WARNING, "cannot accept a control connection: %s", strerror(errno));
            (void)loop_io_set(control->accept_io, 0);
            loop_timer_set_after_ms(control->accept_timer, ACCEPT_PAUSE_MS);
            return;
        }
        if (!peer_is_allowed(fd) || control_adopt(control, fd) < 0)
            (void)close_fd(fd);
    }
}

static void on_accept_timer(struct loop_source *s, void *ud)
{
    struct control *control = ud;

    (void)loop_io_set(control->accept_io, LOOP_READ);
}

int control_new(struct loop *loop, int listen_fd, const struct control_ops *ops, void *ud,
                struct control **ret)
{
    struct control *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    c->loop = loop;
    c->ops = ops;
    c->ud = ud;
    c->listen_fd = -EBADF;
    c->hello_ms = 5000;
    list_init(&c->conns);
    c->bytes = malloc(READ_BYTES);
    r = c->bytes ? fd_set_nonblock(listen_fd, 1) : -ENOMEM;
    if (r == 0)
        r = loop_add_timer(loop, on_accept_timer, c, &c->accept_timer);
    if (r == 0)
        r = loop_add_timer(loop, on_hello_timer, c, &c->hello_timer);
    if (r == 0)
        r = loop_add_io(loop, listen_fd, LOOP_READ, on_accept, c, &c->accept_io);
    if (r < 0) {
        control_free(c);
        return r;
    }
    c->listen_fd = listen_fd;
    *ret = c;
    return 0;
}

void control_free(struct control *c)
{
    if (!c)
        return;
    while (!list_is_empty(&c->conns))
        conn_free(list_first(&c->conns, struct conn, link));
    loop_remove(c->accept_io);
    loop_remove(c->accept_timer);
    loop_remove(c->hello_timer);
    (void)close_fd(c->listen_fd);
    free(c->bytes);
    free(c);
}

void control_set_hello_ms(struct control *c, uint32_t hello_ms)
{
    c->hello_ms = hello_ms;
}
