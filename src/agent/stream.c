/* SPDX-License-Identifier: Apache-2.0 */
/* What happens on a stream, in one place: every callback does its piece of work and ends with
 * progress(), which decides what is over and what is watched next (and may free the stream). */
#include "agent/stream.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "agent/endpoint.h"
#include "agent/termination.h"
#include "base/le.h"
#include "base/limit.h"
#include "base/log.h"
#include "wire/message.h"

#define STREAMS_MAX 512
#define OPEN_DEADLINE_MS 10000 /* for a whole first frame */
#define IDLE_MAX 4             /* connections in reserve; more have the same time to begin */
#define READ_BYTES 8192
#define FRAMES_PER_TURN 16
#define ACCEPTS_PER_TURN 16
#define DRAIN_BUDGET (1U << 20) /* a pipe holds no more */
#define EXIT_START_FAILED 128

static void progress(struct stream *s);
static void set_events(struct stream *s);

/* A forward that does not stand yet. */
static bool is_connecting(const struct stream *s)
{
    return s->is_forward && s->state == STREAM_STARTING;
}

/* ---- ends */

static void end_close(struct stream_end *e)
{
    loop_remove(e->source);
    e->source = NULL;
    e->fd = close_fd(e->fd);
}

/* What belongs to one process, its end included. */
static void drop_process(struct stream *s)
{
    process_forget(s->process);
    if (!s->is_exec && s->container && s->container->termination)
        termination_follow(s->container->termination, NULL, NULL);
    cgroup_reaper_forget(s->reaper);
    if (s->cgroup)
        (void)cgroup_reap(s->agent, TAKE(s->cgroup), NULL, NULL); /* nothing survives it */
    end_close(&s->in);
    end_close(&s->out);
    end_close(&s->err);
    (void)close_fd(s->held_out);
    (void)close_fd(s->held_err);
    loop_remove(s->status_source);
    (void)close_fd(s->status_fd);
    pump_done(&s->pump);
    list_remove(&s->container_link);
}

static void set_idle(struct stream *s, bool idle)
{
    if (s->idle != idle)
        s->agent->n_idle_streams += idle ? 1U : -1U;
    s->idle = idle;
}

static void stream_free(struct stream *s)
{
    set_idle(s, false);
    drop_process(s);
    loop_remove(s->timer);
    loop_remove(s->source);
    (void)close_fd(s->fd);
    tlv_reader_done(&s->reader);
    list_remove(&s->link);
    s->agent->n_streams--;
    free(s);
}

void streams_free(struct agent *a)
{
    while (!list_is_empty(&a->streams))
        stream_free(list_first(&a->streams, struct stream, link));
}

void stream_container_gone(struct stream *s)
{
    list_remove(&s->container_link);
    s->container = NULL;
}

/* ---- frames to the peer */

static void queue_message(struct stream *s, uint8_t type, const ProtobufCMessage *m)
{
    int r = s->peer_gone ? 0 : message_write(&s->pump.out, type, m);

    if (r < 0) /* there is room beside the data frames: memory is out */
        log_warning_errno(r, "a frame of type %u is lost", type);
}

static void queue_error(struct stream *s, int exit_code, int r, const char *class, const char *text)
{
    Nexus__Reply reply;
    Nexus__StreamError e;
    char class_copy[32], clean[LIMIT_ERROR_TEXT_BYTES];

    nexus__reply__init(&reply);
    nexus__stream_error__init(&e);
    (void)snprintf(class_copy, sizeof(class_copy), "%s", class);
    log_escape(clean, sizeof(clean), text, false);
    reply.error_class = class_copy;
    reply.code = r < 0 ? -r : r;
    reply.message = clean;
    e.reply = &reply;
    e.exit_code = exit_code;
    queue_message(s, TLV_ERROR, &e.base);
    s->state = STREAM_CLOSING;
    s->keep = false;
}

static void send_out(struct stream *s)
{
    struct buf *out = &s->pump.out;

    if (s->peer_gone)
        buf_clear(out);
    while (out->used) {
        ssize_t n = send(s->fd, out->data, out->used, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            s->peer_gone = true;
        if (n < 0)
            return;
        buf_consume(out, (size_t)n);
    }
}

static int watch_status(struct stream *s);
static void read_status(struct stream *s);
static void started(struct stream *s);
static int watch_ends(struct stream *s);

/* ---- output of the process */

static void end_eof(struct stream_end *e)
{
    end_close(e);
    if (e->stream->state == STREAM_RUNNING && pump_space(&e->stream->pump))
        pump_commit(&e->stream->pump, e->tlv_type, 0);
}

static void read_output(struct stream_end *e)
{
    struct pump *p = &e->stream->pump;

    for (int n = 0; n < FRAMES_PER_TURN; n++) {
        uint8_t *at = pump_space(p);
        size_t want = e->budget < LIMIT_TLV_DATA_BYTES ? e->budget : LIMIT_TLV_DATA_BYTES;
        ssize_t got;

        if (!at)
            return; /* the peer is slow: the process waits */
        got = want ? read(e->fd, at, want) : 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN) {
            if (e->stream->drained)
                end_eof(e);
            return;
        }
        if (got < 0 && e->stream->is_forward) { /* reset: both ways */
            e->stream->exit.code = 1;
            end_close(&e->stream->in);
        }
        if (got <= 0) { /* EIO: a terminal without a process */
            end_eof(e);
            return;
        }
        if (e->stream->drained)
            e->budget -= (size_t)got;
        if (e->stream->peer_gone)
            continue; /* nobody to tell */
        pump_commit(p, e->tlv_type, (size_t)got);
    }
}

static void on_output(struct loop_source *src, int fd, unsigned events, void *userdata)
{
    struct stream_end *e = userdata;
    struct stream *s = e->stream;

    if (s->state == STREAM_STARTING) { /* late_start: it is the program that writes */
        read_status(s);
        if (s->state == STREAM_STARTING && watch_status(s) < 0)
            s->peer_gone = true;
    }
    if (s->state == STREAM_RUNNING)
        read_output(e);
    progress(s);
}

/* ---- input of the process */

static void end_input(struct stream *s)
{
    if (s->is_forward) /* the other half goes on */
        (void)shutdown(s->in.fd, SHUT_WR);
    end_close(&s->in);
}

static void write_input(struct stream *s)
{
    struct buf *b = &s->pump.input;

    while (b->used && s->in.fd >= 0) {
        ssize_t n = write(s->in.fd, b->data, b->used);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            end_close(&s->in); /* it does not read any more: no error of the stream */
        else
            buf_consume(b, (size_t)n);
    }
    if (s->in.fd < 0)
        buf_clear(b);
    /* the end of a terminal's input is a character, which the peer sends */
    else if (b->used == 0 && s->pump.input_eof && !s->tty)
        end_input(s);
}

/* The connection of a forward stands, or ::1 is tried, or it fails. */
static void on_connected(struct stream *s)
{
    int r = stream_connected(s);

    if (r > 0) {
        started(s);
        return;
    }
    if (r < 0 && !s->second) {
        _cleanup_(error_freep) struct error *err = NULL;

        end_close(&s->in);
        end_close(&s->out);
        s->second = true;
        if (stream_connect(s, &err) == 0) /* else the first failure is the one to tell */
            r = watch_ends(s);
    }
    if (r < 0)
        queue_error(s, EXIT_START_FAILED, r, error_class_name(error_class_from_errno(r)),
                    strerror(-r));
}

static void on_input(struct loop_source *src, int fd, unsigned events, void *userdata)
{
    struct stream_end *e = userdata;

    if (is_connecting(e->stream))
        on_connected(e->stream);
    else if ((events & LOOP_HANGUP) && !e->stream->tty)
        end_close(e); /* the reading end is closed */
    if (!is_connecting(e->stream))
        write_input(e->stream);
    progress(e->stream);
}

/* ---- last words */

static bool queue_termination(struct stream *s)
{
    const uint8_t *bytes;
    size_t len;

    if (!termination_read(s->container->termination, &bytes, &len))
        return false;
    if (tlv_write(&s->pump.out, TLV_TERMINATION, bytes, len) < 0)
        log_warning("container %s: its termination log is not told", s->container->spec->id);
    return true;
}

static bool on_termination(void *userdata)
{
    struct stream *s = userdata;
    bool told;

    if (s->peer_gone || s->state != STREAM_RUNNING)
        return false; /* nobody to tell */
    if (!pump_has_room(&s->pump))
        return true; /* later */
    told = queue_termination(s);
    if (told) {
        send_out(s);
        set_events(s);
    }
    return told;
}

/* What a container wrote before it died must not wait for anything. */
static void last_termination(struct stream *s)
{
    if (s->is_exec || !s->container || !s->container->termination)
        return;
    termination_follow(s->container->termination, NULL, NULL);
    if (!s->peer_gone)
        (void)queue_termination(s);
}

/* ---- start */

static int watch(struct stream *s, int fd, loop_io_fn fn, void *userdata, struct loop_source **ret)
{
    return fd < 0 ? 0 : loop_add_io(s->agent->loop, fd, 0, fn, userdata, ret);
}

static int watch_ends(struct stream *s)
{
    int r = watch(s, s->in.fd, on_input, &s->in, &s->in.source);

    if (r == 0)
        r = watch(s, s->out.fd, on_output, &s->out, &s->out.source);
    if (r == 0)
        r = watch(s, s->err.fd, on_output, &s->err, &s->err.source);
    return r;
}

static void started(struct stream *s)
{
    Nexus__StreamStarted m;
    Nexus__Identity user;

    nexus__stream_started__init(&m);
    nexus__identity__init(&user);
    m.pid = s->process ? (uint32_t)s->process->pid : 0;
    if (!s->is_exec && !s->is_forward) {
        const struct user_identity *id = container_identity(s->container);
        user.uid = id->uid;
        user.gid = id->gid;
        user.groups = (uint32_t *)(uintptr_t)id->groups; /* only read */
        user.n_groups = id->n_groups < LIMIT_GROUPS_TOLD ? id->n_groups : LIMIT_GROUPS_TOLD;
        m.user = &user;
    }
    s->state = STREAM_RUNNING;
    queue_message(s, TLV_MESSAGE, &m.base);
    if (s->is_exec || s->is_forward)
        return;
    log_info("container %s: started", s->container->spec->id);
    if (s->container->termination)
        termination_follow(s->container->termination, on_termination, s);
}

/* What the child said: nothing and the end (it is the program), or why it is not. */
static void read_status(struct stream *s)
{
    struct child_failure f;
    ssize_t n = read(s->status_fd, &f, sizeof(f));

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    loop_remove(s->status_source);
    s->status_source = NULL;
    s->status_fd = close_fd(s->status_fd);
    if (n == 0) {
        started(s);
        return;
    }
    if (n != (ssize_t)sizeof(f)) {
        queue_error(s, EXIT_START_FAILED, -EIO, "internal", "the child said something odd");
        return;
    }
    f.text[sizeof(f.text) - 1] = '\0';
    queue_error(s, f.exit_code, -f.error_code, error_class_name((enum error_class)f.error_class),
                f.text);
}

static void on_status(struct loop_source *src, int fd, unsigned events, void *userdata)
{
    struct stream *s = userdata;

    read_status(s);
    progress(s);
}

/* From now on a start is told as soon as it is known. */
static int watch_status(struct stream *s)
{
    s->late_start = false;
    return loop_add_io(s->agent->loop, s->status_fd, LOOP_READ, on_status, s, &s->status_source);
}

static void open_stream(struct stream *s, const struct tlv_frame *f)
{
    _cleanup_(error_freep) struct error *err = NULL;
    Nexus__StreamOpen *m = NULL;
    int r;

    loop_timer_set(s->timer, UINT64_MAX);
    if (f->type == TLV_MESSAGE)
        m = (void *)message_unpack(&nexus__stream_open__descriptor, f->value, f->len);
    r = m ? stream_start(s, m, &err) : error_set(&err, -EBADMSG, "no StreamOpen");
    if (m)
        message_free(&m->base);
    if (r == 0) {
        s->state = STREAM_STARTING;
        r = watch_ends(s);
        if (r == 0 && !s->late_start && !s->is_forward)
            r = watch_status(s);
        if (r < 0)
            r = error_set(&err, r, "watch the streams");
    }
    if (r < 0)
        queue_error(s, EXIT_START_FAILED, r, error_class_name(error_class_of(err, r)),
                    error_text(err, r));
}

/* ---- end */

/* What the process has left in its pipes; their end too, if nothing else holds them. */
static void read_rest(struct stream *s)
{
    s->held_out = close_fd(s->held_out);
    s->held_err = close_fd(s->held_err);
    if (s->state != STREAM_RUNNING)
        return;
    if (s->out.fd >= 0)
        read_output(&s->out);
    if (s->err.fd >= 0)
        read_output(&s->err);
}

void stream_process_ended(struct stream *s, int wait_status)
{
    bool oom;

    if (s->state == STREAM_STARTING)
        read_status(s); /* it was still to be read */
    if (s->state == STREAM_STARTING)
        queue_error(s, EXIT_START_FAILED, -EIO, "internal", "the child ended without a word");
    s->process = NULL;
    nexus__exit_info__init(&s->exit);
    s->exit.code = process_exit_code(wait_status, &s->exit.signal);
    if (s->is_exec)
        oom = s->exit.signal == 9 && s->container && s->container->cgroup &&
              cgroup_oom_kills(s->container->cgroup) > s->oom_before;
    else
        oom = container_ended(s->container);
    s->exit.oom_killed = oom;
    s->exited = true;
    loop_timer_set_after_ms(s->timer, LIMIT_EXEC_DRAIN_MS);
    read_rest(s);
    progress(s);
}

/* Opening took too long, or the drain time is over: what still holds the output open is killed, and
 * what is in the pipes by now is the last. */
static void on_timer(struct loop_source *src, void *userdata)
{
    struct stream *s = userdata;

    if (s->state == STREAM_OPENING) {
        if (!s->idle || s->agent->n_idle_streams > IDLE_MAX)
            stream_free(s);
        return;
    }
    if (s->state != STREAM_RUNNING)
        return;
    if (s->reaper) {
        log_warning("a process of an exec cannot be killed");
        s->alone = true;
    }
    if (s->cgroup)
        (void)cgroup_kill(s->cgroup);
    s->drained = true;
    s->out.budget = s->err.budget = DRAIN_BUDGET;
    if (s->out.fd >= 0)
        read_output(&s->out);
    if (s->err.fd >= 0)
        read_output(&s->err);
    progress(s);
}

static void on_alone(void *userdata)
{
    struct stream *s = userdata;
    bool waited = s->reaper != NULL;

    s->reaper = NULL;
    s->alone = true;
    if (waited) /* else cgroup_reap has not even returned */
        progress(s);
}

/* To make one and to remove it takes the kernel as long as to start a program: one that is as good as new
 * is the container's next exec's. */
static bool pass_on_cgroup(struct stream *s)
{
    struct container *k = s->container;

    if (!k || k->state != CONTAINER_RUNNING || k->exec_cgroup || !cgroup_is_clean(s->cgroup))
        return false;
    k->exec_cgroup = TAKE(s->cgroup);
    s->alone = true;
    return true;
}

/* EXIT is the last word: first nothing of the exec may be alive. */
static void finish_if_over(struct stream *s)
{
    if (s->is_forward && s->in.fd < 0)
        s->exited = true;
    if (s->state != STREAM_RUNNING || !s->exited || s->out.fd >= 0 || s->err.fd >= 0)
        return;
    if (s->cgroup && !pass_on_cgroup(s)) {
        loop_timer_set_after_ms(s->timer, LIMIT_EXEC_DRAIN_MS);
        s->reaper = cgroup_reap(s->agent, TAKE(s->cgroup), on_alone, s);
    }
    if (s->is_exec && !s->alone)
        return;
    last_termination(s);
    queue_message(s, TLV_EXIT, &s->exit.base);
    s->state = STREAM_CLOSING;
}

/* ---- frames from the peer */

static void on_resize(struct stream *s, const struct tlv_frame *f)
{
    struct winsize w = {.ws_col = be16_load(f->value), .ws_row = be16_load(f->value + 2)};

    if (s->tty && s->out.fd >= 0)
        (void)ioctl(s->out.fd, TIOCSWINSZ, &w);
}

static void on_signal(struct stream *s, const struct tlv_frame *f)
{
    uint32_t signal = be32_load(f->value);

    if (signal >= 1 && signal <= 64 && s->process)
        (void)process_signal(s->process, (int)signal);
}

static int on_frame(struct stream *s, const struct tlv_frame *f)
{
    int r;

    if (s->state == STREAM_OPENING) {
        open_stream(s, f);
        return 0;
    }
    switch (f->type) {
    case TLV_STDIN:
        if (s->state == STREAM_CLOSING || s->in.fd < 0)
            return 0;
        r = pump_input(&s->pump, f->value, f->len);
        return r == -EPIPE ? 0 : r;
    case TLV_RESIZE:
    case TLV_SIGNAL:
        if (f->len != 4)
            return -EPROTO;
        if (f->type == TLV_RESIZE)
            on_resize(s, f);
        else
            on_signal(s, f);
        return 0;
    default:
        return -EPROTO;
    }
}

static void take_frames(struct stream *s)
{
    struct tlv_frame f;
    int r = 0;

    while (!s->peer_gone && pump_wants_input(&s->pump)) {
        r = tlv_reader_next(&s->reader, &f);
        if (r > 0)
            r = on_frame(s, &f) < 0 ? -EPROTO : 1;
        if (r <= 0)
            break;
    }
    if (r < 0) {
        log_limited(LOG_WARNING, "a stream of the host broke the protocol");
        s->peer_gone = true;
    }
    if (s->state != STREAM_STARTING) /* not before it is known to be the program */
        write_input(s);
}

/* The first bytes are here: the rest of the frame has a time limit. */
static void expect_open(struct stream *s)
{
    set_idle(s, false);
    loop_timer_set_after_ms(s->timer, OPEN_DEADLINE_MS);
}

static void on_connection(struct loop_source *src, int fd, unsigned events, void *userdata)
{
    struct stream *s = userdata;
    uint8_t bytes[READ_BYTES];
    ssize_t n;

    if ((events & LOOP_READ) && pump_wants_input(&s->pump)) {
        n = recv(s->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            s->peer_gone = true;
        else if (n > 0 && tlv_reader_feed(&s->reader, bytes, (size_t)n) < 0)
            s->peer_gone = true;
        if (s->idle && !s->peer_gone && n > 0)
            expect_open(s);
    } else if (events & LOOP_HANGUP) {
        s->peer_gone = true;
    }
    progress(s);
}

/* ---- what is next */

static void set_events(struct stream *s)
{
    bool reads = pump_wants_input(&s->pump);
    bool talks = s->state == STREAM_RUNNING || (s->state == STREAM_STARTING && s->late_start);
    bool room = talks && pump_has_room(&s->pump);

    if (s->source)
        (void)loop_io_set(s->source,
                          (reads ? LOOP_READ : LOOP_HANGUP) | (s->pump.out.used ? LOOP_WRITE : 0U));
    if (s->out.source)
        (void)loop_io_set(s->out.source, room ? LOOP_READ : 0U);
    if (s->err.source)
        (void)loop_io_set(s->err.source, room ? LOOP_READ : 0U);
    if (s->in.source)
        (void)loop_io_set(s->in.source, s->pump.input.used || is_connecting(s) ? LOOP_WRITE : 0U);
}

/* A container's end must be seen by somebody: the stream of its start stays for it. */
static bool must_stay(const struct stream *s)
{
    return s->process && !s->is_exec;
}

static void drop_connection(struct stream *s)
{
    if (!s->source)
        return;
    if (s->state != STREAM_CLOSING)
        log_warning("container %s: the host left its stream; output is discarded",
                    s->container->spec->id);
    loop_remove(s->source);
    s->source = NULL;
    s->fd = close_fd(s->fd);
}

/* Nothing of a process: before the first one, and before each other. */
static void set_opening(struct stream *s)
{
    s->state = STREAM_OPENING;
    s->container = NULL;
    s->is_exec = s->is_forward = s->second = s->tty = s->late_start = s->keep = false;
    nexus__exit_info__init(&s->exit);
    s->status_fd = s->held_out = s->held_err = -EBADF;
    s->status_source = NULL;
    s->in = (struct stream_end){.stream = s, .fd = -EBADF, .tlv_type = TLV_STDIN};
    s->out =
        (struct stream_end){.stream = s, .fd = -EBADF, .tlv_type = TLV_STDOUT, .budget = SIZE_MAX};
    s->err =
        (struct stream_end){.stream = s, .fd = -EBADF, .tlv_type = TLV_STDERR, .budget = SIZE_MAX};
    s->process = NULL;
    s->cgroup = NULL;
    s->reaper = NULL;
    s->exited = s->drained = s->alone = false;
    pump_init(&s->pump);
    set_idle(s, true);
    loop_timer_set(s->timer, UINT64_MAX);
    if (s->agent->n_idle_streams > IDLE_MAX)
        loop_timer_set_after_ms(s->timer, OPEN_DEADLINE_MS);
}

/* The last frame is sent. */
static void end_stream(struct stream *s)
{
    if (!s->keep || !tlv_reader_is_empty(&s->reader)) {
        stream_free(s);
        return;
    }
    drop_process(s);
    set_opening(s);
    set_events(s);
}

static void progress(struct stream *s)
{
    take_frames(s);
    finish_if_over(s);
    send_out(s);
    if (!must_stay(s) && s->peer_gone) {
        stream_free(s);
        return;
    }
    if (!must_stay(s) && s->state == STREAM_CLOSING && s->pump.out.used == 0) {
        end_stream(s);
        return;
    }
    if (s->peer_gone)
        drop_connection(s);
    set_events(s);
}

/* ---- accept */

static void stream_new(struct agent *a, int fd)
{
    struct stream *s = a->n_streams < STREAMS_MAX ? calloc(1, sizeof(*s)) : NULL;
    int r;

    if (!s) {
        log_limited(LOG_WARNING, "a stream was refused: %u are open", a->n_streams);
        (void)close(fd);
        return;
    }
    if (loop_add_timer(a->loop, on_timer, s, &s->timer) < 0) {
        (void)close(fd);
        free(s);
        return;
    }
    s->agent = a;
    s->fd = fd;
    tlv_reader_init(&s->reader);
    list_init(&s->container_link);
    list_append(&a->streams, &s->link);
    a->n_streams++;
    set_opening(s);
    r = loop_add_io(a->loop, fd, LOOP_READ, on_connection, s, &s->source);
    if (r < 0)
        stream_free(s);
}

static void on_listen(struct loop_source *src, int fd, unsigned events, void *userdata)
{
    struct agent *a = userdata;

    for (int n = 0; n < ACCEPTS_PER_TURN; n++) {
        int c = endpoint_accept(a, fd);

        if (c == -EPERM || c == -ECONNABORTED) {
            log_limited(LOG_WARNING, "a connection that is not the host's was refused");
            continue;
        }
        if (c < 0)
            return;
        stream_new(a, c);
    }
}

int stream_listen(struct agent *a)
{
    a->listen_fd = endpoint_listen(a);
    if (a->listen_fd < 0)
        return a->listen_fd;
    return loop_add_io(a->loop, a->listen_fd, LOOP_READ, on_listen, a, &a->listen_source);
}
