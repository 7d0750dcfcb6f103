/* SPDX-License-Identifier: Apache-2.0 */
/* Start at fake_program_run: command by command, each produces chunks until it is done or waits. */
#include "fakes/fake-program.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/numparse.h"
#include "base/str.h"
#include "event/loop.h"
#include "wire/tlv.h"

#define CHUNK_BYTES 4096U
#define STDIN_MAX (64U << 10)
#define CHUNKS_PER_TURN 64

struct command {
    char **argv; /* NULL-terminated, owned */
    bool to_stderr;
};

enum outcome { DONE, CHUNK, WAIT };

struct fake_program {
    struct loop *loop;
    const struct fake_program_ops *ops;
    void *ud;
    char *hostname;
    struct command *commands;
    size_t n_commands, at;
    bool begun;     /* the current command has run its first step */
    uint64_t count; /* of its output */
    struct loop_source *timer, *more;
    bool timer_fired;
    struct buf chunk; /* not taken yet */
    uint8_t chunk_type;
    struct buf in;
    bool in_eof, in_short, ignore_term;
    int status;      /* of the last command */
    unsigned signal; /* it dies of this */
    bool oom, over;
};

/* ---- commands */

static uint64_t number_of(const char *s, uint64_t fallback)
{
    uint64_t v;

    return s && parse_u64(s, UINT64_MAX, &v) == 0 ? v : fallback;
}

static enum outcome run_echo(struct fake_program *p, char **argv)
{
    bool once = p->begun;

    if (once)
        return DONE;
    for (size_t i = 1; argv[i]; i++)
        (void)buf_printf(&p->chunk, "%s%s", i > 1 ? " " : "", argv[i]);
    (void)buf_append(&p->chunk, "\n", 1);
    return CHUNK;
}

static enum outcome run_err(struct fake_program *p, char **argv)
{
    p->chunk_type = TLV_STDERR;
    return run_echo(p, argv);
}

/* echo into its termination log */
static enum outcome run_bye(struct fake_program *p, char **argv)
{
    p->chunk_type = TLV_TERMINATION;
    return run_echo(p, argv);
}

static enum outcome run_args(struct fake_program *p, char **argv)
{
    if (p->begun)
        return DONE;
    for (size_t i = 1; argv[i]; i++)
        (void)buf_printf(&p->chunk, "%s\n", argv[i]);
    return CHUNK;
}

static enum outcome run_hostname(struct fake_program *p, char **argv)
{
    if (p->begun)
        return DONE;
    (void)buf_printf(&p->chunk, "%s\n", p->hostname);
    return CHUNK;
}

static enum outcome run_true(struct fake_program *p, char **argv)
{
    return DONE;
}

static enum outcome run_false(struct fake_program *p, char **argv)
{
    p->status = 1;
    return DONE;
}

static enum outcome run_exit(struct fake_program *p, char **argv)
{
    p->status = (int)(number_of(argv[1], 0) & 255);
    p->at = p->n_commands; /* no further command */
    return DONE;
}

static enum outcome run_pause(struct fake_program *p, char **argv)
{
    return WAIT;
}

static enum outcome run_sleep(struct fake_program *p, char **argv)
{
    if (!p->begun) {
        p->timer_fired = false;
        if (argv[1] && argv[1][0] >= '0' && argv[1][0] <= '9')
            loop_timer_set_after_ms(p->timer, (uint64_t)(strtod(argv[1], NULL) * 1000));
        return WAIT;
    }
    return p->timer_fired ? DONE : WAIT;
}

static enum outcome run_cat(struct fake_program *p, char **argv)
{
    size_t n = p->in.used < CHUNK_BYTES ? p->in.used : CHUNK_BYTES;

    if (n == 0)
        return p->in_eof ? DONE : WAIT;
    (void)buf_append(&p->chunk, p->in.data, n);
    buf_consume(&p->in, n);
    if (p->in_short && p->in.used <= STDIN_MAX / 2) {
        p->in_short = false;
        p->ops->stdin_room(p->ud);
    }
    return CHUNK;
}

static enum outcome run_yes(struct fake_program *p, char **argv)
{
    uint64_t left = number_of(argv[1], UINT64_MAX) - p->count;

    if (left == 0)
        return DONE;
    for (; left && p->chunk.used + 2 <= CHUNK_BYTES; left--, p->count++)
        (void)buf_append(&p->chunk, "y\n", 2);
    return CHUNK;
}

static enum outcome run_lines(struct fake_program *p, char **argv)
{
    uint64_t n = number_of(argv[1], 1);

    if (p->count >= n)
        return DONE;
    for (; p->count < n && p->chunk.used + 32 <= CHUNK_BYTES; p->count++)
        (void)buf_printf(&p->chunk, "line %010llu\n", (unsigned long long)p->count);
    return CHUNK;
}

static enum outcome run_bytes(struct fake_program *p, char **argv)
{
    uint64_t left = number_of(argv[1], 0) - p->count;
    size_t n = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
    uint8_t *to = buf_reserve(&p->chunk, CHUNK_BYTES);

    if (n == 0 || !to)
        return DONE;
    memset(to, 'x', n);
    p->chunk.used += n;
    p->count += n;
    return CHUNK;
}

static enum outcome run_crash(struct fake_program *p, char **argv)
{
    p->signal = (unsigned)number_of(argv[1], SIGSEGV);
    return DONE;
}

static enum outcome run_oom(struct fake_program *p, char **argv)
{
    p->signal = SIGKILL;
    p->oom = true;
    return DONE;
}

static enum outcome run_ignore_term(struct fake_program *p, char **argv)
{
    p->ignore_term = true;
    return DONE;
}

static const struct {
    const char *name;
    enum outcome (*run)(struct fake_program *p, char **argv);
} table[] = {
    {"echo", run_echo},         {"err", run_err},     {"args", run_args},
    {"hostname", run_hostname}, {"true", run_true},   {"false", run_false},
    {"exit", run_exit},         {"pause", run_pause}, {"httpd", run_pause},
    {"nginx", run_pause},       {"sleep", run_sleep}, {"cat", run_cat},
    {"yes", run_yes},           {"lines", run_lines}, {"bytes", run_bytes},
    {"crash", run_crash},       {"oom", run_oom},     {"ignore-term", run_ignore_term},
    {"bye", run_bye},
};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static int find(const char *path)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (strcmp(table[i].name, base_name(path)) == 0)
            return (int)i;
    return -1;
}

/* ---- shell lines */

static struct command *add_command(struct fake_program *p)
{
    p->commands = xrealloc(p->commands, p->n_commands + 1, sizeof(*p->commands));
    p->commands[p->n_commands] = (struct command){0};
    return &p->commands[p->n_commands++];
}

/* One word at *s, quotes removed. NULL at the end of the command. */
static char *next_word(const char **s)
{
    struct buf word;
    char quote = '\0';

    *s += strspn(*s, " \t");
    if (!**s || strchr(";\n&|", **s))
        return NULL;
    buf_init(&word, 64U << 10);
    for (; **s && (quote || !strchr(" \t;\n&|", **s)); (*s)++) {
        if (quote ? **s == quote : (**s == '\'' || **s == '"'))
            quote = quote ? '\0' : **s;
        else
            (void)buf_append(&word, *s, 1);
    }
    return buf_take_str(&word);
}

static void parse_shell(struct fake_program *p, const char *s)
{
    while (*s) {
        struct command c = {0};
        char *word;

        while ((word = next_word(&s))) {
            if (strcmp(word, ">") == 0 || strcmp(word, "1>") == 0) { /* ">&2": '&' ends a word */
                c.to_stderr = true;
                s += strspn(s, "&2");
            } else if (c.argv || strcmp(word, "exec") != 0) {
                strv_push(&c.argv, word);
            }
            free(word);
        }
        if (c.argv)
            *add_command(p) = c;
        s += strspn(s, ";\n&| \t");
    }
}

/* ---- life */

static void finish(struct fake_program *p, int code, unsigned sig)
{
    p->over = true;
    loop_timer_set(p->timer, UINT64_MAX);
    p->ops->on_exit(p->ud, code, sig, p->oom);
}

/* The chunk is taken in full. */
static bool give_chunk(struct fake_program *p)
{
    size_t n;

    if (p->chunk.used == 0)
        return true;
    n = p->ops->output(p->ud, p->chunk_type, p->chunk.data, p->chunk.used);
    buf_consume(&p->chunk, n);
    return p->chunk.used == 0;
}

static enum outcome run_step(struct fake_program *p)
{
    struct command *c = &p->commands[p->at];
    int i = find(c->argv[0]);
    enum outcome o;

    p->chunk_type = c->to_stderr ? TLV_STDERR : TLV_STDOUT;
    if (i < 0) { /* only within a shell line */
        if (p->begun)
            return DONE;
        p->status = 127;
        p->chunk_type = TLV_STDERR;
        (void)buf_printf(&p->chunk, "sh: %s: not found\n", c->argv[0]);
        o = CHUNK;
    } else {
        if (!p->begun)
            p->status = 0;
        o = table[i].run(p, c->argv);
    }
    p->begun = true;
    return o;
}

void fake_program_run(struct fake_program *p)
{
    for (int n = 0; !p->over; n++) {
        if (n == CHUNKS_PER_TURN) {
            loop_defer_arm(p->more);
            return;
        }
        if (!give_chunk(p))
            return;
        if (p->signal) {
            finish(p, 128 + (int)p->signal, p->signal);
            return;
        }
        if (p->at >= p->n_commands) {
            finish(p, p->status, 0);
            return;
        }
        switch (run_step(p)) {
        case DONE:
            p->at++;
            p->begun = false;
            p->count = 0;
            break;
        case CHUNK:
            break;
        case WAIT:
        default:
            return;
        }
    }
}

static void on_timer(struct loop_source *s, void *ud)
{
    struct fake_program *p = ud;

    p->timer_fired = true;
    fake_program_run(p);
}

static void on_more(struct loop_source *s, void *ud)
{
    fake_program_run(ud);
}

size_t fake_program_stdin(struct fake_program *p, const uint8_t *bytes, size_t n)
{
    size_t room = STDIN_MAX - p->in.used;

    if (n == 0)
        p->in_eof = true;
    p->in_short = n > room;
    n = n < room ? n : room;
    (void)buf_append(&p->in, bytes, n);
    loop_defer_arm(p->more);
    return n;
}

void fake_program_signal(struct fake_program *p, unsigned sig)
{
    if (p->over || sig == 0 || sig == SIGCHLD || sig == SIGURG || sig == SIGWINCH ||
        sig == SIGCONT || (sig == SIGTERM && p->ignore_term))
        return;
    buf_clear(&p->chunk);
    finish(p, 128 + (int)sig, sig);
}

int fake_program_new(struct loop *loop, char **argv, size_t n, const char *hostname,
                     bool open_stdin, bool unknown_runs, const struct fake_program_ops *ops,
                     void *ud, struct fake_program **ret)
{
    struct fake_program *p;
    bool shell;

    if (n && strcmp(base_name(argv[0]), "busybox") == 0) {
        argv++;
        n--;
    }
    if (n == 0)
        return 127;
    if (strcmp(base_name(argv[0]), "noexec") == 0)
        return 126;
    shell = n >= 3 && strcmp(base_name(argv[0]), "sh") == 0 && strcmp(argv[1], "-c") == 0;
    if (!shell && find(argv[0]) < 0 && !unknown_runs)
        return 127;
    p = xcalloc(1, sizeof(*p));
    p->loop = loop;
    p->ops = ops;
    p->ud = ud;
    p->hostname = str_dup(hostname);
    p->in_eof = !open_stdin;
    buf_init(&p->chunk, 1U << 20);
    buf_init(&p->in, STDIN_MAX);
    if (shell) {
        parse_shell(p, argv[2]);
    } else {
        struct command *c = add_command(p);

        for (size_t i = 0; i < n; i++)
            strv_push(&c->argv, i == 0 && find(argv[0]) < 0 ? "pause" : argv[i]);
    }
    if (loop_add_timer(loop, on_timer, p, &p->timer) < 0 ||
        loop_add_defer(loop, on_more, p, &p->more) < 0)
        abort();
    *ret = p;
    return 0;
}

void fake_program_free(struct fake_program *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_commands; i++)
        strv_free(p->commands[i].argv);
    free(p->commands);
    loop_remove(p->timer);
    loop_remove(p->more);
    buf_done(&p->chunk);
    buf_done(&p->in);
    free(p->hostname);
    free(p);
}
