/* SPDX-License-Identifier: Apache-2.0 */
/* Execs: streams, exit codes, back-pressure, and that nothing of one survives its end. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "base/str.h"
#include "cases.h"

#define HOST "exec-host"

static struct drive_stream *host_stream;

static void setup_starts_a_container_for_execs(struct drive *d)
{
    create_container(d, HOST, "echo up; while :; do sleep 0.1; done", NULL);
    host_stream = stream_start_container(d, HOST);
    stream_until_output(host_stream, "up");
}

struct exec_options {
    bool tty, open_stdin, late_start;
    char *user;
};

/* On the stream s, or (NULL) one of its own. */
static struct drive_stream *exec_on(struct drive *d, struct drive_stream *s, char **args, size_t n,
                                    const struct exec_options *opt)
{
    Nexus__ExecSpec e;
    Nexus__ProcessSpec p;
    Nexus__User u;

    nexus__exec_spec__init(&e);
    nexus__process_spec__init(&p);
    nexus__user__init(&u);
    e.container_id = (char[]){HOST};
    e.process = &p;
    p.args = args;
    p.n_args = n;
    if (opt) {
        e.open_stdin = opt->open_stdin;
        e.late_start = opt->late_start;
        p.tty = opt->tty;
        if (opt->user) {
            p.user = &u;
            u.username = opt->user;
        }
    }
    if (!s)
        return stream_exec(d, &e);
    stream_open_exec(s, &e, true);
    return s;
}

static struct drive_stream *exec_args(struct drive *d, char **args, size_t n,
                                      const struct exec_options *opt)
{
    return exec_on(d, NULL, args, n, opt);
}

static struct drive_stream *exec_shell(struct drive *d, const char *script,
                                       const struct exec_options *opt)
{
    char *args[] = {text("sh"), text("-c"), text(script)};

    return exec_args(d, args, 3, opt);
}

static void tells_exit_code_and_streams_apart(struct drive *d)
{
    const struct outcome *o = shell(d, HOST, "echo a; echo b >&2; exit 42");

    CHECK(o->started && o->has_exit && o->code == 42 && o->signal == 0, "code %d", o->code);
    CHECK(buf_is(&o->out, "a\n") && buf_is(&o->err, "b\n"), "%s / %s", o->out.data, o->err.data);
    o = shell(d, HOST, "kill -SEGV $$");
    CHECK(o->code == 139 && o->signal == SIGSEGV && !o->oom, "code %d", o->code);
}

static void arguments_are_a_vector(struct drive *d)
{
    char *args[] = {text("printf"), text("<%s>"), text("a b"), text(""), text("$X\n\"'")};
    struct drive_stream *s = exec_args(d, args, 5, NULL);

    stream_until_closed(s);
    CHECK(buf_is(&s->got.out, "<a b><><$X\n\"'>"), "%s", buf_text(&s->got.out));
    stream_close(s);
}

static const struct {
    const char *name, *text;
    int code;
} not_runnable[] = {
    {"no-such-program", "exec: \"no-such-program\": executable file not found in $PATH", 127},
    {"/no/such/path", "exec: \"/no/such/path\": no such file or directory", 127},
    {"", "exec: \"\": executable file not found in $PATH", 127},
    {"not-a-program", "exec: \"not-a-program\": permission denied", 126},
    {"/usr/bin/not-a-program", "exec: \"/usr/bin/not-a-program\": permission denied", 126},
    {"/usr/bin/bad-format", "exec: \"/usr/bin/bad-format\": exec format error", 126},
    {"/usr/bin/no-interpreter", "exec: \"/usr/bin/no-interpreter\": no such file or directory",
     127},
    {"no-interpreter", "exec: \"no-interpreter\": no such file or directory", 127},
    {"/usr/bin", "exec: \"/usr/bin\": Is a directory", 126},
};

static void a_missing_program_is_127_and_a_bad_one_126(struct drive *d)
{
    for (size_t i = 0; i < ARRAY_SIZE(not_runnable); i++) {
        _cleanup_(freep) char *name = str_dup(not_runnable[i].name);
        struct drive_stream *s = exec_args(d, &name, 1, NULL);

        stream_until_closed(s);
        CHECK(s->got.has_error && !s->got.started && !s->got.has_exit, "%s: no error", name);
        CHECK(s->got.error_exit_code == not_runnable[i].code, "%s: code %d", name,
              s->got.error_exit_code);
        CHECK(strcasecmp(s->got.error_text, not_runnable[i].text) == 0, "%s: %s", name,
              s->got.error_text);
        stream_close(s);
    }
}

static void an_exec_in_nothing_is_refused(struct drive *d)
{
    const struct outcome *o = shell(d, "no-such", "true");

    CHECK(o->has_error && strcmp(o->error_class, "not-found") == 0, "%s", o->error_class);
    create_container(d, "exec-not-up", "true", NULL);
    o = shell(d, "exec-not-up", "true");
    CHECK(o->has_error && strcmp(o->error_class, "precondition") == 0, "%s", o->error_class);
    remove_container(d, "exec-not-up");
}

static void runs_in_the_container_and_its_own_cgroup(struct drive *d)
{
    const struct outcome *o =
        shell(d, HOST,
              "cat /proc/self/cgroup; cat /proc/1/comm; "
              "cut -d: -f3 /proc/1/cgroup; grep Cap /proc/self/status | head -3 | tail -1; "
              "cat /proc/self/oom_score_adj; ls /proc/self/fd | tr '\\n' ' '");

    CHECK(buf_has(&o->out, "0::/exec-"), "%s", o->out.data);
    CHECK(buf_has(&o->out, "sh\n"), "%s", o->out.data);
    CHECK(buf_has(&o->out, "CapEff:\t00000000a80425fb\n0\n0 1 2 3 "), "%s", o->out.data);
}

static void as_another_user(struct drive *d)
{
    struct exec_options opt = {.user = text("app")};
    struct drive_stream *s = exec_shell(d, "id -u; id -G; echo $HOME; echo x > /dev/stderr", &opt);

    stream_until_closed(s);
    CHECK(buf_is(&s->got.out, "1000\n100 9 10\n/home/app\n"), "%s%s", buf_text(&s->got.out),
          s->got.error_text);
    CHECK(buf_is(&s->got.err, "x\n"), "%s", buf_text(&s->got.err));
    stream_close(s);
}

static void a_late_start_comes_before_anything_else(struct drive *d)
{
    struct exec_options opt = {.late_start = true};
    char *missing[] = {text("/no/such")};
    struct drive_stream *s = exec_shell(d, "exit 5", &opt);

    stream_until_closed(s);
    CHECK(s->got.started && s->got.has_exit && s->got.code == 5, "code %d", s->got.code);
    CHECK(s->got.out_eof == 1 && s->got.err_eof == 1, "%u %u", s->got.out_eof, s->got.err_eof);
    stream_close(s);
    s = exec_shell(d, "echo first; sleep 0.1; echo second >&2; exit 6", &opt);
    stream_until_output(s, "first");
    CHECK(s->got.started && !s->got.has_exit, "not started");
    stream_until_closed(s);
    CHECK(buf_is(&s->got.out, "first\n") && buf_is(&s->got.err, "second\n"), "other output");
    CHECK(s->got.code == 6, "code %d", s->got.code);
    stream_close(s);
    s = exec_args(d, missing, 1, &opt);
    stream_until_closed(s);
    CHECK(!s->got.started && s->got.error_exit_code == 127, "code %d", s->got.error_exit_code);
    stream_close(s);
    opt.open_stdin = true; /* its start is told: somebody waits to write */
    s = exec_shell(d, "cat", &opt);
    stream_until_started(s);
    stream_send(s, TLV_STDIN, NULL, 0);
    stream_until_closed(s);
    CHECK(s->got.code == 0, "code %d", s->got.code);
    stream_close(s);
}

static void exec_shell_on(struct drive *d, struct drive_stream *s, const char *script)
{
    struct exec_options opt = {.late_start = true};
    char *args[] = {text("sh"), text("-c"), text(script)};

    (void)exec_on(d, s, args, 3, &opt);
}

static void one_connection_serves_execs_in_turn(struct drive *d)
{
    struct drive_stream *s = stream_connect(d), *other;
    char *missing[] = {text("/no/such")};
    char script[64];

    for (int i = 0; i < 5; i++) {
        (void)snprintf(script, sizeof(script), "echo %d; echo e%d >&2; exit %d", i, i, i);
        exec_shell_on(d, s, script);
        stream_until_exit(s);
        CHECK(s->got.code == i && !s->got.closed, "%d: code %d", i, s->got.code);
        CHECK(s->got.out_eof == 1 && s->got.err_eof == 1, "%u %u", s->got.out_eof, s->got.err_eof);
        CHECK(s->got.out.used == 2 && s->got.out.data[0] == '0' + i, "%s", buf_text(&s->got.out));
        CHECK(s->got.err.used == 3 && s->got.err.data[1] == '0' + i, "%s", buf_text(&s->got.err));
    }
    /* what one left behind is dead before the next begins, and each is killed like any other */
    exec_shell_on(d, s, "setsid sleep 3331 >/dev/null 2>&1 & exit 7");
    stream_until_exit(s);
    exec_shell_on(d, s, "ps | grep -c '[s]leep 333'");
    stream_until_exit(s);
    CHECK(buf_is(&s->got.out, "0\n"), "%s", buf_text(&s->got.out));
    other = stream_connect(d);
    (void)exec_on(d, other, missing, 1, NULL);
    stream_until_closed(other);
    CHECK(other->got.error_exit_code == 127, "code %d", other->got.error_exit_code);
    stream_close(other);
    exec_shell_on(d, s, "echo up; sleep 3332");
    stream_until_output(s, "up");
    stream_close(s);
    for (int i = 0; i < 100; i++) {
        const struct outcome *o = shell(d, HOST, "ps | grep -c '[s]leep 333'");

        if (buf_is(&o->out, "0\n"))
            return;
    }
    CHECK(false, "still there");
}

/* One with input is not kept: what is sent to it could arrive after its end. */
static void an_exec_with_input_is_the_last(struct drive *d)
{
    struct exec_options opt = {.late_start = true, .open_stdin = true};
    char *args[] = {text("sh"), text("-c"), text("exit 9")};
    struct drive_stream *s = exec_on(d, stream_connect(d), args, 3, &opt);

    stream_until_closed(s);
    CHECK(s->got.code == 9, "code %d", s->got.code);
    stream_close(s);
}

static void few_connections_may_wait_for_an_open(struct drive *d)
{
    enum { IDLE = 6, KEPT = 4 };
    struct drive_stream *idle[IDLE], *half;

    for (int i = 0; i < IDLE; i++) {
        idle[i] = stream_connect(d);
        (void)shell(d, HOST, "true"); /* they are accepted in order */
    }
    half = stream_connect(d);
    stream_send_raw(half, "\x08\x00", 2);
    for (int i = KEPT; i < IDLE; i++)
        stream_until_closed(idle[i]);
    stream_until_closed(half);
    stream_close(half);
    for (int i = 0; i < IDLE; i++) {
        if (i < KEPT) {
            exec_shell_on(d, idle[i], "exit 3");
            stream_until_exit(idle[i]);
            CHECK(idle[i]->got.code == 3, "code %d", idle[i]->got.code);
        }
        stream_close(idle[i]);
    }
}

/* A process that closes its output and goes on is no end; one that leaves it to a child neither. */
static void closed_output_is_not_the_end(struct drive *d)
{
    const struct outcome *o = shell(d, HOST, "echo a; exec >&-; sleep 0.1; echo b >&2; exit 3");

    CHECK(o->code == 3 && buf_is(&o->out, "a\n") && buf_is(&o->err, "b\n"), "code %d", o->code);
    CHECK(o->out_eof == 1 && o->err_eof == 1, "%u %u", o->out_eof, o->err_eof);
    o = shell(d, HOST, "(sleep 0.2; echo late) & exit 4");
    CHECK(o->code == 4 && buf_is(&o->out, "late\n"), "code %d", o->code);
}

static void input_reaches_the_process_whole(struct drive *d)
{
    enum { FRAMES = 700 }; /* 2.8 MB: more than pipe, queue and socket hold together */
    struct exec_options opt = {.open_stdin = true};
    struct drive_stream *s = exec_shell(d, "cat; echo end", &opt);
    static uint8_t block[4096];
    size_t sent = 0;

    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = (uint8_t)('a' + i % 23);
    for (int i = 0; i < FRAMES; i++) {
        stream_send(s, TLV_STDIN, block, sizeof(block));
        sent += sizeof(block);
        /* take the echo meanwhile, or both sides wait for each other */
        stream_until_bytes(s, sent > 262144 ? sent - 262144 : 0);
    }
    stream_send(s, TLV_STDIN, NULL, 0);
    stream_until_closed(s);
    CHECK(s->got.out.used == sent + 4 && s->got.code == 0, "%zu of %zu bytes", s->got.out.used,
          sent);
    for (size_t i = 0; i < sent; i++)
        CHECK(s->got.out.data[i] == block[i % sizeof(block)], "byte %zu differs", i);
    stream_close(s);
}

static void input_nobody_reads_is_no_error(struct drive *d)
{
    struct exec_options opt = {.open_stdin = true};
    struct drive_stream *s = exec_shell(d, "exec <&-; echo closed; sleep 0.2; exit 4", &opt);
    static const uint8_t block[4096];

    stream_until_output(s, "closed");
    for (int i = 0; i < 200; i++)
        stream_send(s, TLV_STDIN, block, sizeof(block));
    stream_until_closed(s);
    CHECK(s->got.has_exit && s->got.code == 4, "code %d", s->got.code);
    stream_close(s);
}

static void output_is_not_lost_when_the_process_ends_at_once(struct drive *d)
{
    const struct outcome *o = shell(d, HOST, "seq 1 200000; echo last >&2");

    CHECK(o->code == 0 && o->out.used == 1288895, "%zu bytes", o->out.used);
    CHECK(memcmp(o->out.data + o->out.used - 7, "200000\n", 7) == 0, "the last line");
    CHECK(buf_is(&o->err, "last\n"), "%s", o->err.data);
}

/* A reader that does not read stops the writer: its counter stands still long before it is done. */
static void a_slow_reader_stops_the_writer(struct drive *d)
{
    struct drive_stream *s =
        exec_shell(d,
                   "i=0; while [ $i -lt 3000 ]; do echo $i > /tmp/at; head -c 4096 /dev/zero; "
                   "i=$((i+1)); done",
                   NULL);
    const struct outcome *o;
    int at = -1, before;

    stream_until_started(s);
    do { /* until it does not move any more */
        before = at;
        o = shell(d, HOST, "sleep 0.5; cat /tmp/at");
        at = (int)strtol((const char *)o->out.data, NULL, 10);
    } while (at != before || at == 0);
    CHECK(at < 2000, "it wrote %d blocks with nobody reading", at);
    stream_until_closed(s);
    CHECK(s->got.out.used == 3000U * 4096 && s->got.code == 0, "%zu bytes", s->got.out.used);
    stream_close(s);
}

static void a_grandchild_that_keeps_the_pipe_does_not_hold_the_end(struct drive *d)
{
    const struct outcome *o = shell(d, HOST, "(sleep 1111 &) ; echo done; exit 6");

    CHECK(o->code == 6 && buf_is(&o->out, "done\n"), "code %d", o->code);
    o = shell(d, HOST, "ps | grep -c '[s]leep 1111'");
    CHECK(buf_is(&o->out, "0\n"), "it lives on: %s", o->out.data);
}

static void disconnect_kills_the_whole_exec(struct drive *d)
{
    struct drive_stream *s = exec_shell(
        d, "setsid sleep 2222 & (trap '' HUP TERM; sleep 2223) & echo up; sleep 2224", NULL);
    const struct outcome *o;

    stream_until_output(s, "up");
    stream_close(s);
    /* the kernel does it, not at once: look until it is so */
    for (int i = 0; i < 100; i++) {
        o = shell(d, HOST, "ps | grep -c '[s]leep 222'");
        if (buf_is(&o->out, "0\n"))
            return;
    }
    CHECK(false, "still there: %s", o->out.data);
}

static void exec_cgroups_go_away(struct drive *d)
{
    const struct outcome *o;

    for (int i = 0; i < 100; i++) {
        o = shell(d, HOST, "ls -d /sys/fs/cgroup/exec-* | wc -l");
        if (buf_is(&o->out, "1\n")) /* its own */
            return;
    }
    CHECK(false, "left: %s", o->out.data);
}

/* Only one in which nothing was left: the others are killed and go away. */
static void a_clean_cgroup_serves_the_next_exec(struct drive *d)
{
    char first[64];
    const struct outcome *o = shell(d, HOST, "cat /proc/self/cgroup");

    CHECK(o->out.used > 0 && o->out.used < sizeof(first), "%zu", o->out.used);
    (void)snprintf(first, sizeof(first), "%s", (const char *)o->out.data);
    for (int i = 0; i < 3; i++) {
        o = shell(d, HOST, "cat /proc/self/cgroup");
        CHECK(buf_is(&o->out, first), "%s, not %s", o->out.data, first);
    }
    o = shell(d, HOST, "sleep 4441 >/dev/null 2>&1 & cat /proc/self/cgroup");
    CHECK(buf_is(&o->out, first), "%s, not %s", o->out.data, first);
    o = shell(d, HOST, "cat /proc/self/cgroup; ps | grep -c '[s]leep 4441'");
    CHECK(!buf_has(&o->out, first) && buf_has(&o->out, "\n0\n"), "%s", o->out.data);
    exec_cgroups_go_away(d);
}

static void signal_frames_reach_the_process(struct drive *d)
{
    struct drive_stream *s =
        exec_shell(d, "trap 'echo usr1; exit 8' USR1; echo up; while :; do sleep 0.05; done", NULL);
    uint8_t sig[4];

    be32_store(sig, SIGUSR1);
    stream_until_output(s, "up");
    stream_send(s, TLV_SIGNAL, sig, sizeof(sig));
    stream_until_closed(s);
    CHECK(s->got.code == 8 && buf_has(&s->got.out, "usr1"), "code %d", s->got.code);
    stream_close(s);
}

static void a_terminal_for_an_exec(struct drive *d)
{
    static const uint8_t size[] = {0, 90, 0, 30};
    struct exec_options opt = {.tty = true, .open_stdin = true};
    struct drive_stream *s =
        exec_shell(d, "tty; read x; stty size; echo err >&2; echo got $x; exit 7", &opt);

    stream_until_output(s, "/dev/pts/");
    stream_send(s, TLV_RESIZE, size, sizeof(size));
    stream_send(s, TLV_STDIN, "typed\n", 6);
    stream_until_closed(s);
    CHECK(s->got.code == 7 && buf_has(&s->got.out, "30 90\r\nerr\r\ngot typed\r\n"), "%s",
          buf_text(&s->got.out));
    CHECK(s->got.err.used == 0 && s->got.err_eof == 0, "stderr of a terminal");
    /* ctrl-c is the terminal's */
    stream_close(s);
    s = exec_shell(d, "echo up; sleep 1000", &opt);
    stream_until_output(s, "up");
    stream_send(s, TLV_STDIN, "\003", 1);
    stream_until_closed(s);
    CHECK(s->got.code == 130, "code %d", s->got.code);
    stream_close(s);
}

extern const char *probe_program;

static void vsock_and_rings_are_out_of_reach(struct drive *d)
{
    struct exec_options opt = {.open_stdin = true};
    struct drive_stream *s =
        exec_shell(d, "cat > /tmp/probe; chmod 755 /tmp/probe; exec /tmp/probe < /dev/null", &opt);
    static uint8_t bytes[4096];
    FILE *f = fopen(probe_program, "re");
    size_t n;

    CHECK(f, "%s", probe_program);
    while ((n = fread(bytes, 1, sizeof(bytes), f)) > 0)
        stream_send(s, TLV_STDIN, bytes, n);
    (void)fclose(f);
    stream_send(s, TLV_STDIN, NULL, 0);
    stream_until_closed(s);
    CHECK(buf_is(&s->got.out, "vsock 97\nio_uring 38\ninet 0\n"), "%s%s", buf_text(&s->got.out),
          buf_text(&s->got.err));
    stream_close(s);
}

static void a_frame_out_of_place_ends_the_exec(struct drive *d)
{
    struct drive_stream *s = exec_shell(d, "echo up; sleep 3333", NULL);

    stream_until_output(s, "up");
    stream_send(s, TLV_EXIT, NULL, 0);
    stream_until_closed(s);
    CHECK(!s->got.has_exit, "it ended in order");
    stream_close(s);
}

static void setup_ends_the_container_and_its_execs(struct drive *d)
{
    struct drive_stream *s = exec_shell(d, "echo up; sleep 4444", NULL);

    stream_until_output(s, "up");
    remove_container(d, HOST);
    stream_until_closed(s);
    CHECK(s->got.has_exit && s->got.code == 137, "code %d", s->got.code);
    stream_close(s);
    stream_until_closed(host_stream);
    CHECK(host_stream->got.code == 137, "code %d", host_stream->got.code);
    stream_close(host_stream);
}

const struct drive_case exec_cases[] = {
    {"setup_starts_a_container_for_execs", setup_starts_a_container_for_execs, false},
    {"tells_exit_code_and_streams_apart", tells_exit_code_and_streams_apart, false},
    {"arguments_are_a_vector", arguments_are_a_vector, false},
    {"a_missing_program_is_127_and_a_bad_one_126", a_missing_program_is_127_and_a_bad_one_126,
     false},
    {"an_exec_in_nothing_is_refused", an_exec_in_nothing_is_refused, false},
    {"runs_in_the_container_and_its_own_cgroup", runs_in_the_container_and_its_own_cgroup, false},
    {"as_another_user", as_another_user, false},
    {"a_late_start_comes_before_anything_else", a_late_start_comes_before_anything_else, false},
    {"one_connection_serves_execs_in_turn", one_connection_serves_execs_in_turn, false},
    {"an_exec_with_input_is_the_last", an_exec_with_input_is_the_last, false},
    {"few_connections_may_wait_for_an_open", few_connections_may_wait_for_an_open, false},
    {"closed_output_is_not_the_end", closed_output_is_not_the_end, false},
    {"input_reaches_the_process_whole", input_reaches_the_process_whole, false},
    {"input_nobody_reads_is_no_error", input_nobody_reads_is_no_error, false},
    {"output_is_not_lost_when_the_process_ends_at_once",
     output_is_not_lost_when_the_process_ends_at_once, false},
    {"a_slow_reader_stops_the_writer", a_slow_reader_stops_the_writer, false},
    {"a_grandchild_that_keeps_the_pipe_does_not_hold_the_end",
     a_grandchild_that_keeps_the_pipe_does_not_hold_the_end, false},
    {"disconnect_kills_the_whole_exec", disconnect_kills_the_whole_exec, false},
    {"exec_cgroups_go_away", exec_cgroups_go_away, false},
    {"a_clean_cgroup_serves_the_next_exec", a_clean_cgroup_serves_the_next_exec, false},
    {"signal_frames_reach_the_process", signal_frames_reach_the_process, false},
    {"a_terminal_for_an_exec", a_terminal_for_an_exec, false},
    {"vsock_and_rings_are_out_of_reach", vsock_and_rings_are_out_of_reach, false},
    {"a_frame_out_of_place_ends_the_exec", a_frame_out_of_place_ends_the_exec, false},
    {"setup_ends_the_container_and_its_execs", setup_ends_the_container_and_its_execs, false},
};
const size_t n_exec_cases = sizeof(exec_cases) / sizeof(exec_cases[0]);
