/* SPDX-License-Identifier: Apache-2.0 */
/* Start at on_boot (hello), on_request (control connection); execs and starts are in
 * fake-agent-stream.c. */
#include "fakes/fake-agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "fakes/fake-agent-internal.h"
#include "fakes/fake-record.h"
#include "wire/reply.h"

/* ---- output on the control connection */

static void write_control(struct fake_agent *a)
{
    size_t n;

    while (a->conn && a->out.used) {
        n = a->guest->conn_write(a->conn, a->out.data, a->out.used);
        if (n == 0)
            return;
        buf_consume(&a->out, n);
    }
}

static void send_agent_message(struct fake_agent *a, const Nexus__AgentMessage *m)
{
    if (message_write(&a->out, TLV_MESSAGE, &m->base) < 0)
        abort();
    write_control(a);
}

static void send_reply_with(struct fake_agent *a, uint64_t id, int r, const char *text,
                            const char *stats, size_t n)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;
    _cleanup_(error_freep) struct error *err = NULL;

    if (r < 0)
        r = error_set(&err, r, "in guest: %s", text);
    reply_from_error(&reply, r, err);
    reply.text.data = (uint8_t *)(uintptr_t)stats;
    reply.text.len = n;
    m.id = id;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_REPLY;
    m.reply = &reply;
    send_agent_message(a, &m);
}

static void send_reply(struct fake_agent *a, uint64_t id, int r, const char *text)
{
    send_reply_with(a, id, r, text, NULL, 0);
}

void fake_agent_send_oom(struct fake_agent *a, const char *id)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__OomEvent oom = NEXUS__OOM_EVENT__INIT;

    oom.container_id = (char *)(uintptr_t)id;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_OOM;
    m.oom = &oom;
    send_agent_message(a, &m);
}

static void send_hello(struct fake_agent *a)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__AgentHello hello = NEXUS__AGENT_HELLO__INIT;
    const struct fake_rule *version = fake_script_setting(&a->script, "hello-version");

    hello.version = version ? (uint32_t)version->arg : 1;
    hello.kernel_release = (char[]){"0.0.0-fake"};
    hello.agent_version = (char[]){"fake"};
    hello.ready_ns = 1;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_HELLO;
    m.hello = &hello;
    send_agent_message(a, &m);
}

/* ---- the script */

static void lie_on_control(struct fake_agent *a, const char *kind, uint64_t id)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__Ping ping = NEXUS__PING__INIT;

    if (strcmp(kind, "wrong-id") == 0) {
        send_reply(a, id + 1000, 0, "");
    } else if (strcmp(kind, "twice") == 0) {
        send_reply(a, id, 0, "");
        send_reply(a, id, 0, "");
    } else if (strcmp(kind, "foreign-oom") == 0) {
        fake_agent_send_oom(a, "somebody-else");
    } else if (strcmp(kind, "hello-again") == 0) {
        send_hello(a);
    } else if (strcmp(kind, "host-message") == 0) {
        m.body_case = NEXUS__AGENT_MESSAGE__BODY_PING;
        m.ping = &ping;
        send_agent_message(a, &m);
    } else if (strcmp(kind, "garbage") == 0) {
        (void)buf_append(&a->out, "\x08\0\0\0\x04\xff\xff\xff\xff", 9);
    } else if (strcmp(kind, "huge-frame") == 0) {
        (void)buf_append(&a->out, "\x08\x00\x0f\xff\xff", 5);
    } else if (strcmp(kind, "slow-header") == 0) {
        (void)buf_append(&a->out, "\x08\x00", 2);
    }
    write_control(a);
}

static void flood(struct fake_agent *a, uint64_t n)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__GuestLog log = NEXUS__GUEST_LOG__INIT;

    log.level = 7;
    log.text = (char[]){"a line"};
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_LOG;
    m.log = &log;
    while (n--)
        send_agent_message(a, &m);
}

static void drop_connections(struct fake_agent *a)
{
    if (a->conn)
        a->guest->conn_close(TAKE(a->conn));
    while (!list_is_empty(&a->procs))
        fake_proc_free(list_first(&a->procs, struct proc, link));
    (void)a->guest->listen(a->guest->impl, TRANSPORT_PORT_STREAM, NULL, NULL);
}

static void end_vm(struct fake_agent *a, Nexus__VmmState__End end, const char *detail)
{
    a->hung = true;
    a->end = end;
    a->end_detail = detail;
    loop_timer_set(a->end_timer, 0); /* out of any callback */
}

/* Passes a point. False: there is no answer now. */
bool fake_agent_at(struct fake_agent *a, const char *point)
{
    const struct fake_rule *r;

    fake_script_pass(&a->script, point);
    if (fake_script_due(&a->script, "kill", point))
        (void)raise(SIGKILL);
    r = fake_script_due(&a->script, "panic", point);
    if (r) {
        end_vm(a, NEXUS__VMM_STATE__END__PANIC,
               strcmp(r->kind, "oom") == 0 ? "Kernel panic - not syncing: Out of memory"
                                           : "Kernel panic - not syncing: fake");
        return false;
    }
    if (fake_script_due(&a->script, "poweroff", point)) {
        end_vm(a, NEXUS__VMM_STATE__END__POWEROFF, "");
        return false;
    }
    if (fake_script_due(&a->script, "reset", point)) {
        end_vm(a, NEXUS__VMM_STATE__END__RESET, "");
        return false;
    }
    if (fake_script_due(&a->script, "die", point)) {
        a->hung = true;
        loop_timer_set(a->die_timer, 0); /* out of any callback */
        return false;
    }
    if (fake_script_due(&a->script, "hang", point))
        a->hung = true;
    r = fake_script_due(&a->script, "flood", point);
    if (r)
        flood(a, r->arg);
    return !a->hung && !fake_script_due(&a->script, "mute", point);
}

/* ---- containers, answers that come later */

struct container *fake_agent_container(struct fake_agent *a, const char *id)
{
    struct container *c;

    list_foreach (c, &a->containers, link)
        if (strcmp(c->id, id) == 0)
            return c;
    return NULL;
}

char **fake_agent_copy_args(const Nexus__ProcessSpec *spec)
{
    char **v = NULL;

    for (size_t i = 0; spec && i < spec->n_args; i++)
        strv_push(&v, spec->args[i]);
    return v;
}

static void on_later(struct loop_source *s, void *ud)
{
    struct later *l = ud;

    list_remove(&l->link);
    loop_remove(l->timer);
    if (l->proc)
        fake_proc_start(l->proc, l->r);
    else if (!l->agent->hung)
        send_reply(l->agent, l->id, l->r, "told to fail");
    free(l);
}

/* Answers a request or starts a process: now, later, or with an error. */
void fake_agent_respond(struct fake_agent *a, const char *point, uint64_t id, struct proc *proc,
                        int r, const char *text)
{
    const struct fake_rule *delay = fake_script_due(&a->script, "delay", point);
    const struct fake_rule *fail = fake_script_due(&a->script, "fail", point);
    struct later *l;

    if (fail) {
        r = -(int)fail->arg;
        text = "told to fail";
    }
    if (!delay) {
        if (proc)
            fake_proc_start(proc, r);
        else
            send_reply(a, id, r, text);
        return;
    }
    l = xcalloc(1, sizeof(*l));
    l->agent = a;
    l->id = id;
    l->proc = proc;
    l->r = r;
    list_append(&a->laters, &l->link);
    if (loop_add_timer(a->loop, on_later, l, &l->timer) < 0)
        abort();
    loop_timer_set_after_ms(l->timer, delay->arg);
}

/* ---- requests */

static void signal_all(struct fake_agent *a, const char *container_id, unsigned sig)
{
    struct proc *p, *tmp;

    list_foreach_safe (p, tmp, &a->procs, link)
        if (p->program && (!container_id || strcmp(p->container_id, container_id) == 0))
            fake_program_signal(p->program, sig);
}

static void container_free(struct container *c)
{
    list_remove(&c->link);
    strv_free(c->args);
    free(c->id);
    free(c);
}

static int do_create(struct fake_agent *a, const Nexus__ContainerSpec *spec)
{
    struct container *c;

    if (fake_agent_container(a, spec->id))
        return -EEXIST;
    if (spec->rootfs_gpa == 0)
        return -ENXIO;
    for (size_t i = 0; i < spec->n_volumes; i++)
        if (spec->volumes[i]->gpa == 0 || spec->volumes[i]->region[0])
            return -ENXIO;
    c = xcalloc(1, sizeof(*c));
    c->id = str_dup(spec->id);
    c->args = fake_agent_copy_args(spec->process);
    c->open_stdin = spec->open_stdin;
    list_append(&a->containers, &c->link);
    return 0;
}

static int do_signal(struct fake_agent *a, const Nexus__SignalContainer *m)
{
    struct container *c = fake_agent_container(a, m->container_id);

    if (!c || !c->main || !c->main->program)
        return -ESRCH;
    if (m->all)
        signal_all(a, c->id, m->signal);
    else
        fake_program_signal(c->main->program, m->signal);
    return 0;
}

static void do_remove(struct fake_agent *a, const char *id)
{
    struct container *c = fake_agent_container(a, id);

    if (!c)
        return;
    signal_all(a, id, SIGKILL);
    container_free(c);
}

static void on_request(struct fake_agent *a, const Nexus__AgentMessage *m)
{
    const struct fake_rule *lie;
    const char *point;
    int r = 0;

    switch (m->body_case) {
    case NEXUS__AGENT_MESSAGE__BODY_CONFIGURE:
        point = "configure";
        (void)snprintf(a->hostname, sizeof(a->hostname), "%.64s", m->configure->hostname);
        break;
    case NEXUS__AGENT_MESSAGE__BODY_CREATE_CONTAINER:
        point = "create";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_SIGNAL:
        point = "signal";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_REMOVE_CONTAINER:
        point = "remove";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_RELEASE_REGION:
        point = "release";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_UPDATE_VOLUME:
        point = "update";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_SHUTDOWN:
        point = "shutdown";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_PING:
        point = "ping";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_GET_STATS:
        point = "stats";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_UPDATE_RESOURCES:
        point = "limits";
        break;
    case NEXUS__AGENT_MESSAGE__BODY__NOT_SET:
    case NEXUS__AGENT_MESSAGE__BODY_HELLO:
    case NEXUS__AGENT_MESSAGE__BODY_REPLY:
    case NEXUS__AGENT_MESSAGE__BODY_OOM:
    case NEXUS__AGENT_MESSAGE__BODY_LOG:
    case _NEXUS__AGENT_MESSAGE__BODY__CASE_IS_INT_SIZE:
    default:
        send_reply(a, m->id, -EOPNOTSUPP, "an unknown request");
        return;
    }
    fake_record_request(m);
    if (!fake_agent_at(a, point))
        return;
    lie = fake_script_due(&a->script, "lie", point);
    if (lie) {
        lie_on_control(a, lie->kind, m->id);
        if (strcmp(lie->kind, "foreign-oom") != 0)
            return;
    }
    if (fake_script_due(&a->script, "fail", point)) {
        fake_agent_respond(a, point, m->id, NULL, 0, "");
        return;
    }
    if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_GET_STATS &&
        !fake_script_due(&a->script, "delay", point)) {
        char text_[FAKE_STATS_MAX];
        size_t n = fake_agent_stats(a, text_, sizeof(text_));

        send_reply_with(a, m->id, 0, "", text_, n);
        return;
    }
    if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_CREATE_CONTAINER)
        r = do_create(a, m->create_container);
    else if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_SIGNAL)
        r = do_signal(a, m->signal);
    else if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_UPDATE_VOLUME)
        r = m->update_volume->gpa == 0 || m->update_volume->region[0] ? -ENXIO : 0;
    else if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_REMOVE_CONTAINER)
        do_remove(a, m->remove_container->container_id);
    fake_agent_respond(a, point, m->id, NULL, r, "refused");
    if (m->body_case != NEXUS__AGENT_MESSAGE__BODY_SHUTDOWN)
        return;
    signal_all(a, NULL, SIGTERM);
    a->end = NEXUS__VMM_STATE__END__POWEROFF;
    a->end_detail = "";
    loop_timer_set_after_ms(a->end_timer, fake_agent_processes(a) ? m->shutdown->grace_ms : 1);
}

static size_t on_control_data(struct transport_conn *c, const uint8_t *p, size_t n, void *ud)
{
    struct fake_agent *a = ud;
    struct tlv_frame f;

    if (a->hung)
        return 0;
    if (tlv_reader_feed(&a->reader, p, n) < 0)
        abort();
    while (a->conn == c && tlv_reader_next(&a->reader, &f) > 0) {
        Nexus__AgentMessage *m = (Nexus__AgentMessage *)message_unpack(
            &nexus__agent_message__descriptor, f.value, f.len);

        if (!m) {
            (void)fprintf(stderr, "fake agent: malformed message\n");
            abort();
        }
        on_request(a, m);
        message_free(&m->base);
    }
    tlv_reader_trim(&a->reader);
    return n;
}

static void on_control_writable(struct transport_conn *c, void *ud)
{
    write_control(ud);
}

static void on_control_closed(struct transport_conn *c, int reason, void *ud)
{
    struct fake_agent *a = ud;

    a->conn = NULL;
    buf_clear(&a->out);
}

static const struct transport_conn_ops control_ops = {
    .on_data = on_control_data,
    .on_writable = on_control_writable,
    .on_closed = on_control_closed,
};

/* ---- life */

static void on_boot(struct loop_source *s, void *ud)
{
    struct fake_agent *a = ud;
    const struct fake_rule *r = fake_script_due(&a->script, "delay", "hello");

    if (a->conn || a->hung)
        return;
    if (r && !a->ended && a->next_pid == 0) { /* once */
        a->next_pid = 1;
        loop_timer_set_after_ms(s, r->arg);
        return;
    }
    if (fake_script_setting(&a->script, "no-hello"))
        return;
    if (a->guest->connect(a->guest->impl, TRANSPORT_PORT_CONTROL, &control_ops, a, &a->conn) < 0)
        abort();
    if (!fake_agent_at(a, "hello"))
        return;
    /* bytes are taken only once the host has accepted: they wait until on_writable */
    r = fake_script_due(&a->script, "lie", "hello");
    if (r)
        lie_on_control(a, r->kind, 0);
    send_hello(a);
}

static void on_die_timer(struct loop_source *s, void *ud)
{
    drop_connections(ud);
}

static void on_end_timer(struct loop_source *s, void *ud)
{
    struct fake_agent *a = ud;

    a->hung = a->ended = true;
    drop_connections(a);
    a->on_end(a->ud, a->end, a->end_detail);
}

struct fake_agent *fake_agent_new(struct loop *loop, const struct transport *guest,
                                  const struct fake_script *script, fake_vm_end_fn on_end, void *ud)
{
    struct fake_agent *a = xcalloc(1, sizeof(*a));

    a->loop = loop;
    a->guest = guest;
    a->script = *script;
    a->on_end = on_end;
    a->ud = ud;
    list_init(&a->containers);
    list_init(&a->procs);
    list_init(&a->laters);
    tlv_reader_init(&a->reader);
    buf_init(&a->out, 64U << 20);
    if (loop_add_timer(loop, on_boot, a, &a->boot) < 0 ||
        loop_add_timer(loop, on_end_timer, a, &a->end_timer) < 0 ||
        loop_add_timer(loop, on_die_timer, a, &a->die_timer) < 0 ||
        guest->listen(guest->impl, TRANSPORT_PORT_STREAM, fake_agent_accept_stream, a) < 0)
        abort();
    loop_timer_set(a->boot, 0);
    return a;
}

void fake_agent_free(struct fake_agent *a)
{
    if (!a)
        return;
    drop_connections(a);
    while (!list_is_empty(&a->laters)) {
        struct later *l = list_first(&a->laters, struct later, link);

        list_remove(&l->link);
        loop_remove(l->timer);
        free(l);
    }
    while (!list_is_empty(&a->containers))
        container_free(list_first(&a->containers, struct container, link));
    loop_remove(a->boot);
    loop_remove(a->end_timer);
    loop_remove(a->die_timer);
    tlv_reader_done(&a->reader);
    buf_done(&a->out);
    free(a);
}

size_t fake_agent_processes(const struct fake_agent *a)
{
    struct proc *p;
    size_t n = 0;

    list_foreach (p, &a->procs, link)
        n += p->program != NULL;
    return n;
}

size_t fake_agent_containers(const struct fake_agent *a)
{
    struct container *c;
    size_t n = 0;

    list_foreach (c, &a->containers, link)
        n++;
    return n;
}
