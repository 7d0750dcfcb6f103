/* SPDX-License-Identifier: Apache-2.0 */
/* Stream connections of the fake agent. Start at fake_agent_accept_stream, then on_open. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/str.h"
#include "fakes/fake-agent-internal.h"
#include "wire/reply.h"

#define OUT_MAX (64U << 10)

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
    else if (p->last && p->keep) {
        (void)fake_agent_accept_stream(TAKE(p->conn), p->agent);
        loop_defer_arm(p->gone);
    } else if (p->last)
        p->agent->guest->conn_shutdown(p->conn);
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
    p->keep = false;
    if (strcmp(r->kind, "bad-exit") == 0)
        (void)tlv_write(&p->out, TLV_EXIT, "\x08\x80\x80\x80\x80\x08", 6); /* code 2^31 */
    else if (strcmp(r->kind, "early-output") == 0)
        (void)tlv_write(&p->out, TLV_STDOUT, "early", 5);
    else if (strcmp(r->kind, "message") == 0)
        (void)tlv_write(&p->out, TLV_MESSAGE, "\x08\x01", 2);
    else if (strcmp(r->kind, "termination") == 0)
        (void)tlv_write(&p->out, TLV_TERMINATION, "x", 1);
    else if (strcmp(r->kind, "long-termination") == 0)
        (void)buf_append(&p->out, "\x09\x00\x00\x10\x01", 5); /* 4097 bytes */
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
    struct container *c = fake_agent_container(p->agent, p->container_id ? p->container_id : "");

    if (c && c->main == p)
        c->main = NULL;
    if (message_write(&p->out, type, m) < 0)
        abort();
    p->last = true;
    p->keep = p->keep && type == TLV_EXIT;
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
        fake_agent_send_oom(p->agent, p->container_id);
    if (!fake_agent_at(p->agent, "exit"))
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
void fake_proc_start(struct proc *p, int r)
{
    struct fake_agent *a = p->agent;
    Nexus__StreamStarted m = NEXUS__STREAM_STARTED__INIT;
    Nexus__Identity user = NEXUS__IDENTITY__INIT;
    const struct fake_rule *many = fake_script_setting(&a->script, "many-groups");
    uint32_t groups[1024] = {9, 10};
    struct container *c = fake_agent_container(a, p->container_id);
    const char *point = p->kind == PROC_EXEC      ? "exec-started"
                        : p->kind == PROC_FORWARD ? "forward-started"
                                                  : "started";
    int code;

    if (r < 0) {
        fail_proc(p, 128, r, "told to fail");
        return;
    }
    if (p->kind != PROC_FORWARD && (!c || (p->kind == PROC_EXEC) != (c->main != NULL))) {
        fail_proc(p, 128, -ESRCH, "no such container, or in the wrong state");
        return;
    }
    if (!p->args && p->kind == PROC_FORWARD) {
        fail_proc(p, 128, -ECONNREFUSED, "nobody listens");
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
    if (!fake_agent_at(a, point))
        return;
    lie_on_stream(p, point);
    if (p->last) /* hung up */
        return;
    m.pid = ++a->next_pid + 100;
    if (p->kind == PROC_START) { /* whoever it was to run as */
        user.uid = 1000;
        user.gid = 100;
        user.groups = groups;
        user.n_groups = many && many->arg < ARRAY_SIZE(groups) ? (size_t)many->arg : 2;
        m.user = &user;
    }
    if (message_write(&p->out, TLV_MESSAGE, &m.base) < 0)
        abort();
    fake_program_run(p->program);
    if (p->last)
        return;
    write_proc(p);
    on_stdin_room(p);
}

void fake_proc_free(struct proc *p)
{
    struct container *c = fake_agent_container(p->agent, p->container_id ? p->container_id : "");
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
    fake_proc_free(ud);
}

static const char *point_of(const struct proc *p)
{
    return p->kind == PROC_EXEC ? "exec" : p->kind == PROC_FORWARD ? "forward" : "start";
}

/* Ports of every fake guest: 7 echoes, 9 never reads, 19 sends for ever, 13 says a line and is over; on others
 * nobody listens. */
static void open_forward(struct proc *p, uint32_t port)
{
    static const char *const programs[][3] = {[7] = {"cat"},
                                              [9] = {"sleep", "infinity"},
                                              [13] = {"echo", "noon"},
                                              [19] = {"yes", "100000000"}};

    p->kind = PROC_FORWARD;
    p->container_id = str_dup("");
    p->open_stdin = true;
    for (size_t i = 0; port < ARRAY_SIZE(programs) && i < 3 && programs[port][i]; i++)
        strv_push(&p->args, programs[port][i]);
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
        p->args = fake_agent_copy_args(open->exec->process);
        p->open_stdin = open->exec->open_stdin;
        p->keep = open->keep;
    } else if (open->kind_case == NEXUS__STREAM_OPEN__KIND_FORWARD) {
        open_forward(p, open->forward->port);
    } else {
        p->kind = PROC_START;
        p->container_id = str_dup(open->start->container_id);
        c = fake_agent_container(a, p->container_id);
        for (size_t i = 0; c && c->args && c->args[i]; i++)
            strv_push(&p->args, c->args[i]);
        p->open_stdin = c && c->open_stdin;
    }
    message_free(&open->base);
    if (fake_agent_at(a, point_of(p)))
        fake_agent_respond(a, point_of(p), 0, p, 0, "");
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
    fake_proc_free(p); /* an exec is killed */
}

static const struct transport_conn_ops stream_ops = {
    .on_data = on_stream_data,
    .on_writable = on_stream_writable,
    .on_closed = on_stream_closed,
};

bool fake_agent_accept_stream(struct transport_conn *c, void *ud)
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
