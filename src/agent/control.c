/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "agent/container.h"
#include "agent/endpoint.h"
#include "agent/region.h"
#include "agent/sandbox.h"
#include "agent/shutdown.h"
#include "agent/stats.h"
#include "agent/stream.h"
#include "agent/uevent-monitor.h"
#include "agent/volume.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/log.h"
#include "wire/message.h"

#define PROTOCOL_VERSION 1
#define OUT_MAX (2U << 20)
#define OUT_PAUSE (1U << 20)    /* replies wait: take no more requests */
#define OUT_LOG_MAX (64U << 10) /* log lines are dropped above it */
#define REQUESTS_PER_TURN 16
#define READ_BYTES 8192
#define RETRY_MS_MIN 20
#define RETRY_MS_MAX 2000

enum control_state {
    CONTROL_WAITING,    /* for the device (uevent) or the next try (timer) */
    CONTROL_CONNECTING, /* connect() is under way */
    CONTROL_OPEN,       /* hello was queued */
};

struct control {
    struct agent *agent;
    enum control_state state;
    int fd;
    struct loop_source *source, *retry, *more;
    struct uevent_waiter device;
    struct tlv_reader reader;
    struct buf out;
    uint64_t retry_ms;
    bool told_waiting;
    bool paused; /* frames may wait in reader until out is shorter */
};

static void try_connect(struct control *c);

/* ---- connection */

static void set_events(struct control *c)
{
    unsigned events = c->out.used < OUT_PAUSE ? LOOP_READ : LOOP_HANGUP;

    (void)loop_io_set(c->source, events | (c->out.used ? LOOP_WRITE : 0U));
}

static void disconnect(struct control *c, int r)
{
    if (c->state == CONTROL_OPEN)
        log_warning_errno(r, "connection to the host lost");
    loop_remove(c->source);
    c->source = NULL;
    c->fd = close_fd(c->fd);
    c->state = CONTROL_WAITING;
    tlv_reader_done(&c->reader);
    tlv_reader_init(&c->reader);
    buf_clear(&c->out);
    c->paused = false;
    loop_timer_set_after_ms(c->retry, c->retry_ms);
    c->retry_ms = c->retry_ms * 2 > RETRY_MS_MAX ? RETRY_MS_MAX : c->retry_ms * 2;
}

static void flush(struct control *c)
{
    while (c->out.used) {
        ssize_t n = send(c->fd, c->out.data, c->out.used, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            disconnect(c, -errno);
            return;
        }
        buf_consume(&c->out, (size_t)n);
    }
    if (c->paused && c->out.used < OUT_PAUSE) {
        c->paused = false;
        loop_defer_arm(c->more);
    }
    set_events(c);
}

static int queue(struct control *c, const Nexus__AgentMessage *m)
{
    int r;

    if (c->state != CONTROL_OPEN)
        return -ENOTCONN;
    r = message_write(&c->out, TLV_MESSAGE, &m->base);
    if (r == 0)
        set_events(c);
    return r;
}

static void send_hello(struct control *c)
{
    Nexus__AgentHello hello;
    Nexus__AgentMessage m;
    char version[] = NEXUS_VERSION;
    struct utsname u;

    nexus__agent_hello__init(&hello);
    nexus__agent_message__init(&m);
    hello.version = PROTOCOL_VERSION;
    hello.agent_version = version;
    if (uname(&u) == 0)
        hello.kernel_release = u.release;
    hello.boot_ns = c->agent->set.boot_ns;
    hello.early_ns = c->agent->set.early_ns;
    hello.ready_ns = clock_boot_ns();
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_HELLO;
    m.hello = &hello;
    if (queue(c, &m) == 0)
        flush(c);
    containers_flush_events(c->agent);
}

/* ---- requests */

static void reply_with(struct agent *a, uint64_t id, int r, const struct error *err,
                       ProtobufCBinaryData told)
{
    Nexus__Reply reply;
    Nexus__AgentMessage m;
    char class[32];
    char text[LIMIT_ERROR_TEXT_BYTES];

    nexus__reply__init(&reply);
    nexus__agent_message__init(&m);
    if (r < 0) {
        (void)snprintf(class, sizeof(class), "%s", error_class_name(error_class_of(err, r)));
        log_escape(text, sizeof(text), error_text(err, r), false);
        reply.error_class = class;
        reply.code = -r;
        reply.message = text;
    }
    reply.text = told;
    m.id = id;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_REPLY;
    m.reply = &reply;
    if (queue(a->control, &m) < 0)
        log_warning("the reply to request %llu is lost", (unsigned long long)id);
}

void control_reply(struct agent *a, uint64_t id, int r, const struct error *err)
{
    reply_with(a, id, r, err, (ProtobufCBinaryData){0});
}

static void tell_stats(struct agent *a, const char *container_id, uint64_t id)
{
    char told[STATS_TEXT_MAX];
    int n = stats_read(a, container_id, told);

    reply_with(a, id, n < 0 ? n : 0, NULL,
               (ProtobufCBinaryData){n < 0 ? 0 : (size_t)n, (uint8_t *)told});
}

static int signal_container(struct agent *a, const Nexus__SignalContainer *s, struct error **err)
{
    struct container *k = container_find(a, s->container_id);

    if (!k)
        return error_set(err, -ENOENT, "container %.64s does not exist", s->container_id);
    return container_signal(k, s->signal, s->all, err);
}

/* Requests that are done when the function returns; the others answer by themselves. */
static void dispatch(struct control *c, Nexus__AgentMessage *m)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct agent *a = c->agent;
    int r = 0;

    switch (m->body_case) {
    case NEXUS__AGENT_MESSAGE__BODY_CONFIGURE:
        r = sandbox_configure(a, m->configure, &err);
        break;
    case NEXUS__AGENT_MESSAGE__BODY_CREATE_CONTAINER:
        container_create(a, TAKE(m->create_container), m->id);
        m->body_case = NEXUS__AGENT_MESSAGE__BODY__NOT_SET;
        return;
    case NEXUS__AGENT_MESSAGE__BODY_SIGNAL:
        r = signal_container(a, m->signal, &err);
        break;
    case NEXUS__AGENT_MESSAGE__BODY_REMOVE_CONTAINER:
        container_remove(a, m->remove_container->container_id, m->id);
        return;
    case NEXUS__AGENT_MESSAGE__BODY_RELEASE_REGION:
        region_release(a, (struct region_place){m->release_region->gpa, m->release_region->device},
                       m->release_region->keep_device, m->id);
        return;
    case NEXUS__AGENT_MESSAGE__BODY_UPDATE_VOLUME:
        volume_update(a, m->update_volume, m->id);
        return;
    case NEXUS__AGENT_MESSAGE__BODY_GET_STATS:
        tell_stats(a, m->get_stats->container_id, m->id);
        return;
    case NEXUS__AGENT_MESSAGE__BODY_UPDATE_RESOURCES:
        r = container_limit(a, m->update_resources, &err);
        break;
    case NEXUS__AGENT_MESSAGE__BODY_SHUTDOWN:
        shutdown_begin(a, m->shutdown->grace_ms);
        break;
    case NEXUS__AGENT_MESSAGE__BODY_PING:
        break;
    case NEXUS__AGENT_MESSAGE__BODY_HELLO:
    case NEXUS__AGENT_MESSAGE__BODY_REPLY:
    case NEXUS__AGENT_MESSAGE__BODY_OOM:
    case NEXUS__AGENT_MESSAGE__BODY_LOG:
    case NEXUS__AGENT_MESSAGE__BODY__NOT_SET:
    case _NEXUS__AGENT_MESSAGE__BODY__CASE_IS_INT_SIZE:
    default:
        r = error_set(&err, -EOPNOTSUPP, "request %d is not known here", (int)m->body_case);
        break;
    }
    control_reply(a, m->id, r, err);
}

static int on_frame(struct control *c, const struct tlv_frame *f)
{
    Nexus__AgentMessage *m;

    if (f->type != TLV_MESSAGE)
        return -EPROTO;
    m = (void *)message_unpack(&nexus__agent_message__descriptor, f->value, f->len);
    if (!m)
        return -EBADMSG;
    dispatch(c, m);
    message_free(&m->base);
    return 0;
}

/* Frames that came, a bounded number of them. False: the connection is gone. */
static bool take_frames(struct control *c)
{
    struct tlv_frame f;
    int r = 1;

    for (int n = 0; n < REQUESTS_PER_TURN && c->out.used < OUT_PAUSE; n++) {
        r = tlv_reader_next(&c->reader, &f);
        if (r <= 0)
            break;
        r = on_frame(c, &f);
        if (r < 0)
            break;
        r = 1;
    }
    if (r < 0) {
        disconnect(c, r);
        return false;
    }
    c->paused = c->out.used >= OUT_PAUSE;
    if (r > 0 && !c->paused)
        loop_defer_arm(c->more);
    return true;
}

static void on_more(struct loop_source *s, void *userdata)
{
    struct control *c = userdata;

    if (c->state == CONTROL_OPEN && take_frames(c))
        flush(c);
}

static void on_readable(struct control *c)
{
    uint8_t bytes[READ_BYTES];
    ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    int r;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    r = n < 0 ? -errno : n == 0 ? -ECONNRESET : tlv_reader_feed(&c->reader, bytes, (size_t)n);
    if (r < 0)
        disconnect(c, r);
    else
        (void)take_frames(c);
}

static void on_connected(struct control *c)
{
    int r = endpoint_finish_connect(c->fd);

    if (r < 0) {
        log_warning_errno(r, "connect to the host");
        disconnect(c, r);
        return;
    }
    c->state = CONTROL_OPEN;
    c->retry_ms = RETRY_MS_MIN;
    send_hello(c);
}

static void on_io(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct control *c = userdata;

    if (c->state == CONTROL_CONNECTING) {
        on_connected(c);
        return;
    }
    if (events & LOOP_READ)
        on_readable(c);
    else if (events & LOOP_HANGUP)
        disconnect(c, -ECONNRESET);
    if (c->state != CONTROL_OPEN || c->source != s)
        return;
    flush(c);
    if (c->state == CONTROL_OPEN)
        containers_flush_events(c->agent);
}

static void on_device(void *userdata)
{
    struct control *c = userdata;

    if (c->state == CONTROL_WAITING)
        try_connect(c);
}

static void on_retry(struct loop_source *s, void *userdata)
{
    on_device(userdata);
}

static void try_connect(struct control *c)
{
    /* hello says that streams may come: listen before it */
    int r = c->agent->listen_fd < 0 ? stream_listen(c->agent) : 0;
    int fd = r < 0 ? r : endpoint_connect(c->agent);

    if (fd == -ENODEV || fd == -EADDRNOTAVAIL) {
        if (!c->told_waiting)
            log_notice("waiting for the vsock device");
        c->told_waiting = true;
        uevent_wait(c->agent, &c->device);
        return;
    }
    if (fd < 0) {
        log_warning_errno(fd, "connect to the host");
        loop_timer_set_after_ms(c->retry, c->retry_ms);
        c->retry_ms = c->retry_ms * 2 > RETRY_MS_MAX ? RETRY_MS_MAX : c->retry_ms * 2;
        return;
    }
    c->fd = fd;
    c->state = CONTROL_CONNECTING;
    r = loop_add_io(c->agent->loop, fd, LOOP_WRITE, on_io, c, &c->source);
    if (r < 0)
        disconnect(c, r);
}

int control_start(struct agent *a)
{
    struct control *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    a->control = c;
    c->agent = a;
    c->fd = -EBADF;
    c->retry_ms = RETRY_MS_MIN;
    c->device.fn = on_device;
    c->device.userdata = c;
    tlv_reader_init(&c->reader);
    buf_init(&c->out, OUT_MAX);
    r = loop_add_timer(a->loop, on_retry, c, &c->retry);
    if (r == 0)
        r = loop_add_defer(a->loop, on_more, c, &c->more);
    if (r == 0)
        try_connect(c);
    return r;
}

void control_free(struct control *c)
{
    if (!c)
        return;
    loop_remove(c->source);
    loop_remove(c->retry);
    loop_remove(c->more);
    uevent_wait_no_more(&c->device);
    (void)close_fd(c->fd);
    tlv_reader_done(&c->reader);
    buf_done(&c->out);
    free(c);
}

/* ---- events */

bool control_send_oom(struct agent *a, const char *container_id)
{
    Nexus__OomEvent oom;
    Nexus__AgentMessage m;
    char id[LIMIT_ID_MAX + 1];

    nexus__oom_event__init(&oom);
    nexus__agent_message__init(&m);
    (void)snprintf(id, sizeof(id), "%s", container_id);
    oom.container_id = id;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_OOM;
    m.oom = &oom;
    return a->control->out.used < OUT_PAUSE && queue(a->control, &m) == 0;
}

void control_send_log(struct agent *a, uint32_t level, const char *text)
{
    Nexus__GuestLog line;
    Nexus__AgentMessage m;
    char copy[1024];

    nexus__guest_log__init(&line);
    nexus__agent_message__init(&m);
    if (!a->control || a->control->state != CONTROL_OPEN || a->control->out.used > OUT_LOG_MAX)
        return;
    (void)snprintf(copy, sizeof(copy), "%s", text);
    line.level = level;
    line.text = copy;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_LOG;
    m.log = &line;
    (void)queue(a->control, &m);
}
