/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest's agent sends on the control connection and on a stream: any bytes, in pieces whose sizes
 * the input chooses, while requests are open and the stream's owner sometimes has no room.
 * First byte: bit 0 stream (else control), bit 1 a valid hello goes first. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "event/loop.h"
#include "fakes/mem-transport.h"
#include "vmm/agent-link.h"
#include "vmm/guest-stream.h"
#include "wire/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
    struct loop *loop;
    struct mem_transport *t;
    struct agent_link *link;
    struct guest_stream *stream;
    struct transport_conn *guest; /* the far end of what is attacked */
    unsigned offers, answers, ends;
};

static void must(int ok)
{
    if (!ok)
        abort();
}

static void on_hello(void *ud, const Nexus__AgentHello *hello)
{
    must(hello->version == AGENT_PROTOCOL_VERSION);
}

static void on_oom(void *ud, const char *id)
{
    must(id != NULL);
}

static void on_log(void *ud, uint32_t level, const char *text)
{
    must(text != NULL);
}

static void on_violation(void *ud, const char *what)
{
    ((struct world *)ud)->ends++;
}

static void on_link_closed(void *ud, int reason)
{
    ((struct world *)ud)->ends++;
}

static const struct agent_link_ops link_ops = {
    .on_hello = on_hello,
    .on_oom = on_oom,
    .on_log = on_log,
    .on_violation = on_violation,
    .on_closed = on_link_closed,
};

static void on_answer(void *ud, int r, const struct error *err)
{
    must((r < 0) == (err != NULL));
    ((struct world *)ud)->answers++;
}

static void on_started(void *ud, const Nexus__StreamStarted *m)
{
    must(!m->user || m->user->n_groups == 0 || m->user->groups);
}

static bool on_output(void *ud, uint8_t type, const uint8_t *p, uint32_t n)
{
    struct world *w = ud;

    must(n <= 4096 && (n == 0 || p != NULL));
    return ++w->offers % 3 != 0; /* every third is refused once */
}

static void on_exit_info(void *ud, const Nexus__ExitInfo *info)
{
    must(info->code >= 0 && info->code <= 255 && info->signal <= 64);
    ((struct world *)ud)->ends++;
}

static void on_error(void *ud, const Nexus__StreamError *error)
{
    must(error->reply->error_class[0] && error->exit_code >= 0 && error->exit_code <= 255);
    ((struct world *)ud)->ends++;
}

static void on_lost(void *ud, int r)
{
    must(r < 0);
    ((struct world *)ud)->ends++;
}

static const struct guest_stream_ops stream_ops = {
    .on_started = on_started,
    .on_output = on_output,
    .on_exit = on_exit_info,
    .on_error = on_error,
    .on_lost = on_lost,
    .on_violation = on_violation,
};

static bool accept_link(struct transport_conn *c, void *ud)
{
    return agent_link_accept(((struct world *)ud)->link, c);
}

static size_t swallow(struct transport_conn *c, const uint8_t *p, size_t n, void *ud)
{
    return n;
}

static void on_guest_closed(struct transport_conn *c, int reason, void *ud)
{
    ((struct world *)ud)->guest = NULL;
}

static const struct transport_conn_ops guest_ops = {
    .on_data = swallow,
    .on_closed = on_guest_closed,
};

static bool accept_guest(struct transport_conn *c, void *ud)
{
    struct world *w = ud;

    w->guest = c;
    mem_transport_guest(w->t)->conn_set_ops(c, &guest_ops, w);
    return true;
}

static void turns(struct world *w, int n)
{
    while (n--)
        must(loop_turn(w->loop, 0) >= 0);
}

static void set_up_link(struct world *w, bool hello)
{
    const struct transport *host = mem_transport_host(w->t), *guest = mem_transport_guest(w->t);

    must(agent_link_new(w->loop, host, &link_ops, w, &w->link) == 0);
    must(host->listen(host->impl, TRANSPORT_PORT_CONTROL, accept_link, w) == 0);
    must(guest->connect(guest->impl, TRANSPORT_PORT_CONTROL, &guest_ops, w, &w->guest) == 0);
    turns(w, 3);
    if (!hello)
        return;
    must(guest->conn_write(w->guest, "\x08\0\0\0\x04\x12\x02\x08\x01", 9) == 9);
    turns(w, 3);
    must(agent_link_is_ready(w->link));
    for (int i = 0; i < 4; i++) {
        Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
        Nexus__Ping ping = NEXUS__PING__INIT;

        m.body_case = NEXUS__AGENT_MESSAGE__BODY_PING;
        m.ping = &ping;
        must(agent_link_request(w->link, &m, 60000, on_answer, w) == 0);
    }
}

static void set_up_stream(struct world *w)
{
    const struct transport *guest = mem_transport_guest(w->t);
    Nexus__StreamOpen open = NEXUS__STREAM_OPEN__INIT;

    must(guest->listen(guest->impl, TRANSPORT_PORT_STREAM, accept_guest, w) == 0);
    must(guest_stream_new(w->loop, mem_transport_host(w->t), &open, 60000, &stream_ops, w,
                          &w->stream) == 0);
    turns(w, 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {0};
    bool hello;

    if (size < 1)
        return 0;
    must(loop_new(&w.loop) == 0 && mem_transport_new(w.loop, &w.t) == 0);
    hello = data[0] & 2;
    if (data[0] & 1)
        set_up_stream(&w);
    else
        set_up_link(&w, hello);
    for (size_t at = 1; at < size && w.guest;) {
        size_t step = (size_t)data[at] + 1, n;

        step = step < size - at ? step : size - at;
        n = mem_transport_guest(w.t)->conn_write(w.guest, data + at, step);
        at += n;
        turns(&w, 2);
        if (w.stream)
            guest_stream_resume(w.stream);
        turns(&w, 1);
    }
    if (w.guest)
        mem_transport_guest(w.t)->conn_close(w.guest);
    for (int i = 0; i < 8; i++) {
        turns(&w, 2);
        if (w.stream)
            guest_stream_resume(w.stream);
    }
    must(w.ends == 1 || (w.link && !hello && w.ends == 0)); /* one end, whatever came */
    if (w.link && hello)
        must(w.answers == 4); /* and each request was answered once */
    guest_stream_free(w.stream);
    agent_link_free(w.link);
    mem_transport_free(w.t);
    loop_free(w.loop);
    return 0;
}
