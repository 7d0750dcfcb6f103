/* SPDX-License-Identifier: Apache-2.0 */
/* Start at on_data → dispatch. */
#include "vmm/agent-link.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/list.h"
#include "event/loop.h"
#include "wire/message.h"
#include "wire/reply.h"

#define FEED_BYTES 4096U   /* the reader holds one frame and one feed at most */
#define OUT_MAX (4U << 20) /* a few largest requests */
#define UNASKED_BURST 1024 /* hello, events */
#define UNASKED_PER_SECOND 256
#define NS_PER_SECOND 1000000000ULL

struct request {
    struct list link;
    uint64_t id;
    uint64_t sent_ns;     /* monotonic */
    uint64_t deadline_ns; /* monotonic; UINT64_MAX: none, or it has passed (fn is NULL then) */
    agent_reply_fn fn;    /* NULL: nobody asked, or timed out */
    void *ud;
    bool ping;
};

struct agent_link {
    struct loop *loop;
    const struct transport *transport;
    const struct agent_link_ops *ops;
    void *ud;
    struct transport_conn *conn; /* NULL: none yet, or over */
    bool shut;                   /* one said hello or broke a rule: no further one is taken */
    bool ready;                  /* said hello */
    struct tlv_reader reader;
    struct buf out;
    size_t out_done;
    struct list requests; /* in the order sent */
    size_t n_requests;
    uint64_t next_id;
    struct loop_source *deadline_timer, *ping_timer;
    uint32_t ping_ms;
    unsigned misses;     /* pings sent since the last one that was answered */
    unsigned unasked;    /* tokens left */
    uint64_t unasked_ns; /* when they were last refilled */
    uint64_t received;
    ProtobufCBinaryData text; /* borrowed from the answer whose fn runs */
    uint64_t ping_ns;         /* there and back, the last one that was answered */
};

static void arm_deadline(struct agent_link *link)
{
    uint64_t first = UINT64_MAX;
    struct request *q;

    list_foreach (q, &link->requests, link)
        first = min_of(first, q->deadline_ns);
    loop_timer_set(link->deadline_timer, first);
}

static void request_free(struct agent_link *link, struct request *q)
{
    list_remove(&q->link);
    link->n_requests--;
    free(q);
}

/* Ends the connection and everything that waits on it. Requests are told after the link is marked
 * over, so that a callback that sends again gets -ENOTCONN. */
static void end(struct agent_link *link, bool close)
{
    struct transport_conn *c = TAKE(link->conn);

    link->ready = false;
    loop_timer_set(link->deadline_timer, UINT64_MAX);
    loop_timer_set(link->ping_timer, UINT64_MAX);
    tlv_reader_done(&link->reader);
    buf_done(&link->out);
    link->out_done = 0;
    if (c && close)
        link->transport->conn_close(c);
    while (!list_is_empty(&link->requests)) {
        struct request *q = list_first(&link->requests, struct request, link);
        agent_reply_fn fn = q->fn;
        void *ud = q->ud;

        request_free(link, q);
        if (fn) {
            _cleanup_(error_freep) struct error *err = NULL;
            int r = error_set(&err, -ECONNRESET, "the connection to the guest agent is lost");

            fn(ud, r, err);
        }
    }
}

static void violate(struct agent_link *link, const char *what)
{
    link->shut = true;
    end(link, /* close= */ true);
    link->ops->on_violation(link->ud, what);
}

static void write_out(struct agent_link *link)
{
    while (link->conn && link->out_done < link->out.used) {
        size_t n = link->transport->conn_write(link->conn, link->out.data + link->out_done,
                                               link->out.used - link->out_done);

        if (n == 0)
            return;
        link->out_done += n;
    }
    if (link->conn) {
        buf_done(&link->out); /* idle links hold no memory */
        link->out_done = 0;
    }
}

static int send_message(struct agent_link *link, const Nexus__AgentMessage *m)
{
    int r;

    if (link->out_done && link->out.used > OUT_MAX / 2) {
        buf_consume(&link->out, link->out_done);
        link->out_done = 0;
    }
    r = message_write(&link->out, TLV_MESSAGE, &m->base);
    if (r == 0)
        write_out(link);
    return r;
}

static int open_request(struct agent_link *link, Nexus__AgentMessage *m, uint32_t timeout_ms,
                        struct request **ret)
{
    struct request *q;
    int r;

    if (!link->conn || !link->ready)
        return -ENOTCONN;
    if (link->n_requests >= LIMIT_AGENT_REQUESTS)
        return -EAGAIN;
    q = calloc(1, sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->id = m->id = ++link->next_id;
    q->sent_ns = clock_mono_ns();
    r = send_message(link, m);
    if (r < 0) {
        free(q);
        return r;
    }
    q->deadline_ns =
        timeout_ms == AGENT_NO_TIMEOUT ? UINT64_MAX : q->sent_ns + timeout_ms * 1000000ULL;
    list_append(&link->requests, &q->link);
    link->n_requests++;
    *ret = q;
    return 0;
}

int agent_link_request(struct agent_link *link, Nexus__AgentMessage *m, uint32_t timeout_ms,
                       agent_reply_fn fn, void *ud)
{
    struct request *q = NULL;
    int r = open_request(link, m, timeout_ms, &q);

    if (r < 0)
        return r;
    q->fn = fn;
    q->ud = ud;
    arm_deadline(link);
    return 0;
}

static void on_deadline(struct loop_source *s, void *ud)
{
    struct agent_link *link = ud;
    uint64_t now = clock_mono_ns();
    bool again = true;

    while (again) {
        struct request *q;

        again = false;
        list_foreach (q, &link->requests, link) {
            agent_reply_fn fn = q->fn;

            if (q->deadline_ns > now)
                continue;
            q->deadline_ns = UINT64_MAX;
            q->fn = NULL;
            if (!fn)
                continue;
            _cleanup_(error_freep) struct error *err = NULL;
            int r = error_set(&err, -ETIMEDOUT, "in guest: the agent did not answer in time");

            fn(q->ud, r, err); /* may change the list: walk it anew */
            again = true;
            break;
        }
    }
    arm_deadline(link);
}

int agent_link_ping(struct agent_link *link, uint32_t timeout_ms, agent_reply_fn fn, void *ud)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__Ping ping = NEXUS__PING__INIT;
    struct request *q = NULL;
    int r;

    m.body_case = NEXUS__AGENT_MESSAGE__BODY_PING;
    m.ping = &ping;
    r = open_request(link, &m, timeout_ms, &q);
    if (r < 0)
        return r;
    q->ping = true;
    q->fn = fn;
    q->ud = ud;
    arm_deadline(link);
    return 0;
}

static void on_ping_timer(struct loop_source *s, void *ud)
{
    struct agent_link *link = ud;

    if (link->misses >= LIMIT_AGENT_PING_MISSES) {
        violate(link, "agent unresponsive: pings are not answered");
        return;
    }
    link->misses++; /* taken back by an answer to any of them */
    (void)agent_link_ping(link, link->ping_ms, NULL, NULL); /* a full queue is a miss as well */
    loop_timer_set_after_ms(link->ping_timer, link->ping_ms);
}

/* True if the agent may send one more message nobody asked for. */
static bool take_token(struct agent_link *link)
{
    uint64_t now = clock_mono_ns();
    uint64_t more = (now - link->unasked_ns) / (NS_PER_SECOND / UNASKED_PER_SECOND);

    if (more) {
        link->unasked = (unsigned)min_of((uint64_t)UNASKED_BURST, link->unasked + more);
        link->unasked_ns = now;
    }
    if (link->unasked == 0)
        return false;
    link->unasked--;
    return true;
}

/* Each returns what rule was broken, or NULL. */
static const char *on_hello(struct agent_link *link, const Nexus__AgentHello *hello)
{
    if (link->ready)
        return "a second hello";
    if (hello->version != AGENT_PROTOCOL_VERSION)
        return "the agent speaks another protocol version";
    link->ready = link->shut = true;
    loop_timer_set_after_ms(link->ping_timer, link->ping_ms);
    link->ops->on_hello(link->ud, hello);
    return NULL;
}

static const char *on_reply(struct agent_link *link, uint64_t id, const Nexus__Reply *reply)
{
    struct request *q;

    list_foreach (q, &link->requests, link) {
        _cleanup_(error_freep) struct error *err = NULL;
        agent_reply_fn fn = q->fn;
        void *ud = q->ud;

        if (q->id != id)
            continue;
        if (q->ping) {
            link->misses = 0;
            link->ping_ns = clock_mono_ns() - q->sent_ns;
        }
        request_free(link, q);
        arm_deadline(link);
        if (fn) {
            int r = reply_to_error(reply, &err);

            link->text = reply->text;
            fn(ud, r, err);
            link->text = (ProtobufCBinaryData){0};
        }
        return NULL;
    }
    return "an answer to no open request";
}

static const char *dispatch_message(struct agent_link *link, const Nexus__AgentMessage *m)
{
    bool unasked = m->body_case != NEXUS__AGENT_MESSAGE__BODY_REPLY;

    if (unasked && m->id != 0)
        return "an event with a request's id";
    if (unasked && !take_token(link))
        return "too many messages";
    if (!link->ready && m->body_case != NEXUS__AGENT_MESSAGE__BODY_HELLO)
        return "the first message is no hello";
    switch (m->body_case) {
    case NEXUS__AGENT_MESSAGE__BODY_HELLO:
        return on_hello(link, m->hello);
    case NEXUS__AGENT_MESSAGE__BODY_REPLY:
        return on_reply(link, m->id, m->reply);
    case NEXUS__AGENT_MESSAGE__BODY_OOM:
        link->ops->on_oom(link->ud, m->oom->container_id);
        return NULL;
    case NEXUS__AGENT_MESSAGE__BODY_LOG:
        link->ops->on_log(link->ud, m->log->level, m->log->text);
        return NULL;
    case NEXUS__AGENT_MESSAGE__BODY__NOT_SET:
        return NULL; /* an event of a later version: counted, ignored */
    case NEXUS__AGENT_MESSAGE__BODY_CONFIGURE:
    case NEXUS__AGENT_MESSAGE__BODY_CREATE_CONTAINER:
    case NEXUS__AGENT_MESSAGE__BODY_SIGNAL:
    case NEXUS__AGENT_MESSAGE__BODY_REMOVE_CONTAINER:
    case NEXUS__AGENT_MESSAGE__BODY_RELEASE_REGION:
    case NEXUS__AGENT_MESSAGE__BODY_SHUTDOWN:
    case NEXUS__AGENT_MESSAGE__BODY_PING:
    case NEXUS__AGENT_MESSAGE__BODY_UPDATE_VOLUME:
    case NEXUS__AGENT_MESSAGE__BODY_GET_STATS:
    case NEXUS__AGENT_MESSAGE__BODY_UPDATE_RESOURCES:
    case _NEXUS__AGENT_MESSAGE__BODY__CASE_IS_INT_SIZE:
    default:
        return "a message only the host may send";
    }
}

static const char *dispatch(struct agent_link *link, const struct tlv_frame *f)
{
    Nexus__AgentMessage *m;
    const char *broken;

    if (f->type != TLV_MESSAGE)
        return "a stream frame on the control connection";
    m = (Nexus__AgentMessage *)message_unpack(&nexus__agent_message__descriptor, f->value, f->len);
    if (!m)
        return "a malformed message";
    link->received++;
    broken = dispatch_message(link, m);
    message_free(&m->base);
    return broken;
}

static size_t on_data(struct transport_conn *c, const uint8_t *p, size_t n, void *ud)
{
    struct agent_link *link = ud;
    size_t at = 0;

    while (at < n) {
        size_t piece = min_of(n - at, (size_t)FEED_BYTES);
        struct tlv_frame f;
        int r = tlv_reader_feed(&link->reader, p + at, piece);

        at += piece;
        while (r >= 0 && (r = tlv_reader_next(&link->reader, &f)) > 0) {
            const char *broken = dispatch(link, &f);

            if (link->conn != c) /* a callback closed the link */
                return n;
            if (broken) {
                violate(link, broken);
                return n;
            }
        }
        if (r < 0) {
            violate(link,
                    r == -ENOMEM ? "no memory for its messages" : "a broken or too long frame");
            return n;
        }
    }
    tlv_reader_trim(&link->reader);
    return n;
}

static void on_writable(struct transport_conn *c, void *ud)
{
    write_out(ud);
}

static void lose(struct agent_link *link, bool close, int reason)
{
    bool ready = link->ready;

    end(link, close);
    if (ready) /* before hello it may try again: a slow boot times out its connect */
        link->ops->on_closed(link->ud, reason);
}

static void on_peer_shutdown(struct transport_conn *c, void *ud)
{
    lose(ud, /* close= */ true, 0);
}

static void on_conn_closed(struct transport_conn *c, int reason, void *ud)
{
    lose(ud, /* close= */ false, reason);
}

static const struct transport_conn_ops conn_ops = {
    .on_data = on_data,
    .on_writable = on_writable,
    .on_peer_shutdown = on_peer_shutdown,
    .on_closed = on_conn_closed,
};

int agent_link_new(struct loop *loop, const struct transport *transport,
                   const struct agent_link_ops *ops, void *ud, struct agent_link **ret)
{
    struct agent_link *link = calloc(1, sizeof(*link));
    int r;

    if (!link)
        return -ENOMEM;
    link->loop = loop;
    link->transport = transport;
    link->ops = ops;
    link->ud = ud;
    link->ping_ms = LIMIT_AGENT_PING_MS;
    link->unasked = UNASKED_BURST;
    list_init(&link->requests);
    tlv_reader_init(&link->reader);
    tlv_reader_set_max(&link->reader, LIMIT_AGENT_FRAME_BYTES);
    buf_init(&link->out, OUT_MAX);
    r = loop_add_timer(loop, on_deadline, link, &link->deadline_timer);
    if (r == 0)
        r = loop_add_timer(loop, on_ping_timer, link, &link->ping_timer);
    if (r < 0) {
        agent_link_free(link);
        return r;
    }
    *ret = link;
    return 0;
}

void agent_link_free(struct agent_link *link)
{
    if (!link)
        return;
    if (link->deadline_timer && link->ping_timer)
        end(link, /* close= */ true);
    loop_remove(link->deadline_timer);
    loop_remove(link->ping_timer);
    tlv_reader_done(&link->reader);
    buf_done(&link->out);
    free(link);
}

void agent_link_set_ping_ms(struct agent_link *link, uint32_t ping_ms)
{
    link->ping_ms = ping_ms;
}

bool agent_link_accept(struct agent_link *link, struct transport_conn *c)
{
    if (link->shut)
        return false;
    if (link->conn) /* the agent gave up on a connect that we had seen */
        end(link, /* close= */ true);
    link->conn = c;
    link->unasked_ns = clock_mono_ns();
    link->transport->conn_set_ops(c, &conn_ops, link);
    return true;
}

void agent_link_close(struct agent_link *link)
{
    link->shut = true;
    end(link, /* close= */ true);
}

bool agent_link_is_ready(const struct agent_link *link)
{
    return link->conn && link->ready;
}

ProtobufCBinaryData agent_link_text(const struct agent_link *link)
{
    return link->text;
}

uint64_t agent_link_received(const struct agent_link *link)
{
    return link->received;
}

uint64_t agent_link_ping_ns(const struct agent_link *link)
{
    return link->ping_ns;
}
