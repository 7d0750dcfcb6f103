/* SPDX-License-Identifier: Apache-2.0 */
/* Start at on_boot (hello), on_request (control connection), on_stream_accept (execs and starts). */
#include "fakes/fake-agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/le.h"
#include "base/list.h"
#include "base/str.h"
#include "event/loop.h"
#include "fakes/fake-program.h"
#include "wire/message.h"
#include "wire/reply.h"

#define OUT_MAX (64U << 10)

struct container {
    struct list link;
    char *id;
    char **args;
    bool open_stdin;
    struct proc *main; /* NULL: not started, or over */
};

enum proc_kind { PROC_UNKNOWN, PROC_START, PROC_EXEC };

struct proc {
    struct list link;
    struct fake_agent *agent;
    enum proc_kind kind;
    char *container_id;
    struct transport_conn *conn; /* NULL: the host closed it */
    struct tlv_reader reader;
    struct tlv_frame held; /* stdin that was not taken */
    size_t held_done;
    struct buf out;
    struct fake_program *program; /* NULL: not started, or over */
    char **args;
    bool open_stdin;
    bool last; /* EXIT or ERROR is in out */
    struct loop_source *gone;
};

/* An answer that comes later. */
struct later {
    struct list link;
    struct fake_agent *agent;
    struct loop_source *timer;
    uint64_t id;       /* of the request, or */
    struct proc *proc; /* the stream that starts */
    int r;
};

struct fake_agent {
    struct loop *loop;
    const struct transport *guest;
    struct fake_script script;
    fake_vm_end_fn on_end;
    void *ud;
    struct transport_conn *conn;
    struct tlv_reader reader;
    struct buf out;
    struct list containers, procs, laters;
    struct loop_source *boot, *end_timer, *die_timer;
    char hostname[80];
    Nexus__VmmState__End end;
    const char *end_detail;
    bool hung, ended;
    uint32_t next_pid;
};

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

static void send_reply(struct fake_agent *a, uint64_t id, int r, const char *text)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;
    _cleanup_(error_freep) struct error *err = NULL;

    if (r < 0)
        r = error_set(&err, r, "in guest: %s", text);
    reply_from_error(&reply, r, err);
    m.id = id;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_REPLY;
    m.reply = &reply;
    send_agent_message(a, &m);
}

static void send_oom(struct fake_agent *a, const char *id)
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
        send_oom(a, "somebody-else");
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

static void proc_free(struct proc *p);

static void drop_connections(struct fake_agent *a)
{
    if (a->conn)
        a->guest->conn_close(TAKE(a->conn));
    while (!list_is_empty(&a->procs))
        proc_free(list_first(&a->procs, struct proc, link));
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
static bool at(struct fake_agent *a, const char *point)
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

/* ---- processes */

static void write_proc(struct proc *p)
{
    size_t n;

    while (p->conn && p->out.used) {
        n = p->agent->guest->conn_write(p->conn, p->out.data, p->out.used);
        if (n == 0)
            return;
        buf_consume(&p->out, n);
    }
    if (!p->conn)
        buf_clear(&p->out);
    else if (p->last)
        p->agent->guest->conn_shutdown(p->conn);
}

static struct container *find_container(struct fake_agent *a, const char *id)
{
    struct container *c;

    list_foreach (c, &a->containers, link)
        if (strcmp(c->id, id) == 0)
            return c;
    return NULL;
}

static void on_stdin_room(void *ud);

static size_t on_program_output(void *ud, uint8_t type, const uint8_t *bytes, size_t n)
{
    struct proc *p = ud;
    size_t taken = 0;

    while (p->conn && taken < n && p->out.used < OUT_MAX) {
        size_t piece = n - taken < 4096 ? n - taken : 4096;

        if (tlv_write(&p->out, type, bytes + taken, piece) < 0)
            break;
        taken += piece;
    }
    write_proc(p);
    return p->conn ? taken : n; /* nobody listens: a container's output goes nowhere */
}

static void lie_on_stream(struct proc *p, const char *point)
{
    const struct fake_rule *r = fake_script_due(&p->agent->script, "lie", point);

    if (!r)
        return;
    if (strcmp(r->kind, "bad-exit") == 0)
        (void)tlv_write(&p->out, TLV_EXIT, "\x08\x80\x80\x80\x80\x08", 6); /* code 2^31 */
    else if (strcmp(r->kind, "early-output") == 0)
        (void)tlv_write(&p->out, TLV_STDOUT, "early", 5);
    else if (strcmp(r->kind, "message") == 0)
        (void)tlv_write(&p->out, TLV_MESSAGE, "\x08\x01", 2);
    else if (strcmp(r->kind, "stdin") == 0)
        (void)tlv_write(&p->out, TLV_STDIN, "x", 1);
    else if (strcmp(r->kind, "hang-up") == 0)
        p->last = true;
    else if (strcmp(r->kind, "late-output") == 0) {
        (void)tlv_write(&p->out, TLV_STDOUT, NULL, 0);
        (void)tlv_write(&p->out, TLV_STDOUT, "late", 4);
    }
    write_proc(p);
}

static void finish_proc(struct proc *p, uint8_t type, const ProtobufCMessage *m)
{
    struct container *c = find_container(p->agent, p->container_id ? p->container_id : "");

    if (c && c->main == p)
        c->main = NULL;
    if (message_write(&p->out, type, m) < 0)
        abort();
    p->last = true;
    fake_program_free(TAKE(p->program));
    if (!p->conn)
        loop_defer_arm(p->gone);
    write_proc(p);
}

static void on_program_exit(void *ud, int code, unsigned sig, bool oom)
{
    struct proc *p = ud;
    Nexus__ExitInfo m = NEXUS__EXIT_INFO__INIT;
    const struct fake_rule *r;

    if (oom)
        send_oom(p->agent, p->container_id);
    if (!at(p->agent, "exit"))
        return;
    lie_on_stream(p, "exit");
    r = fake_script_due(&p->agent->script, "lie", "exit");
    if (r && strcmp(r->kind, "no-exit") == 0) {
        p->last = true;
        write_proc(p);
        return;
    }
    if (!r || strcmp(r->kind, "late-output") != 0) {
        (void)tlv_write(&p->out, TLV_STDOUT, NULL, 0);
        (void)tlv_write(&p->out, TLV_STDERR, NULL, 0);
    }
    m.code = code;
    m.signal = sig;
    m.oom_killed = oom;
    if (r && strcmp(r->kind, "exit-twice") == 0)
        (void)message_write(&p->out, TLV_EXIT, &m.base);
    finish_proc(p, TLV_EXIT, &m.base);
}

static const struct fake_program_ops program_ops = {
    .output = on_program_output,
    .stdin_room = on_stdin_room,
    .on_exit = on_program_exit,
};

static void fail_proc(struct proc *p, int exit_code, int r, const char *text)
{
    Nexus__StreamError m = NEXUS__STREAM_ERROR__INIT;
    Nexus__Reply reply = NEXUS__REPLY__INIT;
    _cleanup_(error_freep) struct error *err = NULL;

    r = error_set_class(&err, ERROR_GUEST, r, "in guest: %s", text);
    reply_from_error(&reply, r, err);
    m.reply = &reply;
    m.exit_code = exit_code;
    finish_proc(p, TLV_ERROR, &m.base);
}

/* Starts the process of a stream whose container is known. */
static void start_proc(struct proc *p, int r)
{
    struct fake_agent *a = p->agent;
    Nexus__StreamStarted m = NEXUS__STREAM_STARTED__INIT;
    struct container *c = find_container(a, p->container_id);
    const char *point = p->kind == PROC_EXEC ? "exec-started" : "started";
    int code;

    if (r < 0) {
        fail_proc(p, 128, r, "told to fail");
        return;
    }
    if (!c || (p->kind == PROC_EXEC) != (c->main != NULL)) {
        fail_proc(p, 128, -ESRCH, "no such container, or in the wrong state");
        return;
    }
    code = fake_program_new(a->loop, p->args, strv_len(p->args), a->hostname, p->open_stdin,
                            fake_script_setting(&a->script, "unknown-runs") != NULL, &program_ops,
                            p, &p->program);
    if (code) {
        char text[256];

        (void)snprintf(text, sizeof(text), "exec %.100s: %s", p->args ? p->args[0] : "nothing",
                       code == 127 ? "no such file" : "permission denied");
        fail_proc(p, code, code == 127 ? -ENOENT : -EACCES, text);
        return;
    }
    if (p->kind == PROC_START)
        c->main = p;
    if (!at(a, point))
        return;
    lie_on_stream(p, point);
    if (p->last) /* hung up */
        return;
    m.pid = ++a->next_pid + 100;
    if (message_write(&p->out, TLV_MESSAGE, &m.base) < 0)
        abort();
    fake_program_run(p->program);
    if (p->last)
        return;
    write_proc(p);
    on_stdin_room(p);
}

static void on_later(struct loop_source *s, void *ud)
{
    struct later *l = ud;

    list_remove(&l->link);
    loop_remove(l->timer);
    if (l->proc)
        start_proc(l->proc, l->r);
    else if (!l->agent->hung)
        send_reply(l->agent, l->id, l->r, "told to fail");
    free(l);
}

/* Answers a request or starts a process: now, later, or with an error. */
static void respond(struct fake_agent *a, const char *point, uint64_t id, struct proc *proc, int r,
                    const char *text)
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
            start_proc(proc, r);
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

static void proc_free(struct proc *p)
{
    struct container *c = find_container(p->agent, p->container_id ? p->container_id : "");
    struct later *l, *tmp;

    if (c && c->main == p)
        c->main = NULL;
    list_foreach_safe (l, tmp, &p->agent->laters, link) {
        if (l->proc != p)
            continue;
        list_remove(&l->link);
        loop_remove(l->timer);
        free(l);
    }
    list_remove(&p->link);
    if (p->conn)
        p->agent->guest->conn_close(p->conn);
    fake_program_free(p->program);
    loop_remove(p->gone);
    tlv_reader_done(&p->reader);
    buf_done(&p->out);
    strv_free(p->args);
    free(p->container_id);
    free(p);
}

static void on_proc_gone(struct loop_source *s, void *ud)
{
    proc_free(ud);
}

static char **copy_args(const Nexus__ProcessSpec *spec)
{
    char **v = NULL;

    for (size_t i = 0; spec && i < spec->n_args; i++)
        strv_push(&v, spec->args[i]);
    return v;
}

static void on_open(struct proc *p, const struct tlv_frame *f)
{
    struct fake_agent *a = p->agent;
    Nexus__StreamOpen *open =
        f->type == TLV_MESSAGE
            ? (Nexus__StreamOpen *)message_unpack(&nexus__stream_open__descriptor, f->value, f->len)
            : NULL;
    struct container *c;

    if (!open || open->kind_case == NEXUS__STREAM_OPEN__KIND__NOT_SET) {
        (void)fprintf(stderr, "fake agent: a stream begins with no StreamOpen\n");
        abort();
    }
    if (open->kind_case == NEXUS__STREAM_OPEN__KIND_EXEC) {
        p->kind = PROC_EXEC;
        p->container_id = str_dup(open->exec->container_id);
        p->args = copy_args(open->exec->process);
        p->open_stdin = open->exec->open_stdin;
    } else {
        p->kind = PROC_START;
        p->container_id = str_dup(open->start->container_id);
        c = find_container(a, p->container_id);
        for (size_t i = 0; c && c->args && c->args[i]; i++)
            strv_push(&p->args, c->args[i]);
        p->open_stdin = c && c->open_stdin;
    }
    message_free(&open->base);
    if (at(a, p->kind == PROC_EXEC ? "exec" : "start"))
        respond(a, p->kind == PROC_EXEC ? "exec" : "start", 0, p, 0, "");
}

static void on_proc_frame(struct proc *p, const struct tlv_frame *f)
{
    if (p->kind == PROC_UNKNOWN) {
        on_open(p, f);
        return;
    }
    if (!p->program)
        return;
    if (f->type == TLV_SIGNAL && f->len == 4)
        fake_program_signal(p->program, be32_load(f->value));
    else if (f->type == TLV_STDIN) {
        size_t n = fake_program_stdin(p->program, f->value, f->len);

        if (n < f->len) {
            p->held = *f;
            p->held_done = n;
        }
    }
}

/* Opened, and neither running nor refused yet: its input waits. */
static bool is_starting(const struct proc *p)
{
    return p->kind != PROC_UNKNOWN && !p->program && !p->last;
}

/* Gives out what the reader has. False: the program takes no more stdin now. */
static bool drain_stream(struct proc *p)
{
    struct tlv_frame f;

    if (p->held.type) {
        size_t left = p->held.len - p->held_done;

        p->held_done +=
            p->program ? fake_program_stdin(p->program, p->held.value + p->held_done, left) : left;
        if (p->held_done < p->held.len)
            return false;
        p->held.type = 0;
    }
    while (!p->held.type && !is_starting(p) && tlv_reader_next(&p->reader, &f) > 0)
        on_proc_frame(p, &f);
    return !p->held.type && !is_starting(p);
}

static size_t on_stream_data(struct transport_conn *conn, const uint8_t *bytes, size_t n, void *ud)
{
    struct proc *p = ud;
    size_t used = 0;

    while (used < n && drain_stream(p)) {
        size_t piece = n - used < 4096 ? n - used : 4096;

        if (tlv_reader_feed(&p->reader, bytes + used, piece) < 0)
            abort();
        used += piece;
        (void)drain_stream(p);
    }
    return used;
}

static void on_stdin_room(void *ud)
{
    struct proc *p = ud;

    if (drain_stream(p) && p->conn)
        p->agent->guest->conn_resume(p->conn);
}

static void on_stream_writable(struct transport_conn *c, void *ud)
{
    struct proc *p = ud;

    write_proc(p);
    if (p->program)
        fake_program_run(p->program);
}

static void on_stream_closed(struct transport_conn *c, int reason, void *ud)
{
    struct proc *p = ud;

    p->conn = NULL;
    if (p->kind == PROC_START && p->program) {
        buf_clear(&p->out);
        fake_program_run(p->program); /* runs on unheard */
        return;
    }
    proc_free(p); /* an exec is killed */
}

static const struct transport_conn_ops stream_ops = {
    .on_data = on_stream_data,
    .on_writable = on_stream_writable,
    .on_closed = on_stream_closed,
};

static bool on_stream_accept(struct transport_conn *c, void *ud)
{
    struct fake_agent *a = ud;
    struct proc *p = xcalloc(1, sizeof(*p));

    p->agent = a;
    p->conn = c;
    tlv_reader_init(&p->reader);
    buf_init(&p->out, 4U << 20);
    if (loop_add_defer(a->loop, on_proc_gone, p, &p->gone) < 0)
        abort();
    list_append(&a->procs, &p->link);
    a->guest->conn_set_ops(c, &stream_ops, p);
    return true;
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

    if (find_container(a, spec->id))
        return -EEXIST;
    if (spec->rootfs_gpa == 0)
        return -ENXIO;
    c = xcalloc(1, sizeof(*c));
    c->id = str_dup(spec->id);
    c->args = copy_args(spec->process);
    c->open_stdin = spec->open_stdin;
    list_append(&a->containers, &c->link);
    return 0;
}

static int do_signal(struct fake_agent *a, const Nexus__SignalContainer *m)
{
    struct container *c = find_container(a, m->container_id);

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
    struct container *c = find_container(a, id);

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
    case NEXUS__AGENT_MESSAGE__BODY_SHUTDOWN:
        point = "shutdown";
        break;
    case NEXUS__AGENT_MESSAGE__BODY_PING:
        point = "ping";
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
    if (!at(a, point))
        return;
    lie = fake_script_due(&a->script, "lie", point);
    if (lie) {
        lie_on_control(a, lie->kind, m->id);
        if (strcmp(lie->kind, "foreign-oom") != 0)
            return;
    }
    if (fake_script_due(&a->script, "fail", point)) {
        respond(a, point, m->id, NULL, 0, "");
        return;
    }
    if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_CREATE_CONTAINER)
        r = do_create(a, m->create_container);
    else if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_SIGNAL)
        r = do_signal(a, m->signal);
    else if (m->body_case == NEXUS__AGENT_MESSAGE__BODY_REMOVE_CONTAINER)
        do_remove(a, m->remove_container->container_id);
    respond(a, point, m->id, NULL, r, "refused");
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
    if (!at(a, "hello"))
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
        guest->listen(guest->impl, TRANSPORT_PORT_STREAM, on_stream_accept, a) < 0)
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
